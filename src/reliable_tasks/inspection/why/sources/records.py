"""What the stores keep of a job: its record, its dead letter, what the recorder noted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Any

from reliable_tasks.core.header import NAME, Header
from reliable_tasks.core.keys import flight_key, message_key, record_key, shelf_name
from reliable_tasks.core.records import Record
from reliable_tasks.core.store import Store
from reliable_tasks.errors import ConfigurationError, StoreUnavailable
from reliable_tasks.inspection.why.evidence import Gap, Jot, Letter, RecordSeen
from reliable_tasks.inspection.why.reading import jots_from, letter_from, record_from
from reliable_tasks.processes import who
from reliable_tasks.storage import place_of, prefix_of
from reliable_tasks.task import IdempotentTask

__all__ = ("Kept", "find_record", "read_kept")

SCAN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Kept:
    """What the app's own store keeps beside the records."""

    jots: tuple[Jot, ...] = ()
    letter: Letter | None = None
    gaps: tuple[Gap, ...] = ()


def read_kept(app: Any, task_id: str) -> Kept:
    """Return what the recorder noted of a job, and its dead letter."""
    try:
        store, prefix = place_of(app.conf).open(), prefix_of(app.conf)
    except ConfigurationError:
        why = "the app has no store: neither its broker nor its result backend is a Redis"
        return Kept(gaps=(Gap("flight recorder", why), Gap("dead letters", why)))
    try:
        jots = jots_from(store.jottings(flight_key(prefix, task_id)))
        letter = letter_from(store.letter(shelf_name(prefix), task_id))
    except StoreUnavailable as error:
        return Kept(gaps=(Gap("flight recorder", str(error)), Gap("dead letters", str(error))))
    is_on = bool(app.conf.get("reliable_tasks_flight_recorder"))
    gaps = () if is_on or jots else (Gap("flight recorder", "it is off"),)
    return Kept(jots, letter, gaps)


def find_record(
    app: Any,
    task_id: str,
    *,
    task: str | None,
    headers: Iterable[Mapping[str, Any]],
    keys: Iterable[str],
    limit: int,
) -> tuple[RecordSeen | None, tuple[Gap, ...]]:
    """
    Look for the record of a job.

    By the keys that are known of it, by the headers of its messages, by its id, and last by
    reading the records of tasks that have keys.

    Args:
        app: The Celery app.
        task_id: The job.
        task: The task's name, if it is known.
        headers: Of the job's messages.
        keys: Names of records that are known to be its.
        limit: How many records to read at most.
    """
    guarded = [each for each in app.tasks.values() if isinstance(each, IdempotentTask)]
    if task is not None:
        guarded = [each for each in guarded if each.name == task]
    if not guarded:
        return None, ()
    search = _Search(task_id, limit)
    given, parsed = list(keys), [Header.parse(each.get(NAME), task_id) for each in headers]
    try:
        for each in guarded:
            found = search.look_at(each, _likely(each, task_id, given, parsed))
            if found is not None:
                return found, tuple(search.gaps)
        keyed = [each for each in guarded if each.guard_options.idempotency_key is not None]
        for each in () if search.aside else keyed:
            found = search.look_at(each, search.scanned(each))
            if found is not None:
                return found, tuple(search.gaps)
    except (StoreUnavailable, ConfigurationError) as error:
        search.gaps.append(Gap("record", str(error)))
    return search.aside, tuple(search.gaps)


def _likely(
    task: Any, task_id: str, given: list[str], headers: list[Header | None]
) -> Iterator[str]:
    """Yield the names under which the job's record may stand, the best known first."""
    for header in headers:
        if header is not None and header.key_digest is not None:
            yield record_key(task.record_prefix, task.name, header.key_digest)
    yield from given
    yield message_key(task.record_prefix, task.name, task_id)


class _Search:
    """One search; `aside` is a record that only another job is in, under a key of this one."""

    def __init__(self, task_id: str, limit: int) -> None:
        self._task_id, self._left = task_id, limit
        self._until = monotonic() + SCAN_SECONDS
        self.aside: RecordSeen | None = None
        self.gaps: list[Gap] = []

    def look_at(self, task: Any, names: Iterable[str]) -> RecordSeen | None:
        """Return the first of the records *names* that the job is in."""
        store: Store = task.records
        for name in names:
            record = store.peek(name)
            if record is None:
                continue
            seen = record_from(name, record, self._task_id, self._process(task, record))
            if self._names(record):
                return seen
            self.aside = self.aside or seen
        return None

    def scanned(self, task: Any) -> Iterator[str]:
        """Yield names of records of *task* that name the job, until the time is over."""
        prefix = record_key(task.record_prefix, task.name, "")
        store: Store = task.records
        for name in islice(store.scan(prefix), self._left):
            self._left -= 1
            if monotonic() > self._until:
                break
            record = store.peek(name)
            if record is not None and self._names(record):
                yield name
        else:
            if self._left:
                return
        self.gaps.append(Gap("record", f"not all records of {task.name} were read"))

    def _names(self, record: Record) -> bool:
        waits = record.waiting is not None and record.waiting.job == self._task_id
        return record.job == self._task_id or self._task_id in record.facts or waits

    def _process(self, task: Any, record: Record) -> Mapping[str, Any]:
        return who(task.records, task.record_prefix, record.delivery) if record.delivery else {}
