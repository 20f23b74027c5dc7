"""Two looks at a system, and what happened between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reliable_tasks.broker.view import QueueView
from reliable_tasks.counting import NAMES

__all__ = ("EventRow", "Look", "QueueRow", "TaskRow", "View", "WorkerLook", "WorkerRow", "compare")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLook:
    """
    What one worker said.

    Attributes:
        pid: Of its main process. Another one has begun to count anew.
        started: How many jobs it has started, by task.
        slots: How many it can run at once; None if it did not say.
        running: How many guarded executions it has; None for a worker without any of ours.
        counts: How often what is rare has happened, by `counting.NAMES`; likewise.
    """

    pid: int
    started: Mapping[str, int]
    slots: int | None = None
    running: int | None = None
    counts: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """
    What was seen at one moment.

    Attributes:
        at: Seconds that only rise.
        workers: Those that answered, by name.
        queues: None if the broker did not answer.
        letters: Dead letters that are kept; None if that is not known.
        gaps: What could not be looked at, and why.
    """

    at: float
    workers: Mapping[str, WorkerLook] = field(default_factory=dict)
    queues: tuple[QueueView, ...] | None = None
    letters: int | None = None
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker: jobs started per second, if that is known, and what it has in hand."""

    name: str
    per_second: float | None
    running: int | None
    slots: int | None


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task: jobs started per second, and since the workers' start."""

    name: str
    per_second: float
    total: int


@dataclass(frozen=True, slots=True)
class EventRow:
    """One kind of event, of `counting.NAMES`: per second, and since the workers' start."""

    name: str
    per_second: float
    total: int


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue: its depth and by how much that rises per second; None: the broker cannot say."""

    name: str
    depth: int
    growth: float | None
    consumers: int | None
    unacked: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """
    What a screen shows.

    Attributes:
        seconds: Between the two looks.
        per_second: Jobs started, over all workers.
        running: Guarded executions, over all workers that say it.
        workers: By name.
        tasks: The busiest first.
        events: In the order of `counting.NAMES`; empty if no worker counts them.
        queues: By name; None if the broker did not answer.
        letters: Dead letters that are kept; None if that is not known.
        notes: What is missing, and why.
    """

    seconds: float
    per_second: float
    running: int
    workers: tuple[WorkerRow, ...]
    tasks: tuple[TaskRow, ...]
    events: tuple[EventRow, ...]
    queues: tuple[QueueRow, ...] | None
    letters: int | None
    notes: tuple[str, ...]


def compare(before: Look, after: Look) -> View:
    """Return what happened between two looks; a worker counts from its second one on."""
    seconds = max(after.at - before.at, 0.001)
    pairs = [(before.workers.get(name), worker) for name, worker in after.workers.items()]
    known = [(old, new) for old, new in pairs if old is not None and old.pid == new.pid]
    tasks = _task_rows(known, after.workers.values(), seconds)
    return View(
        seconds=round(seconds, 3),
        per_second=sum(row.per_second for row in tasks),
        running=sum(worker.running or 0 for worker in after.workers.values()),
        workers=tuple(
            _worker_row(name, before.workers.get(name), worker, seconds)
            for name, worker in sorted(after.workers.items())
        ),
        tasks=tasks,
        events=_event_rows(known, after.workers.values(), seconds),
        queues=_queue_rows(before.queues, after.queues, seconds),
        letters=after.letters,
        notes=tuple(_notes(before, after)),
    )


Pairs = list[tuple[WorkerLook, WorkerLook]]


def _worker_row(name: str, old: WorkerLook | None, new: WorkerLook, seconds: float) -> WorkerRow:
    rate = None
    if old is not None and old.pid == new.pid:
        rate = (sum(new.started.values()) - sum(old.started.values())) / seconds
    return WorkerRow(name, rate, new.running, new.slots)


def _task_rows(known: Pairs, workers: Iterable[WorkerLook], seconds: float) -> tuple[TaskRow, ...]:
    totals, gained = Counter[str](), Counter[str]()
    for worker in workers:
        totals.update(worker.started)
    for old, new in known:
        gained.update(new.started)
        gained.subtract(old.started)
    rows = [TaskRow(name, gained[name] / seconds, total) for name, total in totals.items()]
    return tuple(sorted(rows, key=lambda row: (-row.per_second, -row.total, row.name)))


def _event_rows(
    known: Pairs, workers: Iterable[WorkerLook], seconds: float
) -> tuple[EventRow, ...]:
    counted = [worker.counts for worker in workers if worker.counts is not None]
    if not counted:
        return ()
    totals, gained = Counter[str](), Counter[str]()
    for counts in counted:
        totals.update(counts)
    for old, new in known:
        gained.update(new.counts or {})
        gained.subtract(old.counts or {})
    return tuple(EventRow(name, gained[name] / seconds, totals[name]) for name in NAMES)


def _queue_rows(
    before: tuple[QueueView, ...] | None, after: tuple[QueueView, ...] | None, seconds: float
) -> tuple[QueueRow, ...] | None:
    if after is None:
        return None
    depths = {queue.name: queue.depth for queue in before or ()}
    return tuple(
        QueueRow(
            queue.name,
            queue.depth,
            (queue.depth - depths[queue.name]) / seconds if queue.name in depths else None,
            queue.consumers,
            queue.unacked,
        )
        for queue in sorted(after, key=lambda queue: queue.name)
    )


def _notes(before: Look, after: Look) -> Iterable[str]:
    yield from after.gaps
    if not after.workers and after.queues is not None:
        yield "No worker has answered."
    for name in sorted(before.workers.keys() - after.workers.keys()):
        yield f"{name} has answered before, but not now: it is gone, or busy with a solo task."
    for name, worker in sorted(after.workers.items()):
        if worker.counts is None:
            yield f"{name} has none of our tasks, or an older release: only its starts are counted."
