"""
What a store keeps for one key, and what it answers.

One record has two identities. The *key* has the lease, the running execution
and the retention. The *job* (a task id) has facts of its own: how far its
messages got (`line`) and how it ended. The record's own fields describe the job
that held the key last; other jobs of the key have a `Fact` each, if anything
about them must be remembered.

Beside both stands what producers say: which job was reserved and *waits* for the
key, whatever runs there, and which job's window *holds* others back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = (
    "MAX_FACTS",
    "Answer",
    "Busy",
    "Confirmation",
    "Death",
    "Duplicate",
    "Early",
    "Fact",
    "Finished",
    "Granted",
    "Held",
    "Outcome",
    "Poisoned",
    "Record",
    "Reservation",
    "Reserved",
    "Reused",
    "Settled",
    "Stale",
    "State",
    "Superseded",
    "Unreadable",
    "Waiting",
)

MAX_FACTS = 64
"""Jobs beside the record's own that one record remembers; the oldest go first."""


class State(StrEnum):
    """The states of a record, by the letter that is stored."""

    RUNNING = "R"
    RETRYING = "T"
    IDLE = "I"
    DONE = "D"
    FAILED = "F"
    QUARANTINED = "Q"


@dataclass(slots=True)
class Fact:
    """What is remembered of a job that no longer holds its key's record."""

    line: int = 0
    ended: str = ""  # the letter of DONE or FAILED, or nothing
    closed: bool = False
    replays: int = 0
    at_ms: int = 0  # when it was written, or last replayed, by the store's clock
    outcome: bytes | None = None
    delivery: str = ""  # the last one that was answered with the outcome
    token: int = 0  # of the execution that ended the job


@dataclass(frozen=True, slots=True)
class Waiting:
    """The reservation of a job that is being published, or waits in the broker."""

    job: str
    until_ms: int  # when the reservation is over
    turn: int  # places the reservations of one key in order
    payload: str = ""  # digest of the arguments that are compared with those of later calls
    due_ms: int = 0  # when it is to run
    first_ms: int = 0  # the first of the calls that put each other off; 0: it is not put off


@dataclass(frozen=True, slots=True)
class Held:
    """A window in which the calls of other jobs are duplicates of *job*."""

    job: str
    until_ms: int
    since_ms: int = 0  # when the job was reserved


@dataclass(slots=True)
class Record:
    """The state of one key. Times are milliseconds of the store's clock."""

    state: State | str  # a plain string is a state of a newer release
    job: str
    token: int = 0
    delivery: str = ""
    until_ms: int = 0  # end of the lease, of the wait for a retry, or of the retention
    line: int = 0  # the newest message of the job
    retries: int = 0  # of the execution that was granted last
    closed: bool = False
    replays: int = 0
    replayed_ms: int = 0  # when the job was last answered with its outcome
    suspects: tuple[int, ...] = ()  # tokens whose executions ended without a word
    draining: bool = False
    outcome: bytes | None = None
    payload: str = ""
    facts: dict[str, Fact] = field(default_factory=dict)
    waiting: Waiting | None = None
    latest: int = 0  # the highest turn that was published or has begun
    held: Held | None = None
    expires_ms: int | None = None  # None: until it is forgotten


@dataclass(frozen=True, slots=True)
class Death:
    """An execution that ended without a word: its delivery and its token."""

    delivery: str
    token: int


@dataclass(frozen=True, slots=True)
class Granted:
    """
    Run it. *crashes* executions before this one ended without a word.

    *death* is the one whose lease this takes over; a repeated question may not be told.
    """

    token: int
    crashes: int = 0
    death: Death | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Busy:
    """Running elsewhere, or waiting for its retry; *newer*: this is the running job's own retry."""

    remaining_ms: int
    same_job: bool
    newer: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """
    The outcome is there.

    *outcome* is None if its value was not kept. *replays* counts the times that
    this job was answered so, this time included; it is 0 for another job, which
    is told what remains of the retention: *left_ms*, a reading of the store's
    clock that equal answers need not share.
    """

    state: State  # DONE or FAILED
    outcome: bytes | None
    same_job: bool
    replays: int = 0
    left_ms: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Superseded:
    """
    Nothing to do for this copy.

    *reason* is ``closed``, ``older``, ``repeated``, or ``replaced``: a later call took its place.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Early:
    """Later calls put the job off: it is due in *remaining_ms*."""

    remaining_ms: int


@dataclass(frozen=True, slots=True)
class Poisoned:
    """Quarantined after *crashes* executions that ended without an outcome, *death* the last."""

    crashes: int
    death: Death | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Reused:
    """Another job used the key with another payload."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The record is in a state that only a newer release knows."""


Answer = Granted | Busy | Early | Finished | Superseded | Poisoned | Reused | Unreadable


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How an execution ended.

    Args:
        state: DONE, FAILED, RETRYING, or IDLE for an execution that gave the key back.
        data: The stored result or error of DONE and FAILED; None: not kept.
        keep_ms: DONE and FAILED: how long other jobs are answered with it.
            RETRYING: until when the retry has the key for itself, from now.
            IDLE: how long reservations of other jobs are still refused.
        died: IDLE only: the process is ending, which counts as a crash unless it was announced.
    """

    state: State
    data: bytes | None = None
    keep_ms: int = 0
    died: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome is recorded."""


@dataclass(frozen=True, slots=True)
class Stale:
    """
    The token is no longer current; nothing was changed.

    *drop* is True if the job is closed or a newer message of it exists, so that
    this copy may be acknowledged without a successor.
    """

    drop: bool


@dataclass(frozen=True, slots=True)
class Reservation:
    """
    A producer's question: may *job* be published?

    Args:
        job: The task id that the message will have.
        grace_ms: How long the reservation lasts unless it is confirmed, at least 1.
        latest: Whether the job takes the place of one that waits, instead of being its
            duplicate, and waits for one that runs.
        payload: Digest of the arguments. With *latest*, of all: a job that waits with the same
            one is not replaced. Else of those that jobs of one key must share, or ``""``: a job
            with another one is not an equal one.
        delay_ms: Run this long after the call; with *latest*, after the last call.
        limit_ms: With *latest* and *delay_ms*: but not later than this after the first; 0: however
            late.
        hold_ms: As in `Confirmation`, but no longer than *grace_ms* until it is confirmed.
    """

    job: str
    grace_ms: int
    latest: bool = False
    payload: str = ""
    delay_ms: int = 0
    limit_ms: int = 0
    hold_ms: int = 0


@dataclass(frozen=True, slots=True)
class Reserved:
    """
    Publish it, to be run in *delay_ms*.

    *turn* goes into the message, so that a later call can take its place; 0: none can.
    *called_us* is when the store was asked.
    """

    turn: int = 0
    delay_ms: int = 0
    called_us: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """
    An equal job is there already: *job*.

    *reason* is ``queued``, ``running``, ``retrying``, ``done`` or ``failed`` for what it does, or
    ``held`` for a window that is not over. *called_us* is when the store was asked.
    """

    job: str
    reason: str
    called_us: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """
    A producer's word that a reserved *job* was published.

    Args:
        job: The task id.
        keep_ms: The reservation lasts at least this long from now.
        hold_ms: Calls of other jobs are duplicates for this long from the reservation; 0: no longer
            than the job waits and runs.
        at_once: False if it may come a moment later, for nothing goes by it but how long the
            reservation lasts.
    """

    job: str
    keep_ms: int
    hold_ms: int = 0
    at_once: bool = True
