"""Records of an app by task, state and age, in a bounded look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from time import time
from typing import Any

from reliable_tasks.core.durations import to_ms
from reliable_tasks.core.records import Record
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.inspection.records.entries import STATES, Entry, Wanted, entry_of
from reliable_tasks.inspection.records.places import Ground, TimeOver, grounds_of, within
from reliable_tasks.processes import who

__all__ = ("LIMIT", "Listing", "Look", "records", "worker_of")

LIMIT = 50
MOST = 10_000  # records that one look reads
SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Listing:
    """
    Records, those first whose last execution began last.

    Attributes:
        entries: What was found.
        looked_at: How many records were read for it.
        stopped: Why the look ended before all were seen; empty: it did not.
    """

    entries: list[Entry]
    looked_at: int
    stopped: str = ""


@dataclass(slots=True)
class Look:
    """Reads the records of some places one after another, *MOST* of them and *SECONDS* long."""

    grounds: list[Ground]
    task: str | None = None
    looked_at: int = 0
    stopped: str = ""

    def __iter__(self) -> Iterator[tuple[Ground, str, Record]]:
        for ground in self.grounds:
            first = f"rt1:{ground.prefix}:" + (f"{self.task}:" if self.task else "")
            with closing(within(ground.store.scan(first), SECONDS)) as keys:
                try:
                    yield from self._read(ground, keys)
                except TimeOver:
                    self.stopped = f"{SECONDS:g} s were over"
            if self.stopped:
                return

    def _read(self, ground: Ground, keys: Iterator[str]) -> Iterator[tuple[Ground, str, Record]]:
        for key in keys:
            if self.looked_at >= MOST:
                self.stopped = f"{MOST} records were read"
                return
            self.looked_at += 1
            record = ground.store.peek(key)
            if record is not None:
                yield ground, key, record


def records(
    app: Any,
    *,
    task: str | None = None,
    state: str | None = None,
    older_than: float | None = None,
    limit: int = LIMIT,
) -> Listing:
    """
    List records of an app.

    Args:
        app: The Celery app.
        task: Name of a task; None: of all, those included that the app does not know.
        state: One of `STATES`; None: any. Beside a job that runs, another may be reserved: such
            a record is listed under both.
        older_than: The last execution, or the reservation, began so long ago, in seconds or as a
            `timedelta`.
        limit: How many at most.

    Returns:
        What was found, and whether there may be more.

    Raises:
        ConfigurationError: A state or a time that is none, or the app has no store.
        StoreUnavailable: A store did not answer.
    """
    if state is not None and state not in STATES:
        raise ConfigurationError(f"state: expected one of {', '.join(STATES)}, got {state!r}")
    age = None if older_than is None else to_ms("older_than", older_than, least=0) / 1_000
    wanted, look, now = Wanted(state=state, older_than=age), Look(grounds_of(app), task), time()
    found: list[Entry] = []
    stopped = ""
    for ground, key, record in look:
        entry = entry_of(key, record, now)
        if not wanted.matches(entry, now):
            continue
        if len(found) >= limit:
            stopped = f"{limit} were found"
            break
        found.append(replace(entry, worker=worker_of(ground, record)))
    found.sort(key=lambda entry: entry.since or 0.0, reverse=True)
    return Listing(found, look.looked_at, stopped or look.stopped)


def worker_of(ground: Ground, record: Record) -> str:
    """Return the node that was granted the key last; nothing if it is not known."""
    known = who(ground.store, ground.prefix, record.delivery)
    return str(known.get("worker") or known.get("host") or "")
