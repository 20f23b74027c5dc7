"""An app that is measured, traced and watched."""

from __future__ import annotations

import os
import time

from celery import Celery
from tenacity import wait_none

from reliable_tasks import IdempotentTask, retry_task, setup
from reliable_tasks.contrib import prometheus

PORT_VARIABLE = "METRICS_PORT"

app = Celery("watched")
setup(
    app,
    {
        "broker_connection_retry_on_startup": True,
        "worker_prefetch_multiplier": 1,
        "reliable_tasks_lease_seconds": 2,
    },
)
if PORT_VARIABLE in os.environ:
    prometheus.instrument(app, port=int(os.environ[PORT_VARIABLE]))


@app.task
def add(x: int, y: int) -> int:
    """A task that is none of ours."""
    return x + y


@app.task(base=IdempotentTask, idempotency_key=("order",))
def charge(order: str, seconds: float = 0.0) -> str:
    """A task with a key."""
    time.sleep(seconds)
    return order


@app.task(base=IdempotentTask, bind=True)
@retry_task(on=OSError, attempts=2, wait=wait_none(), dead_letter=True)
def fetch(self, *, works_at: int) -> int:
    """A task that fails until an attempt; one later than the second never comes."""
    if self.lease.attempt < works_at:
        raise OSError("not yet")
    return self.lease.attempt


@app.task(base=IdempotentTask, lease_seconds=0.5, max_crashes=1)
def die() -> None:
    """A task that ends its process."""
    os._exit(1)
