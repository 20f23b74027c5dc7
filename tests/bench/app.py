"""Tasks that do nothing, plain and guarded, each in a queue of its own."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, signals

from reliable_tasks import IdempotentTask, setup

__all__ = ("app", "guarded", "plain")

app = Celery("bench")
setup(
    app,
    {
        "task_ignore_result": True,
        "broker_connection_retry_on_startup": True,
        "worker_enable_remote_control": True,
    },
)


@signals.after_setup_logger.connect
def be_quiet(**_: Any) -> None:
    """Write no line per task, for lines would make the guard look cheaper beside them."""
    for name in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).setLevel(logging.WARNING)


@app.task(acks_late=True, reject_on_worker_lost=True, queue="plain")
def plain() -> None:
    """Do nothing."""


@app.task(base=IdempotentTask, queue="guarded")
def guarded() -> None:
    """Do nothing, once."""


@app.task(queue="idle")
def idle() -> None:
    """Give the worker a queue to start with."""
