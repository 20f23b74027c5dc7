"""What one record says, in words (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from reliable_tasks.core.records import Record, State

__all__ = ("STATES", "Entry", "Name", "Wanted", "entry_of", "name_of")

STATES = ("running", "retrying", "done", "failed", "quarantined", "reserved", "idle")


class Name(NamedTuple):
    """
    The parts of a record's name.

    *identity* is the digest of an idempotency key, or ``@`` and the id of a message that is its
    own key.
    """

    prefix: str
    task: str
    identity: str


def name_of(key: str) -> Name:
    """Return the parts of a record's name; of a name that is none, what can be told apart."""
    _, _, rest = key.partition(":")
    prefix, _, rest = rest.partition(":")
    task, mark, job = rest.rpartition(":@")
    if mark:
        return Name(prefix, task, f"@{job}")
    task, _, digest = rest.rpartition(":")
    return Name(prefix, task, digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    One record. Times in seconds since 1970, by the clock of its store.

    Attributes:
        key: Its name.
        task: The task's name.
        identity: See `Name`.
        job: Id of the job that held the key last; of one that is reserved, if none did.
        state: One of `STATES`, or the letter of a state that only a newer release knows.
        since: When its last execution began, or its reservation; None: not known.
        until: End of the lease, of the wait for a retry, of the retention, or of the reservation.
        is_reserved: Whether a job waits for the key.
        crashes: Executions that ended without a word.
        worker: Name of the node that runs it or ran it last; empty: not known.
    """

    key: str
    task: str
    identity: str
    job: str
    state: str
    since: float | None
    until: float | None
    is_reserved: bool
    crashes: int
    worker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which records are asked for: of one state, and begun so many seconds ago, at least."""

    state: str | None = None
    older_than: float | None = None

    def matches(self, entry: Entry, now: float) -> bool:
        """Whether *entry* is one of them."""
        if self.state == "reserved" and not entry.is_reserved:
            return False
        if self.state not in (None, "reserved", entry.state):
            return False
        if self.older_than is None:
            return True
        return entry.since is not None and now - entry.since >= self.older_than


def entry_of(key: str, record: Record, now: float) -> Entry:
    """
    Return what a record says.

    Args:
        key: Its name.
        record: As it is.
        now: Seconds since 1970.
    """
    name = name_of(key)
    waiting = record.waiting
    is_reserved = waiting is not None and waiting.until_ms > now * 1_000
    rests = record.state is State.IDLE
    until_ms = record.until_ms
    if rests:
        until_ms = waiting.until_ms if is_reserved and waiting is not None else 0
    return Entry(
        key=key,
        task=name.task,
        identity=name.identity,
        job=record.job or (waiting.job if waiting is not None else ""),
        state="reserved" if rests and is_reserved else _word(record.state),
        since=_since(record),
        until=until_ms / 1_000 if until_ms else None,
        is_reserved=is_reserved,
        crashes=len(record.suspects),
    )


def _word(state: State | str) -> str:
    return state.name.lower() if isinstance(state, State) else state


def _since(record: Record) -> float | None:
    """A token is the microsecond at which its execution began, and so is a turn of its call."""
    if record.token:
        return record.token / 1_000_000
    if record.waiting is not None and record.waiting.turn:
        return record.waiting.turn / 1_000_000
    return record.held.since_ms / 1_000 if record.held is not None else None
