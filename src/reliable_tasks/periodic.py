"""
Periodic tasks: any number of `celery beat` processes publish each firing once.

A firing has a *ticket*: a record of its own with nothing but a reservation in it. Who takes it
publishes, and confirms. A ticket that was taken but not confirmed may be that of a beat which
died on its way to the broker: the next beat waits a moment, then publishes the very same job, of
which the guard runs one copy. So no firing is lost with a beat, and none runs twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from time import monotonic, sleep
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from celery.schedules import crontab, schedule, solar
from celery.signals import beat_init
from celery.utils import uuid

from reliable_tasks.core.keys import digest, record_key
from reliable_tasks.core.records import Confirmation, Duplicate, Reservation
from reliable_tasks.core.slots import DueAfter, Slot, dated, is_common, latest_due_ms, spaced
from reliable_tasks.core.store import Store
from reliable_tasks.errors import StoreUnavailable

__all__ = ("Fired", "Firing", "Ticket", "current_firing", "fire", "ticket_of", "watch_beats")

logger = logging.getLogger("reliable_tasks")

PATIENCE = 0.5  # seconds for another beat's publish that is under way
PAUSE = 0.02
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

_warned_of: set[str] = set()


# --- what beat does -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Firing:
    """A schedule entry that a beat of this process is about to publish."""

    entry: str
    task: str
    schedule: Any
    last_run_at: datetime | None


_firing: ContextVar[Firing | None] = ContextVar("reliable_tasks_firing", default=None)


def watch_beats() -> None:
    """Learn from every beat that starts in this process what it fires; again changes nothing."""
    beat_init.connect(_watch)


def _watch(sender: Any, **_: Any) -> None:
    scheduler = sender.scheduler
    apply_async = scheduler.apply_async

    @wraps(apply_async)
    def announced(entry: Any, *args: Any, **kwargs: Any) -> Any:
        firing = Firing(entry.name, entry.task, entry.schedule, entry.last_run_at)
        with _announced(firing):
            return apply_async(entry, *args, **kwargs)

    scheduler.apply_async = announced


@contextmanager
def _announced(firing: Firing) -> Iterator[None]:
    token = _firing.set(firing)
    try:
        yield
    finally:
        _firing.reset(token)


def current_firing(task_name: str) -> Firing | None:
    """Return the firing of the task that is being published, None if no beat publishes it."""
    firing = _firing.get()
    return firing if firing is not None and firing.task == task_name else None


# --- which firing it is -------------------------------------------------------------------


def slot_of(firing: Firing, horizon_ms: int) -> Slot | None:
    """Return which slot of its schedule a firing is; None if none is due."""
    plan = firing.schedule
    now_ms = _to_ms(plan.maybe_make_aware(plan.now()))
    due_after = _due_times(plan)
    next_ms = due_after(now_ms)
    if not isinstance(plan, schedule | solar):
        last = firing.last_run_at
        since_ms = 0 if last is None else _to_ms(plan.maybe_make_aware(last)) - 1
        due_ms = latest_due_ms(due_after, since_ms, now_ms)
        if due_ms is None:
            return None
        if isinstance(plan, crontab) or is_common(due_after, due_ms):
            return dated(due_ms, next_ms, now_ms, horizon_ms)
    kind = getattr(plan, "run_every", type(plan).__name__)
    return spaced(str(kind), horizon_ms if next_ms is None else next_ms - now_ms)


def _due_times(plan: Any) -> DueAfter:
    """Return what a schedule would give for its next due time at any moment."""
    stopped = object.__new__(type(plan))  # its own way to copy itself forgets the app
    stopped.__dict__.update(plan.__dict__)

    def due_after(moment_ms: int) -> int | None:
        moment = (EPOCH + moment_ms * MILLISECOND).astimezone(plan.tz)
        stopped.now = lambda: moment
        wait: timedelta | None = stopped.remaining_estimate(moment)
        return None if wait is None else moment_ms + _whole(wait)

    return due_after


def _to_ms(moment: datetime) -> int:
    return _whole(moment.astimezone(UTC) - EPOCH)


def _whole(length: timedelta) -> int:
    """Return milliseconds, rounded up: nothing is due before its time."""
    return -(-length // MILLISECOND)


# --- who publishes it ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ticket:
    """
    The right to publish one firing.

    *entry* is its name for people. *job* is its task id, the same for every beat; None where the
    firing is that of whoever takes the ticket first. Milliseconds: *keep_ms* for a ticket whose
    job was published, *grace_ms* for one of which that is not known.
    """

    key: str
    entry: str
    job: str | None
    keep_ms: int
    grace_ms: int


@dataclass(frozen=True, slots=True)
class Fired:
    """The job of a firing, and whether it was *published* before."""

    job: str
    duplicate: bool


def ticket_of(firing: Firing, *, prefix: str, grace_ms: int, horizon_ms: int) -> Ticket | None:
    """
    Return the ticket of a firing; None: it has none.

    Either none is due, for somebody fired the entry by hand, or the schedule does not say when it
    is due, which is logged once.

    Args:
        firing: What beat is about to publish.
        prefix: First part of the records' names.
        grace_ms: How long a beat that died may keep the ticket to itself.
        horizon_ms: How long a copy of a message may still turn up.
    """
    try:
        slot = slot_of(firing, horizon_ms)
    except Exception as error:  # a schedule of somebody else's: it only has to say is_due
        _warn_of_schedule(firing, error)
        return None
    if slot is None:
        return None
    key = record_key(prefix, firing.task, digest(["periodic", firing.entry, slot.name]))
    job = str(uuid5(NAMESPACE_URL, key)) if slot.is_dated else None
    return Ticket(key, firing.entry, job, slot.keep_ms, min(grace_ms, slot.keep_ms))


def _warn_of_schedule(firing: Firing, error: Exception) -> None:
    if firing.entry in _warned_of:
        return
    _warned_of.add(firing.entry)
    logger.warning(
        "%s: every beat fires it, for its schedule does not say when it is due: %s",
        firing.entry,
        f"{type(error).__name__}: {error}".rstrip(": "),
    )


def fire(store: Store, ticket: Ticket, publish: Callable[[str], object]) -> Fired:
    """
    Publish a firing, unless another beat has.

    While the store is down every beat publishes: copies of one job where *ticket* names it.

    Args:
        store: Where the tickets are.
        ticket: From `ticket_of`.
        publish: Called with the task id. What it raises is passed on; the next beat that asks
            publishes then.
    """
    own = uuid()
    try:
        holder, is_published = _take(store, ticket, own)
    except StoreUnavailable as error:
        logger.warning("%s: fired without asking whether another beat has: %s", ticket.entry, error)
        holder, is_published = own, False  # the store may have given the ticket to it
    job = ticket.job or holder
    if not is_published:
        publish(job)
        _confirm(store, ticket, holder)
    return Fired(job, duplicate=is_published)


def _take(store: Store, ticket: Ticket, own: str) -> tuple[str, bool]:
    """Return who holds the ticket now, and whether its job is known to be published."""
    ask = Reservation(own, ticket.grace_ms)
    patient_until = monotonic() + PATIENCE
    while True:
        [answer] = store.reserve([(ticket.key, ask)])
        if not isinstance(answer, Duplicate):
            return own, False
        if _is_confirmed(store, ticket.key):
            return answer.job, True
        if monotonic() >= patient_until:
            logger.warning("%s: fired again, for the beat that began may be dead", ticket.entry)
            return answer.job, False
        sleep(PAUSE)


def _is_confirmed(store: Store, key: str) -> bool:
    record = store.peek(key)
    waiting = None if record is None else record.waiting
    return record is not None and waiting is not None and waiting.turn <= record.latest


def _confirm(store: Store, ticket: Ticket, holder: str) -> None:
    try:
        store.confirm([(ticket.key, Confirmation(holder, ticket.keep_ms))])
    except StoreUnavailable as error:  # the next beat publishes a copy
        logger.warning("%s: fired, but the next beat may do so too: %s", ticket.entry, error)
