"""An app of guarded tasks: what dies, is paused and is sent twice in the tests of faults."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from celery import Celery, shared_task

from reliable_tasks import IdempotentTask, setup
from reliable_tasks.testing import Ledger

SETTINGS_VARIABLE = "GUARDED_SETTINGS"
MANY = 1_000  # deaths: where a test kills at random, none of its jobs is to blame

app = Celery("guarded")
setup(
    app,
    {
        "broker_connection_retry_on_startup": True,
        "worker_prefetch_multiplier": 1,
        "broker_transport_options": {
            "visibility_timeout": 3,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 2,
        },
        "reliable_tasks_lease_seconds": 2,
        **json.loads(os.environ.get(SETTINGS_VARIABLE, "{}")),
    },
)


def settings_env(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what to add to a worker's environment, so that the app takes these *settings*."""
    return {SETTINGS_VARIABLE: json.dumps(settings)}


class FencedSink:
    """
    What a database with a fencing column does, beside the ledger.

    It remembers the highest token that it has seen for each job, and refuses a lower one.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def write(self, kind: str, job: str, token: int) -> bool:
        """Write a line of *kind* unless a higher token was seen: then ``refused``."""
        path = self._ledger.path.with_name("highest-tokens")
        with path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            seen = [json.loads(line) for line in file]
            highest = max((token for name, token in seen if name == job), default=0)
            accepted = token >= highest
            self._ledger.write(kind if accepted else "refused", job, token=token)
            file.write(json.dumps([job, token]) + "\n")
        return accepted


def begin(task: Any, job: str) -> Ledger:
    """Note that an execution of *job* has begun."""
    ledger = Ledger.from_environment()
    lease = task.lease
    ledger.write(
        "begin",
        job,
        token=lease.token,
        attempt=lease.attempt,
        crashes=lease.crashes,
        id=task.request.id,
    )
    return ledger


@shared_task(base=IdempotentTask, bind=True, max_crashes=MANY)
def work(self: Any, job: str, before: float = 0.0, after: float = 0.0) -> dict[str, Any]:
    """Take effect between two pauses."""
    ledger = begin(self, job)
    time.sleep(before)
    ledger.effect(job, token=self.lease.token)
    time.sleep(after)
    return {"job": job, "token": self.lease.token}


@shared_task(base=IdempotentTask, bind=True, idempotency_key=("job",), max_crashes=MANY)
def keyed(self: Any, job: str, before: float = 0.0) -> dict[str, Any]:
    """Take effect once for all messages of one job."""
    ledger = begin(self, job)
    time.sleep(before)
    ledger.effect(job, token=self.lease.token)
    return {"job": job, "token": self.lease.token}


@shared_task(base=IdempotentTask, bind=True, lease_seconds=1)
def longer_than_its_lease(self: Any, job: str, seconds: float) -> dict[str, Any]:
    """Take effect after several leases."""
    ledger = begin(self, job)
    time.sleep(seconds)
    ledger.effect(job, token=self.lease.token)
    return {"job": job, "token": self.lease.token}


@shared_task(base=IdempotentTask, bind=True, max_crashes=MANY)
def fenced(self: Any, job: str, seconds: float) -> dict[str, Any]:
    """Take effect in a sink that refuses a token lower than one it has seen."""
    ledger = begin(self, job)
    sink = FencedSink(ledger)
    sink.write("opened", job, self.lease.token)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.05)
    written = sink.write("effect", job, self.lease.token)
    return {"job": job, "token": self.lease.token, "written": written}


@shared_task(base=IdempotentTask, bind=True, max_crashes=MANY)
def fails_once_taken_over(self: Any, job: str, seconds: float) -> str:
    """Return a value, but raise in an execution that took over from another."""
    ledger = begin(self, job)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.05)
    ledger.write("end", job)
    if self.lease.crashes:
        raise ValueError(job)
    return "the value of the first execution"


@shared_task(base=IdempotentTask, bind=True)
def retried(self: Any, job: str) -> int:
    """Fail twice, by Celery's own retry."""
    ledger = begin(self, job)
    if self.request.retries < 2:
        raise self.retry(countdown=0.1, max_retries=5)
    ledger.effect(job, token=self.lease.token)
    return int(self.lease.attempt)


@shared_task(
    base=IdempotentTask,
    bind=True,
    autoretry_for=(ConnectionError,),
    retry_backoff=False,
    default_retry_delay=0.1,
)
def retried_by_itself(self: Any, job: str) -> int:
    """Fail twice, with an error that Celery retries."""
    ledger = begin(self, job)
    if self.request.retries < 2:
        raise ConnectionError(job)
    ledger.effect(job, token=self.lease.token)
    return int(self.lease.attempt)


@shared_task(base=IdempotentTask, bind=True, lease_seconds=1, max_crashes=3)
def poison(self: Any, job: str) -> None:
    """Kill the process, each time."""
    begin(self, job)
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(base=IdempotentTask, bind=True, lease_seconds=1, max_crashes=3)
def leave(self: Any, job: str) -> None:
    """End the process politely, each time."""
    begin(self, job)
    sys.exit(3)
