"""Apps of a test are closed for good, and others of the same broker live on."""

from __future__ import annotations

from celery import Celery

from reliable_tasks.testing import close_app

ADDRESS = "memory://"


def publishing() -> Celery:
    """Return an app that has published a message."""
    app = Celery("shop", broker=ADDRESS, set_as_current=False)
    app.send_task("shop.charge")
    return app


def test_the_next_app_has_connections_of_its_own() -> None:
    """Kombu shares its pools by address; one that was closed, or emptied, is given to nobody."""
    for _ in range(20):  # more than a pool has connections
        close_app(publishing())
