"""Jobs under faults: publish, break, wait until all is settled, and count apart."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from celery import Celery

from reliable_tasks.core.keys import message_key
from reliable_tasks.core.records import Record
from reliable_tasks.core.store import Store
from reliable_tasks.testing import (
    Database,
    Entry,
    Ledger,
    WorkerFailed,
    WorkerProcess,
    connected_app,
    eventually,
)
from reliable_tasks.testing.fixtures import StartWorker
from tests.integration.apps.guarded import settings_env
from tests.integration.grounds import Ground
from tests.stores import redis_store

APP = "tests.integration.apps.guarded"
READY = frozenset({"SUCCESS", "FAILURE", "REVOKED"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a set of jobs, by their effects; each list names the jobs."""

    lost: list[str]
    never_begun: list[str]  # lost without a begin line and without a record: nobody ever started it
    doubled: dict[str, int]  # effects beyond the first
    excused: dict[str, int]  # effects whose process was killed before it could begin another job

    @property
    def inexcusable(self) -> dict[str, int]:
        """Jobs with more effects than those beyond the first that a kill excuses."""
        return {job: n for job, n in self.doubled.items() if n > self.excused.get(job, 0)}


@dataclass(slots=True)
class Campaign:
    """One ground, its workers and the effects of their jobs."""

    ground: Ground
    ledger: Ledger
    app: Celery
    records: Store
    start_worker: StartWorker
    settings: Mapping[str, Any] = field(default_factory=dict)
    killed: set[int] = field(default_factory=set)
    published: list[str] = field(default_factory=list)
    unnoted: set[str] = field(default_factory=set)

    def worker(self, **options: Any) -> WorkerProcess:
        """Start a worker of the guarded app."""
        settings = {**self.settings, **options.pop("settings", {})}
        env = {**self.ground.env, **settings_env(settings)}
        return self.start_worker(APP, env=env, **options)

    # --- sending --------------------------------------------------------------------------

    def send(
        self, task: Any, job: str, *args: Any, job_id: str | None = None, **options: Any
    ) -> Any:
        """Publish *job* under its own name as task id, with the task's class in the producer."""
        kwargs = options.pop("kwargs", {})
        mine = self.app.tasks[task.name]
        self.published.append(job_id or job)
        return mine.apply_async((job, *args), kwargs, task_id=job_id or job, **options)

    def send_all(self, task: Any, jobs: Iterable[str], **kwargs: Any) -> None:
        """Publish each job once."""
        for job in jobs:
            self.send(task, job, kwargs=kwargs)

    def result(self, job: str) -> Any:
        """Return the handle of a job's result."""
        return self.app.AsyncResult(job)

    # --- looking --------------------------------------------------------------------------

    def record(self, task: Any, job: str) -> Record | None:
        """Return the record of a job whose identity is its message."""
        return self.records.peek(message_key("", task.name, job))

    def begins(self, job: str) -> list[Entry]:
        """Return the executions of a job that have begun."""
        return [entry for entry in self.ledger.entries("begin") if entry.job == job]

    def wait_begun(self, job: str, times: int = 1, timeout: float = 30.0) -> Entry:
        """Wait for an execution of *job*, and return its begin line."""
        eventually(lambda: len(self.begins(job)) >= times, timeout=timeout, message=f"{job} begins")
        return self.begins(job)[times - 1]

    def in_broker(self) -> dict[str, int]:
        """Return what the broker still holds, waiting or not acknowledged."""
        return self.ground.held()

    def note_window(self, task: Any) -> None:
        """Note which jobs the broker does not hold although nobody has begun them."""
        missing = self.ground.missing(self.published)
        self.unnoted |= {job for job in missing if self.record(task, job) is None}

    def not_ready(self, jobs: Iterable[str]) -> list[str]:
        """Return the jobs that have no result."""
        jobs = list(jobs)
        with self.ground.records.client() as client:
            stored = client.mget([f"celery-task-meta-{job}" for job in jobs])
        ready = [self._is_ready(meta) for meta in stored]
        return [job for job, is_ready in zip(jobs, ready, strict=True) if not is_ready]

    def _is_ready(self, meta: bytes | None) -> bool:
        return meta is not None and self.app.backend.decode(meta)["status"] in READY

    def wait_settled(self, jobs: Iterable[str], timeout: float = 60.0) -> None:
        """
        Wait until the broker holds nothing and each job has a result.

        Once the broker is empty nothing will happen any more, so a job without a result is
        lost then, and left to the verdict.

        Raises:
            AssertionError: Something is stuck in the broker; its jobs are named.
        """
        jobs = list(jobs)
        quiet = _Quiet()

        def is_settled() -> bool:
            seconds = quiet.note(not self.in_broker())
            quiet_for = self.ground.quiet
            return seconds > quiet_for + 1.2 or (seconds > quiet_for and not self.not_ready(jobs))

        eventually(
            is_settled,
            timeout=timeout,
            interval=0.1,
            message=lambda: f"settled: {self.in_broker()}, without result {self.not_ready(jobs)}",
        )

    # --- judging --------------------------------------------------------------------------

    def verdict(self, task: Any, jobs: Iterable[str]) -> Verdict:
        """Count the effects of *jobs*, in the ledger alone."""
        counts, begun = self.ledger.counts(), self.ledger.counts("begin")
        lost = [job for job in jobs if not counts[job]]
        return Verdict(
            lost=lost,
            never_begun=[job for job in lost if not begun[job] and self.record(task, job) is None],
            doubled={job: counts[job] - 1 for job in jobs if counts[job] > 1},
            excused=self.excused(),
        )

    def excused(self) -> Counter[str]:
        """
        Count per job the effects that a killed process may not have recorded.

        A child runs one job at a time: only the last effect of a child that was killed, if the
        child had begun nothing since, can lack its record.
        """
        last: dict[int, Entry] = {}
        for entry in self.ledger.entries():
            if entry.pid in self.killed:
                last[entry.pid] = entry
        return Counter(entry.job for entry in last.values() if entry.kind == "effect")

    def kill_child(self, worker: WorkerProcess) -> None:
        """SIGKILL one child, chosen at random."""
        with suppress(WorkerFailed, ProcessLookupError, IndexError):
            victim = random.choice(worker.children())
            self.killed.add(victim)
            worker.kill_child(victim)

    def kill_worker(self, worker: WorkerProcess) -> None:
        """SIGKILL a whole worker, as a machine that dies."""
        self.killed.update(worker.children())
        worker.kill()


class _Quiet:
    """For how long something has been true without a break."""

    def __init__(self) -> None:
        self._since: float | None = None

    def note(self, is_true: bool) -> float:
        """Return the seconds since it became true, 0 while it is not."""
        now = time.monotonic()
        self._since = (self._since or now) if is_true else None
        return 0.0 if self._since is None else now - self._since


class Every:
    """
    Do something again and again in a thread, until the with block ends.

    Args:
        seconds: From one beginning to the next.
        action: What to do; an error in it is raised where the block ends.
    """

    def __init__(self, seconds: float, action: Callable[[], object]) -> None:
        self._seconds, self._action = seconds, action
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self.times = 0

    def _run(self) -> None:
        try:
            while not self._over.wait(self._seconds):
                self._action()
                self.times += 1
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


def names(prefix: str, count: int) -> list[str]:
    """Return the names of *count* jobs."""
    return [f"{prefix}-{number}" for number in range(count)]


@contextmanager
def running(
    ground: Ground,
    ledger: Ledger,
    start_worker: StartWorker,
    *,
    store: Database | None = None,
    **settings: Any,
) -> Iterator[Campaign]:
    """Give a campaign whose connections are closed at the end; *store*: not the ground's place."""
    settings = {**ground.settings, **settings}
    if store is not None:
        settings["reliable_tasks_store_url"] = store.url
    conf = {"result_backend": ground.records.url, **settings}
    with (
        closing(ground),
        connected_app(ground.broker_url, **conf) as app,
        redis_store(store or ground.records) as records,
    ):
        yield Campaign(ground, ledger, app, records, start_worker, settings)
