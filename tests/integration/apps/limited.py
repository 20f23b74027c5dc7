"""Tasks that share a service, and with it a budget or a breaker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import Celery
from tenacity import wait_fixed

from reliable_tasks import CircuitBreaker, IdempotentTask, RetryBudget, retry_task, setup
from reliable_tasks.testing import Ledger

RETRIES_PER_SECOND = 5
ATTEMPTS = 5

app = Celery("limited")
setup(app, {"broker_connection_retry_on_startup": True})


class Down(Exception):
    """The service does not answer."""


def repaired(ledger: Ledger) -> Path:
    """Return the file whose presence means that the service answers."""
    return ledger.path.with_name("service-is-up")


def call(label: str) -> str:
    """Call the service."""
    ledger = Ledger.from_environment()
    ledger.write("begun", label)
    if not repaired(ledger).exists():
        raise Down
    return label


@app.task(shared=False)
@retry_task(
    on=Down,
    wait=wait_fixed(0.05),
    budget=RetryBudget("service", ratio=0.0, minimum_per_second=RETRIES_PER_SECOND),
)
def budgeted(label: str) -> str:
    return call(label)


def broken(**options: Any) -> Any:
    """Declare a task behind the breaker."""
    breaker = CircuitBreaker("service", failures=2, window=60, open_for=1, probes=1)
    policy = retry_task(on=Down, attempts=ATTEMPTS, wait=wait_fixed(0.05), breaker=breaker)
    return lambda function: app.task(shared=False, **options)(policy(function))


@broken()
def plain(label: str) -> str:
    return call(label)


@broken(base=IdempotentTask)
def guarded(label: str) -> str:
    return call(label)
