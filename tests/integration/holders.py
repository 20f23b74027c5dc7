"""Workers of `apps.holding`, whose jobs take longer than their visibility timeout."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from celery import Celery

from reliable_tasks.testing import Database, Entry, Ledger, WorkerProcess, connected_app, eventually
from tests.integration.apps.holding import QUEUES, SWEEP, holding_env

__all__ = ("SWEEP", "Holders", "holders")

APP = "tests.integration.apps.holding"
SLOTS = {"prefork": 4, "solo": 1}  # in the others so many that repeated jobs find one


@dataclass(slots=True)
class Holders:
    """One database, its workers, and what their jobs noted."""

    database: Database
    ledger: Ledger
    app: Celery
    workers: list[WorkerProcess]
    keyprefix: str

    def send(self, task: str, job: str, seconds: float, **options: Any) -> None:
        """Publish *job* under its own name as task id."""
        options = {"queue": QUEUES[0], **options}
        self.app.send_task(f"{APP}.{task}", [job, seconds], task_id=job, **options)

    def send_to_all(self, task: str, seconds: float, *, name: str, **options: Any) -> None:
        """Publish a job called *name* to each queue."""
        for queue in QUEUES:
            self.send(task, f"{name} {queue}", seconds, queue=queue, **options)

    @contextmanager
    def only(self, worker: WorkerProcess, queue: str) -> Iterator[None]:
        """Have no other worker read *queue* meanwhile."""
        others = [each.name for each in self.workers if each is not worker]
        given = {"destination": others, "reply": True, "timeout": 10, "limit": len(others)}
        assert self.app.control.cancel_consumer(queue, **given)
        try:
            yield
        finally:
            assert self.app.control.add_consumer(queue, **given)

    def begins(self, *names: str) -> Counter[str]:
        """How often each job began whose name begins with one of *names*."""
        return _named(self.ledger.counts("begin"), names)

    def effects(self, *names: str) -> Counter[str]:
        """How often each job took effect whose name begins with one of *names*."""
        return _named(self.ledger.counts(), names)

    def wait_begun(self, job: str, times: int = 1) -> Entry:
        """Wait for an execution of *job*, and return its line."""
        eventually(lambda: self.begins(job)[job] >= times, timeout=60, message=f"{job} begins")
        return [entry for entry in self.ledger.entries("begin") if entry.job == job][times - 1]

    def wait_repeated(self, name: str) -> None:
        """Wait until a job whose name begins with *name* has begun a second time."""
        eventually(
            lambda: max(self.begins(name).values(), default=0) > 1,
            timeout=60,
            message=f"{name} begins again",
        )

    def wait_done(self, count: int, *names: str) -> None:
        """Wait until *count* jobs have taken effect whose name begins with one of *names*."""
        eventually(lambda: len(self.effects(*names)) >= count, timeout=90, message="effects")

    def holder_of(self, entry: Entry) -> WorkerProcess:
        """Return the worker that wrote *entry*."""
        [found] = [each for each in self.workers if entry.pid in {each.pid, *each.children()}]
        return found

    def silences(self) -> list[float]:
        """Return of each message in the index for how many seconds it was not heard of."""
        key = f"{self.keyprefix}unacked_index"
        with self.database.client() as client:
            found = client.zrange(key, 0, -1, withscores=True)
        now = time.time()
        return [now - at for _, at in found]


def _named(counts: Counter[str], names: tuple[str, ...]) -> Counter[str]:
    return Counter({job: count for job, count in counts.items() if job.startswith(names)})


@contextmanager
def holders(
    database: Database, ledger: Ledger, pools: Sequence[str], **given: Any
) -> Iterator[Holders]:
    """
    Start a worker of all queues in each of *pools*, at once.

    Args:
        database: Broker and result backend.
        ledger: Where the jobs note what they do.
        pools: The workers' pools.
        **given: See `apps.holding`.
    """
    env = {**database.celery_env, **ledger.env, **holding_env(**given)}
    keyprefix = given.get("keyprefix", "")
    options = {"global_keyprefix": keyprefix}
    with ExitStack() as stack:
        workers = []
        for pool in pools:
            concurrency = given.get("concurrency", SLOTS.get(pool, 12))
            worker = WorkerProcess(APP, env=env, pool=pool, concurrency=concurrency, queues=QUEUES)
            stack.callback(worker.close)
            workers.append(worker.start())
        for worker in workers:
            worker.wait_ready()
        app = stack.enter_context(connected_app(database.url, broker_transport_options=options))
        yield Holders(database, ledger, app, workers, keyprefix)
