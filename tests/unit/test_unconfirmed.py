"""Celery's own events in a worker with greenlets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from reliable_tasks import setup
from reliable_tasks.unconfirmed import UnconfirmedStep


@pytest.fixture
def app() -> Celery:
    """An app whose publishes are confirmed."""
    app = Celery("shop", broker="amqp://", set_as_current=False)
    setup(app, {"broker_transport_options": {"confirm_publish": True, "read_timeout": 5}})
    return app


def options_of_events(app: Celery, pool: Any) -> dict[str, Any]:
    """Return the options of the connection that a worker's events take."""
    consumer = SimpleNamespace(
        app=app,
        pool=pool,
        ensure_connected=lambda connection: connection,
        connection_for_write=app.connection_for_write,
    )
    UnconfirmedStep(consumer)
    connection = consumer.connection_for_write(heartbeat=30)
    assert connection.heartbeat == 30
    return dict(connection.transport_options)


def test_greenlets_wait_for_no_confirmation(app: Celery) -> None:
    """The rest of the options stays, and so do those of other connections."""
    options = options_of_events(app, SimpleNamespace(is_green=True))

    assert options == {"confirm_publish": False, "read_timeout": 5}
    assert app.connection_for_write().transport_options["confirm_publish"]


def test_other_pools_stay_as_they_are(app: Celery) -> None:
    """Where one thread reads the connection at a time, a confirmation reaches who waits for it."""
    options = options_of_events(app, SimpleNamespace(is_green=False))

    assert options == {"confirm_publish": True, "read_timeout": 5}
