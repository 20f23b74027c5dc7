"""Tasks that fail as often as they are told to, and are tried again through the queue."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from time import sleep
from typing import Any

from celery import Celery, Task
from kombu.exceptions import OperationalError
from tenacity import stop_after_delay, wait_fixed

from reliable_tasks import GaveUp, IdempotentTask, UniqueTask, retry_inline, retry_task, setup
from reliable_tasks.testing import Ledger

SETTINGS_VARIABLE = "RETRYING_SETTINGS"


class Refusing(Celery):
    """An app whose broker refuses some retries: those of a job for which a file lies there."""

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Publish, unless it is a retry that is to be refused."""
        if options.get("retries") and args and _is_refused(args[0]):
            raise OperationalError("refused by the test")
        return super().send_task(name, args, kwargs, **options)


def refusals(ledger: Ledger, label: str) -> Path:
    """Return the file with the number of retries of *label* that are refused."""
    return ledger.path.with_name(f"refuse-{label}")


def _is_refused(label: Any) -> bool:
    path = refusals(Ledger.from_environment(), label)
    left = int(path.read_text()) if path.exists() else 0
    if left:
        path.write_text(str(left - 1))
    return left > 0


app = Refusing("retrying")
setup(
    app,
    {
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            "visibility_timeout": 3,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 2,
        },
        "worker_prefetch_multiplier": 1,
        "reliable_tasks_lease_seconds": 2,
        **json.loads(os.environ.get(SETTINGS_VARIABLE, "{}")),
    },
    heartbeat=False,  # so that long waits go in hops
)


def settings_env(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what to add to a worker's environment, so that the app takes these *settings*."""
    return {SETTINGS_VARIABLE: json.dumps(settings)}


class Down(Exception):
    """A dependency does not answer, and says for how long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def fail(label: str, failures: int, seconds: float) -> int:
    """Note an attempt; fail the first *failures* ones, to be tried again after *seconds*."""
    ledger = Ledger.from_environment()
    ledger.write("begun", label)
    attempt = ledger.counts("begun")[label]
    if attempt <= failures:
        raise Down(seconds)
    ledger.effect(label)
    return attempt


def wait_of(error: Exception) -> float | bool:
    """Wait as long as the dependency says."""
    return error.seconds if isinstance(error, Down) else False


def declare(base: type, name: str, **options: Any) -> Any:
    """Declare the task of a base class."""

    @app.task(base=base, name=f"retrying.{name}", shared=False, **options)
    @retry_task(on=wait_of, attempts=6)
    def work(label: str, failures: int = 2, seconds: float = 0.2) -> int:
        return fail(label, failures, seconds)

    return work


plain = declare(Task, "plain", acks_late=True)
early = declare(Task, "early", acks_late=False)
guarded = declare(IdempotentTask, "guarded")
unique = declare(UniqueTask, "unique", idempotency_key=("label",))
TASKS = (plain, early, guarded, unique)


@app.task(base=IdempotentTask, bind=True, shared=False)
@retry_task(on=wait_of)
def described(self: Any, label: str, failures: int = 1) -> dict[str, Any]:
    """Return what the message of the last attempt says of itself."""
    fail(label, failures, 0.2)
    request = self.request
    return {
        "id": request.id,
        "tenant": request.headers.get("tenant"),
        "priority": request.delivery_info["priority"],
        "queue": request.delivery_info["routing_key"],
        "group": request.group,
        "timelimit": list(request.timelimit),
        "shadow": request.shadow,
        "expires": request.expires,
        "attempt": self.lease.attempt,
    }


@app.task(base=IdempotentTask, bind=True, shared=False)
def by_itself(self: Any, label: str, failures: int, seconds: float) -> int:
    """Publish the next attempt without a decorator."""
    try:
        return fail(label, failures, seconds)
    except Down as error:
        raise self.retry(exc=error, countdown=seconds) from None


@app.task(base=IdempotentTask, shared=False)
def lasting(label: str, seconds: float) -> int:
    """Work for some time."""
    attempt = fail(label, 0, 0)
    sleep(seconds)
    return attempt


@app.task(shared=False)
@retry_task(on=Down, attempts=1_000, wait=wait_fixed(0.4), stop=stop_after_delay(2))
def limited(label: str) -> None:
    """Fail for two seconds in total."""
    fail(label, 1_000, 0)


@app.task(base=IdempotentTask, shared=False)
@retry_task(on=wait_of)
def nested(label: str) -> int:
    """Fail in place first, then go through the queue."""
    return ask(label)


@retry_inline(on=Down, attempts=2, wait=wait_fixed(0.01))
def ask(label: str) -> int:
    """Fail five times."""
    return fail(label, 5, 0.1)


def note(given_up: GaveUp) -> None:
    """Remember that a job was given up."""
    Ledger.from_environment().write(
        "gave up", given_up.args[0], attempts=given_up.attempts, reason=given_up.reason
    )


@app.task(shared=False)
@retry_task(on=wait_of, attempts=2, give_up=note, dead_letter=True)
def hopeless(label: str) -> None:
    """Fail always."""
    fail(label, 1_000, 0.1)


@app.task(base=IdempotentTask, shared=False)
@retry_task(on=wait_of)
def add(label: str, *numbers: int) -> int:
    """Add numbers at the second attempt."""
    fail(label, 1, 0.1)
    return sum(numbers)


@app.task(shared=False)
@retry_task(on=wait_of)
def total(numbers: list[int], label: str) -> int:
    """Add what a group returned, at the second attempt."""
    fail(label, 1, 0.1)
    return sum(numbers)
