"""Tasks that do nothing, plain and guarded, each in a queue of its own."""

from __future__ import annotations

import logging
import os
from typing import Any

from celery import Celery, signals

from reliable_tasks import IdempotentTask, setup

__all__ = ("RECORDED", "app", "guarded", "plain")

RECORDED = "BENCH_RECORDED"
"""Variable: whether flights are recorded."""

app = Celery("bench")
setup(
    app,
    {
        "task_ignore_result": True,
        "broker_connection_retry_on_startup": True,
        "worker_enable_remote_control": True,
        "reliable_tasks_flight_recorder": RECORDED in os.environ,
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
