"""Jobs that wait for their next attempt while workers die."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import pytest

from reliable_tasks.testing import Database, Ledger, WorkerProcess, connected_app, eventually
from reliable_tasks.testing.fixtures import StartWorker
from tests.integration.apps.retrying import guarded, unique

APP = "tests.integration.apps.retrying"
JOBS, SECONDS = 300, 60.0


def strike(worker: WorkerProcess) -> int:
    """Kill a child or the whole worker; return how many whole workers that were."""
    if worker.children() and random.random() < 0.7:
        worker.kill_child()
        return 0
    worker.kill()
    worker.start()
    return 1


@pytest.mark.timeout(400)
def test_retries_while_workers_die(database: Database, ledger: Ledger, worker: StartWorker) -> None:
    """
    300 jobs fail twice each, and a child or a whole worker is killed every second or so.

    Each takes effect, at its third attempt or later. A whole worker may take one message with it
    that it has not noted yet, in kombu's own window; a process that dies right after the effect
    may have it done again.
    """
    workers = [worker(APP, concurrency=3, env=database.celery_env) for _ in range(2)]
    strikes, of_workers = 0, 0
    with connected_app(database.url) as app:
        for number in range(JOBS):
            task, wait = random.choice([guarded, unique]), random.choice([0.1, 0.5, 2.0, 4.0])
            app.send_task(task.name, (f"job {number}", 2, wait))
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            time.sleep(random.uniform(0.5, 1.5))
            of_workers += strike(random.choice(workers))
            strikes += 1
        with suppress(AssertionError):
            eventually(lambda: len(ledger.counts()) == JOBS, timeout=60, interval=1)

    counts = ledger.counts()
    doubled = sum(count > 1 for count in counts.values())
    print(f"{strikes} strikes, {of_workers} workers; {JOBS - len(counts)} lost, {doubled} doubled")
    assert JOBS - len(counts) <= of_workers
    assert doubled <= strikes
    assert all(ledger.counts("begun")[job] >= 3 for job in counts)
