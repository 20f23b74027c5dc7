"""Budgets and breakers, kept by the processes of real workers together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery, Task

from reliable_tasks.core.keys import limit_key
from reliable_tasks.testing import Database, Ledger, Server, connected_app, eventually
from reliable_tasks.testing.fixtures import StartWorker
from tests.integration.apps.limited import (
    ATTEMPTS,
    RETRIES_PER_SECOND,
    budgeted,
    guarded,
    plain,
    repaired,
)

JOBS = 20
TIMEOUT = 60.0


@pytest.fixture
def there(valkey: Server) -> Database:
    """Broker and store; that both kinds of servers count alike is the contract's."""
    return valkey.new_database()


@pytest.fixture
def app(there: Database, worker: StartWorker) -> Iterator[Celery]:
    """An app that publishes to a worker of two processes."""
    worker("tests.integration.apps.limited", concurrency=2, env=there.celery_env)
    with connected_app(there.url) as app:
        yield app


def test_processes_share_a_budget(app: Celery, ledger: Ledger) -> None:
    """What all retry together is as many a second as the budget allows, however short the waits."""
    results = [app.send_task(budgeted.name, (str(number),)) for number in range(JOBS)]
    eventually(lambda: len(ledger.counts("begun")) == JOBS, timeout=TIMEOUT)
    repaired(ledger).touch()
    for result in results:
        result.get(timeout=TIMEOUT)

    begun = sorted(entry.at for entry in ledger.entries("begun"))
    retries = len(begun) - JOBS
    assert retries >= JOBS
    assert begun[-1] - begun[0] > retries / RETRIES_PER_SECOND - 2


@pytest.mark.parametrize("task", [plain, guarded], ids=["plain", "guarded"])
def test_a_breaker_saves_attempts(app: Celery, there: Database, ledger: Ledger, task: Task) -> None:
    """While the service is down jobs are put off with their attempts; then all of them end well."""

    def calls() -> int:
        return ledger.counts("begun").total()

    results = [app.send_task(task.name, (str(number),)) for number in range(JOBS)]
    with there.client() as client:
        key = limit_key("", "breaker", "service")
        eventually(lambda: client.hexists(key, "u"), timeout=TIMEOUT)
    before = calls()
    eventually(lambda: calls() >= before + 2, timeout=TIMEOUT)  # two probes, a second apart
    wasted = calls()
    repaired(ledger).touch()
    answers = [result.get(timeout=TIMEOUT) for result in results]

    assert answers == [str(number) for number in range(JOBS)]
    assert wasted < JOBS
    assert max(ledger.counts("begun").values()) <= ATTEMPTS
