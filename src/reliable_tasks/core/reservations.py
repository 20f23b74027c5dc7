"""
The producers' part of the table as pure functions: who may be published.

A reservation stands beside the state of its record, so that one job of the key
may run while another waits. It only ever stops publishes: what reaches a worker
is judged by the state of the key, and by whether a later call took its place.
A reservation that is over counts as none.
"""

from __future__ import annotations

from dataclasses import replace

from reliable_tasks.core.records import (
    Confirmation,
    Duplicate,
    Early,
    Held,
    Record,
    Reservation,
    Reserved,
    State,
    Superseded,
    Waiting,
)

__all__ = ("begin", "confirm", "covering_ms", "drop", "early_or_replaced", "reserve", "unreserve")

_REASONS: dict[State | str, str] = {
    State.RUNNING: "running",
    State.RETRYING: "retrying",
    State.IDLE: "queued",  # given back to the broker a moment ago
    State.DONE: "done",
    State.FAILED: "failed",
}
_ENDED = frozenset({State.DONE, State.FAILED})


def reserve(
    record: Record | None, ask: Reservation, now_us: int
) -> tuple[Record, Reserved | Duplicate]:
    """Decide whether the job may be published; see `Store.reserve`."""
    record, answer = _decide(record, ask, now_us)
    return record, replace(answer, called_us=now_us)


def _decide(
    record: Record | None, ask: Reservation, now_us: int
) -> tuple[Record, Reserved | Duplicate]:
    now_ms = now_us // 1000
    if record is None:
        record = Record(State.IDLE, ask.job, expires_ms=now_ms)
    if record.state not in _REASONS:  # quarantined, or of a newer release: never suppressed
        return record, Reserved(delay_ms=ask.delay_ms)
    waiting = _in_the_way(record, ask, now_ms)
    answer = _by_waiting(record, waiting, ask, now_ms)
    answer = answer or _by_window(record, ask, now_ms) or _by_state(record, ask, now_ms)
    return record, answer or _reserve(record, waiting, ask, now_us)


def _waiting(record: Record, now_ms: int) -> Waiting | None:
    """Return the reservation, unless it is over."""
    waiting = record.waiting
    return waiting if waiting is not None and now_ms < waiting.until_ms else None


def _in_the_way(record: Record, ask: Reservation, now_ms: int) -> Waiting | None:
    """Return the job that waits, unless the call needs a run beside it."""
    waiting = _waiting(record, now_ms)
    if waiting is None or waiting.job == ask.job:
        return waiting
    if ask.latest:  # who cannot be put off is passed over by those who are
        is_passed_over = ask.delay_ms > 0 and waiting.first_ms == 0
    else:
        is_passed_over = _will_be_answered(record, waiting)
    return None if is_passed_over else waiting


def _will_be_answered(record: Record, waiting: Waiting) -> bool:
    """Whether what ran after the job was called is its answer, as a claim decides it."""
    is_kept = record.state is State.DONE and record.outcome is not None
    return is_kept and waiting.due_ms < record.until_ms and waiting.payload == record.payload


def _by_waiting(
    record: Record, waiting: Waiting | None, ask: Reservation, now_ms: int
) -> Reserved | Duplicate | None:
    if waiting is None:
        return None
    if waiting.job == ask.job:
        return Reserved(waiting.turn if ask.latest else 0, max(0, waiting.due_ms - now_ms))
    if not ask.latest:
        return _unless_other(waiting.payload, ask, Duplicate(waiting.job, "queued"))
    if waiting.payload != ask.payload:
        return None
    if ask.delay_ms:
        _put_off(record, waiting, ask, now_ms)
    return Duplicate(waiting.job, "queued")


def _unless_other(payload: str, ask: Reservation, duplicate: Duplicate) -> Reserved | Duplicate:
    """Return *duplicate*, unless arguments that must agree do not, which is judged when it runs."""
    if payload and ask.payload and payload != ask.payload:
        return Reserved(delay_ms=ask.delay_ms)
    return duplicate


def _put_off(record: Record, waiting: Waiting, ask: Reservation, now_ms: int) -> None:
    due_ms = max(waiting.due_ms, _due_ms(ask, waiting.first_ms, now_ms))
    until_ms = waiting.until_ms + due_ms - waiting.due_ms
    record.waiting = replace(waiting, due_ms=due_ms, until_ms=until_ms)
    _keep_until(record, until_ms)


def _due_ms(ask: Reservation, first_ms: int, now_ms: int) -> int:
    due_ms = now_ms + ask.delay_ms
    return min(due_ms, first_ms + ask.limit_ms) if ask.limit_ms and first_ms else due_ms


def _by_window(record: Record, ask: Reservation, now_ms: int) -> Duplicate | None:
    held = record.held
    if held is None or held.job == ask.job or now_ms >= held.until_ms:
        return None
    return Duplicate(held.job, "held")


def _by_state(record: Record, ask: Reservation, now_ms: int) -> Reserved | Duplicate | None:
    live = now_ms < record.until_ms
    if _is_over(record, ask.job) or (live and record.job == ask.job):
        return Reserved(delay_ms=ask.delay_ms)  # a copy, which holds nothing of its own
    if not live or ask.latest:
        return None
    return _unless_other(record.payload, ask, Duplicate(record.job, _REASONS[record.state]))


def _is_over(record: Record, job: str) -> bool:
    if record.job == job:
        return record.closed or record.state in _ENDED
    fact = record.facts.get(job)
    return fact is not None and (fact.closed or fact.ended != "")


def _reserve(record: Record, waiting: Waiting | None, ask: Reservation, now_us: int) -> Reserved:
    now_ms = now_us // 1000
    first_ms = 0
    if ask.latest and ask.delay_ms:
        first_ms = now_ms if waiting is None else waiting.first_ms
    last_turn = record.latest if record.waiting is None else max(record.latest, record.waiting.turn)
    record.waiting = Waiting(
        ask.job,
        until_ms=now_ms + ask.grace_ms,
        turn=max(last_turn + 1, now_us),
        payload=ask.payload,
        due_ms=_due_ms(ask, first_ms, now_ms),
        first_ms=first_ms,
    )
    _keep_until(record, record.waiting.until_ms)
    if ask.hold_ms:
        record.held = Held(ask.job, now_ms + min(ask.hold_ms, ask.grace_ms), now_ms)
    turn = record.waiting.turn if ask.latest else 0
    return Reserved(turn, max(0, record.waiting.due_ms - now_ms))


def confirm(record: Record | None, word: Confirmation, now_us: int) -> None:
    """Lengthen the job's reservation and its window; see `Store.confirm`."""
    if record is None:
        return
    now_ms = now_us // 1000
    waiting = _waiting(record, now_ms)
    if waiting is not None and waiting.job == word.job:
        record.latest = max(record.latest, waiting.turn)
        until_ms = max(waiting.until_ms, now_ms + word.keep_ms)
        record.waiting = replace(waiting, until_ms=until_ms)
        _keep_until(record, until_ms)
    held = record.held
    if word.hold_ms and held is not None and held.job == word.job:
        record.held = replace(held, until_ms=held.since_ms + word.hold_ms)
        _keep_until(record, record.held.until_ms)


def unreserve(record: Record | None, job: str) -> Record | None:
    """Take the job's reservation and window back; returns the record if it says anything else."""
    if record is None:
        return None
    drop(record, job)
    return None if record == _blank(record) else record


def _blank(record: Record) -> Record:
    """What a record is in which there was nothing but a reservation."""
    return Record(State.IDLE, record.job, expires_ms=record.expires_ms)


def drop(record: Record, job: str, *, window: bool = True) -> None:
    """Remove the job's reservation, and its *window*."""
    if record.waiting is not None and record.waiting.job == job:
        record.waiting = None
    if window and record.held is not None and record.held.job == job:
        record.held = None


def begin(record: Record, job: str, turn: int) -> None:
    """Note that the job runs: it waits no longer, and older calls come too late."""
    waiting = record.waiting
    if waiting is not None and waiting.job == job:
        turn, record.waiting = max(turn, waiting.turn), None
    record.latest = max(record.latest, turn)


def early_or_replaced(
    record: Record, job: str, turn: int, now_ms: int
) -> Early | Superseded | None:
    """Answer a claim of *job* that later calls have put off, or have taken the place of."""
    if 0 < turn < record.latest:
        if record.job == job and record.state is State.RETRYING:
            record.state, record.until_ms = State.IDLE, now_ms
        return Superseded("replaced")
    waiting = _waiting(record, now_ms)
    if turn <= 0 or waiting is None or waiting.job != job or now_ms >= waiting.due_ms:
        return None
    return Early(waiting.due_ms - now_ms)


def covering_ms(record: Record, expires_ms: int) -> int:
    """Return *expires_ms*, or when the reservation and the window are over if that is later."""
    ends_ms = [each.until_ms for each in (record.waiting, record.held) if each is not None]
    return max(expires_ms, *ends_ms, 0)


def _keep_until(record: Record, at_ms: int) -> None:
    if record.expires_ms is not None:
        record.expires_ms = max(record.expires_ms, at_ms)
