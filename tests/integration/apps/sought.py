"""Tasks that can be in every state in which an operator looks for them."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from celery import Celery
from tenacity import wait_fixed

from reliable_tasks import IdempotentTask, UniqueTask, retry_task, setup

FOLDER = "SOUGHT_FOLDER"
SETTINGS = "SOUGHT_SETTINGS"

app = Celery("sought", broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:1/0"))
setup(
    app,
    {
        "broker_connection_retry_on_startup": True,
        "worker_prefetch_multiplier": 1,
        "reliable_tasks_lease_seconds": 2,
        "reliable_tasks_flight_recorder": True,
        **json.loads(os.environ.get(SETTINGS, "{}")),
    },
)


def hold(label: str) -> None:
    """Run until the test lets it go."""
    folder = Path(os.environ[FOLDER])
    (folder / f"{label}-begun").touch()
    while not (folder / label).exists():
        time.sleep(0.02)


@app.task(base=IdempotentTask)
def quick() -> str:
    """End at once."""
    return "a result that nobody shall see"


@app.task(base=IdempotentTask)
def guarded(label: str) -> None:
    """Run until the test lets it go."""
    hold(label)


@app.task
def plain(label: str) -> None:
    """Run until the test lets it go."""
    hold(label)


@app.task(base=IdempotentTask, idempotency_key=("key",))
def keyed(key: str, label: str) -> None:
    """Have the key until the test lets it go."""
    hold(label)


@app.task(base=UniqueTask)
def unique(number: int) -> None:
    """Do nothing."""


@app.task
@retry_task(on=ValueError, attempts=3, wait=wait_fixed(600))
def shaky() -> None:
    """Fail, and be tried again in ten minutes."""
    raise ValueError("a text that nobody shall see")


@app.task(base=IdempotentTask)
@retry_task(on=ValueError, attempts=3, wait=wait_fixed(600))
def guarded_shaky() -> None:
    """Fail, and be tried again in ten minutes."""
    raise ValueError("a text that nobody shall see")


@app.task
@retry_task(on=ValueError, attempts=1, dead_letter=True)
def hopeless() -> None:
    """Fail for good."""
    raise ValueError("a text that nobody shall see")


@app.task(base=IdempotentTask)
def failing() -> None:
    """Fail."""
    raise ValueError("a text that nobody shall see")


@app.task(base=IdempotentTask, max_crashes=1, lease_seconds=1)
def poison() -> None:
    """Kill the process."""
    os.kill(os.getpid(), signal.SIGKILL)


def publish() -> None:
    """Publish what needs no further word to be where it will be."""
    poison.apply_async(task_id="poison")
    quick.apply_async(task_id="done")
    failing.apply_async(task_id="failed")
    hopeless.apply_async(task_id="hopeless")
    quick.apply_async(task_id="expired", expires=-5)
    app.send_task("nobody.knows", task_id="unregistered")
    plain.apply_async(("secret",), task_id="refused", serializer="pickle")
    shaky.apply_async(task_id="retried")
    guarded_shaky.apply_async(task_id="guarded-retried")
    quick.apply_async(task_id="later", countdown=900)
