"""An app whose jobs take longer than its visibility timeout, with the heartbeat or without."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.worker.control import control_command

from reliable_tasks import IdempotentTask, setup
from reliable_tasks.broker import holdings
from reliable_tasks.testing import Ledger

SETTINGS_VARIABLE = "HOLDING_SETTINGS"
SWEEP = 1  # seconds between two looks of a worker into the index
QUEUES = ("north", "east", "south", "west")

given = json.loads(os.environ.get(SETTINGS_VARIABLE, "{}"))
holdings.PATIENCE = given.get("patience", holdings.PATIENCE)
app = Celery("holding")
setup(
    app,
    {
        "broker_connection_retry_on_startup": True,
        "worker_prefetch_multiplier": given.get("prefetch", 1),
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "broker_transport_options": {
            "visibility_timeout": given.get("timeout", 2),
            "unacked_restore_interval": SWEEP,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 2,
            "global_keyprefix": given.get("keyprefix", ""),
        },
        "reliable_tasks_lease_seconds": 2,
        "reliable_tasks_alive_directory": given.get("reports"),
    },
    heartbeat=given.get("heartbeat", True),
)


def holding_env(**given: Any) -> Mapping[str, str]:
    """Return what to add to a worker's environment, so that the app is as *given*."""
    return {SETTINGS_VARIABLE: json.dumps(given)}


@control_command(args=[("seconds", float)])
def wedge(state: Any, seconds: float) -> None:
    """Stand still in the worker's main loop, in gevent's too, whose sleep would not."""
    signal.sigtimedwait((), seconds)


@app.task(shared=False, ignore_result=True)
def work(job: str, seconds: float) -> None:
    """Take effect after a while, as a task that nothing guards."""
    _work(job, seconds)


@app.task(shared=False, base=IdempotentTask)
def guarded_work(job: str, seconds: float) -> None:
    """Take effect after a while, once."""
    _work(job, seconds)


@app.task(shared=False, base=IdempotentTask, lease_seconds=2, max_run=3)
def hung_work(job: str, seconds: float) -> None:
    """Take longer than it may, unless it is the second execution."""
    ledger = Ledger.from_environment()
    _work(job, seconds if not ledger.counts("begin")[job] else 0)


def _work(job: str, seconds: float) -> None:
    ledger = Ledger.from_environment()
    ledger.write("begin", job)
    time.sleep(seconds)
    ledger.effect(job)
