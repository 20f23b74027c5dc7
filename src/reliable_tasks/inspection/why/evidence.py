"""What is known of one job, by who knows it (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reliable_tasks.broker.view import QueueView, Sighting

__all__ = (
    "Ending",
    "Evidence",
    "Gap",
    "Jot",
    "Letter",
    "RecordSeen",
    "RequestSeen",
    "Worker",
)


A_MOMENT = 1.0  # seconds; a worker's main process learns a little later what its children begin


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that was not looked at, or not wholly, and why."""

    source: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSeen:
    """
    What a record says of the job. Times in seconds since 1970.

    Attributes:
        key: The record.
        state: Of this job, by its name in small letters; empty: only its place in the queue of
            its key is known.
        holder: Another job that has the key now, or held it last.
        holder_state: What that other job does.
        since: When the job's, or the holder's, execution was granted.
        until: End of the lease, of the wait for a retry, or of the retention.
        worker: The node that runs it, or ran it last, and its process.
        pid: See *worker*.
        attempt: Which one was granted last, from 1; 0: none.
        hops: How many messages of the job gave way to a later one, that waits.
        is_closed: Whether what hung on the message was sent.
        replays: How often a copy was answered with the outcome.
        crashes: Executions that ended without a word.
        is_draining: Whether its process announced its shutdown.
        reserved_until: Until when producers keep a place for this job.
    """

    key: str
    state: str = ""
    holder: str | None = None
    holder_state: str = ""
    since: float | None = None
    until: float | None = None
    worker: str | None = None
    pid: int | None = None
    attempt: int = 0
    hops: int = 0
    is_closed: bool = False
    replays: int = 0
    crashes: int = 0
    is_draining: bool = False
    reserved_until: float | None = None

    @property
    def is_taken(self) -> bool:
        """Whether another job has the key."""
        return self.holder is not None and self.holder_state in {"running", "retrying"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSeen:
    """
    The job in a worker's hands, as the worker says it.

    Attributes:
        node: The worker.
        state: ``active``: runs; ``reserved``: fetched ahead; ``scheduled``: waits for its ETA.
        task: Its name.
        pid: The process that runs it.
        since: When it began to run.
        eta: When it may begin, ISO 8601.
    """

    node: str
    state: Literal["active", "reserved", "scheduled"]
    task: str | None = None
    pid: int | None = None
    since: float | None = None
    eta: str | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that answered, and the queues that it reads; None: it did not say."""

    node: str
    queues: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """
    What the result backend keeps.

    Attributes:
        status: Celery's word for it.
        error: Class of the error, without its text.
        reason: For REVOKED: ``revoked``, ``expired``, ``terminated`` or ``replaced``.
        at: ISO 8601.
        task: The task's name, if results are kept with it.
        worker: The node, likewise.
    """

    status: str
    error: str | None = None
    reason: str | None = None
    at: str | None = None
    task: str | None = None
    worker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """
    The job among the dead letters.

    *is_refused*: no worker could take its message; *is_unknown*: because of its task's name.
    """

    reason: str
    at: float
    task: str | None = None
    is_refused: bool = False
    is_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Jot:
    """One line of the flight recorder: when, what, where, and its details."""

    at: float
    event: str
    where: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """
    All that is known of one job.

    Attributes:
        task_id: The job.
        now: When it was looked for, seconds since 1970.
        task: Its name.
        record: Its record.
        requests: What workers say of it.
        workers: Those that answered; None: they were not asked.
        asked_at: When they were asked, seconds since 1970.
        revoked_at: Nodes that will drop it when it comes.
        sightings: Its messages.
        queues: The queues that were looked at.
        ending: What the result backend keeps of it.
        letter: Its dead letter.
        jots: What the flight recorder has, the oldest first.
        visibility_timeout: Seconds after which Redis delivers again; None with another broker.
        is_guarded: Whether its task is an `IdempotentTask`; None: unknown.
        gaps: What was not looked at.
    """

    task_id: str
    now: float
    task: str | None = None
    record: RecordSeen | None = None
    requests: tuple[RequestSeen, ...] = ()
    workers: tuple[Worker, ...] | None = None
    asked_at: float | None = None
    revoked_at: tuple[str, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    queues: tuple[QueueView, ...] = ()
    ending: Ending | None = None
    letter: Letter | None = None
    jots: tuple[Jot, ...] = ()
    visibility_timeout: float | None = None
    is_guarded: bool | None = None
    gaps: tuple[Gap, ...] = ()

    @property
    def is_denied(self) -> bool:
        """Whether the worker that runs the job by its record says that it does not."""
        record = self.record
        if record is None or record.since is None or self.asked_at is None:
            return False
        nodes = {each.node for each in self.workers or ()}
        had_begun = record.since + A_MOMENT < self.asked_at  # else it was not yet there
        return had_begun and record.worker in nodes and self.request("active") is None

    @property
    def is_anything(self) -> bool:
        """Whether anybody knows the job."""
        is_recorded = self.record is not None and bool(self.record.state)
        return bool(is_recorded or self.requests or self.sightings or self.ending or self.letter)

    def has_gap(self, source: str) -> bool:
        """Whether one who may know was not asked, or not about everything."""
        return any(each.source == source for each in self.gaps)

    def request(self, state: str) -> RequestSeen | None:
        """Return one in this *state*."""
        return next((each for each in self.requests if each.state == state), None)

    def sighting(self, *states: str) -> Sighting | None:
        """Return the first message in one of these *states*, those that are next first."""
        found = [each for each in self.sightings if each.state in states]
        return min(found, key=lambda each: each.ahead or 0, default=None)

    def queue(self, name: str) -> QueueView | None:
        """Return what is known of a queue."""
        return next((each for each in self.queues if each.name == name), None)

    def readers(self, queue: str) -> tuple[str, ...] | None:
        """Return the workers that read a queue; None: not all have said it, and none that has."""
        if self.workers is None:
            return None
        found = tuple(each.node for each in self.workers if queue in (each.queues or ()))
        is_sure = all(each.queues is not None for each in self.workers)
        return found if found or is_sure else None
