"""The small app: the same tasks under each library."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, current_task

from reliable_tasks.testing import Ledger
from tests.migration.libraries import Library

GATES_VARIABLE = "MIGRATION_GATES"
RETRY_AFTER = 3  # seconds


def build(library: Library, *, broker: str, results: str, locks: str) -> Celery:
    """Return the app with its tasks under *library*."""
    app = Celery("migration", broker=broker, backend=results, set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=1,
        task_publish_retry=False,
        worker_prefetch_multiplier=4,
        broker_transport_options={
            "visibility_timeout": float(os.environ.get("MIGRATION_VISIBILITY", "60")),
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 2,
        },
    )
    library.configure(app, locks)
    _declare(app, library)
    return app


def _declare(app: Celery, library: Library) -> None:
    def task(run: Any, name: str = "", **options: Any) -> None:
        app.task(base=library.base_class, name=name or run.__name__, shared=False, **options)(run)

    for mode, extra in library.modes.items():
        task(work, f"work{mode}", **{**library.long, **extra})
    task(work, "brief", **library.short)
    task(work, "late", **library.long, acks_late=True, reject_on_worker_lost=True)
    task(work, "untold")
    if library.again is not None:
        task(work, "again", **library.again)
    task(listed, **library.short)
    task(fails, **library.long)
    task(retries, bind=True, **library.long)
    again = {"autoretry_for": (ConnectionError,), "default_retry_delay": RETRY_AFTER}
    task(autoretries, bind=True, **again, **library.long)
    app.task(name="after", shared=False)(after)


def work(label: str, colour: str = "red") -> str:
    """Begin, wait while the test holds the gate of *label*, and take effect."""
    ledger = Ledger.from_environment()
    ledger.write("begun", label)
    gate = Path(os.environ[GATES_VARIABLE]) / label
    while gate.exists():
        time.sleep(0.02)
    ledger.effect(label, id=current_task.request.id)
    return label


def listed(values: Any) -> str:
    """Take effect for the first value."""
    return work(values[0])


def fails(label: str) -> None:
    """Take effect, then fail."""
    work(label)
    raise ValueError(label)


def retries(self: Any, label: str) -> str:
    """Take effect at the second attempt."""
    if not self.request.retries:
        raise self.retry(countdown=RETRY_AFTER)
    return work(label)


def autoretries(self: Any, label: str) -> str:
    """Take effect at the second attempt, after an error that Celery retries."""
    if not self.request.retries:
        raise ConnectionError(label)
    return work(label)


def after(*_: Any, label: str) -> str:
    """Take effect as a plain task, in a flow with others."""
    Ledger.from_environment().effect(label)
    return label
