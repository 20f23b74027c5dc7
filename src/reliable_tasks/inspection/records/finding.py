"""From what an operator writes to the records that are meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import time
from typing import Any

from reliable_tasks.core.keys import message_key, record_key
from reliable_tasks.core.records import Record
from reliable_tasks.inspection.records.entries import Entry, entry_of
from reliable_tasks.inspection.records.listing import Look, worker_of
from reliable_tasks.inspection.records.places import Ground, grounds_of

__all__ = ("Found", "find")


@dataclass(frozen=True, slots=True)
class Found:
    """A record, where it lives, and what it says."""

    ground: Ground
    record: Record
    entry: Entry


def find(app: Any, key: str) -> tuple[list[Found], str]:
    """
    Find the records that *key* means.

    Args:
        app: The Celery app.
        key: The name of a record (``rt1:...``), a task id, or the digest of a key as `records`
            gives it.

    Returns:
        The records, more than one if jobs of several keys have one id; and why the look ended
        before all were read, or nothing.

    Raises:
        ConfigurationError: The app has no store.
        StoreUnavailable: A store did not answer.
    """
    grounds = grounds_of(app)
    known = [
        _found(ground, name, record)
        for ground in grounds
        for name in _names(ground, key)
        if (record := ground.store.peek(name)) is not None
    ]
    if known or key.startswith("rt1:"):
        return known, ""
    look, job = Look(grounds), key.removeprefix("@")
    seen = [_found(*each) for each in look if _speaks_of(each[2], job)]
    return seen, look.stopped


def _names(ground: Ground, key: str) -> Iterator[str]:
    """Names that a record can have without looking for it."""
    if key.startswith("rt1:"):
        yield key
        return
    for task in ground.tasks:
        yield message_key(ground.prefix, task, key.removeprefix("@"))
        yield record_key(ground.prefix, task, key)


def _speaks_of(record: Record, job: str) -> bool:
    waits = record.waiting is not None and record.waiting.job == job
    return job == record.job or job in record.facts or waits


def _found(ground: Ground, key: str, record: Record) -> Found:
    entry = entry_of(key, record, time())
    return Found(ground, record, replace(entry, worker=worker_of(ground, record)))
