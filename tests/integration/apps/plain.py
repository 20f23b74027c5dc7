"""A plain Celery app: what the servers, workers and nodes of `reliable_tasks.testing` run."""

from __future__ import annotations

import time

from celery import Celery, shared_task

from reliable_tasks.testing import Ledger

app = Celery("plain")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    beat_schedule={"pay": {"task": f"{__name__}.pay", "schedule": 0.5, "args": ["by beat"]}},
)


@shared_task
def pay(job: str) -> str:
    """Take effect at once."""
    Ledger.from_environment().effect(job)
    return job


@shared_task
def pay_slowly(job: str, seconds: float) -> str:
    """Say that it has begun, and take effect after a while."""
    ledger = Ledger.from_environment()
    ledger.write("begun", job)
    time.sleep(seconds)
    ledger.effect(job)
    return job
