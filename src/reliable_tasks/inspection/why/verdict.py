"""
From all that is known of a job to where it is (pure).

The questions stand in an order: what happens now goes before what is to happen, the record's word
before the broker's, and the flight recorder's memory comes last. The first that has an answer
gives it; what else is known and worth a line is noted beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from reliable_tasks.broker.view import Sighting
from reliable_tasks.inspection.why.asides import asides
from reliable_tasks.inspection.why.evidence import Evidence, Jot
from reliable_tasks.inspection.why.reading import (
    attempt_in,
    due_in,
    hops_in,
    published_in,
    seconds_of,
)
from reliable_tasks.inspection.why.standings import Facts, Standing, Verdict, known

__all__ = ("judge",)


@dataclass(frozen=True, slots=True)
class _Answer:
    standing: Standing
    source: str
    facts: Facts


def judge(seen: Evidence) -> Verdict:
    """Return where the job is by all that was seen of it."""
    answers = (question(seen) for question in _QUESTIONS)
    found = next((each for each in answers if each is not None), _Answer(Standing.UNKNOWN, "", {}))
    return Verdict(
        task_id=seen.task_id,
        now=seen.now,
        standing=found.standing,
        source=found.source,
        facts=known(task=seen.task, key=seen.record.key if seen.record else None, **found.facts),
        notes=tuple(asides(seen, found.standing)),
        jots=seen.jots,
        gaps=seen.gaps,
    )


# --- it runs, or ran until its process died ------------------------------------------------


def _runs(seen: Evidence) -> _Answer | None:
    request, record = seen.request("active"), seen.record
    if request is None:
        return None
    own = record if record is not None and record.state == "running" else None
    return _Answer(
        Standing.RUNNING,
        "workers",
        known(
            worker=request.node,
            pid=request.pid,
            since=request.since,
            until=own.until if own else None,
            attempt=own.attempt if own else None,
            crashes=own.crashes or None if own else None,
        ),
    )


def _runs_by_record(seen: Evidence) -> _Answer | None:
    record = seen.record
    if record is None or record.state != "running":
        return None
    facts = known(
        worker=record.worker,
        pid=record.pid,
        since=record.since,
        until=record.until,
        attempt=record.attempt,
        crashes=record.crashes or None,
    )
    if record.until is not None and record.until <= seen.now:
        return _Answer(Standing.ABANDONED, "record", {**facts, **_comes_again(seen)})
    if seen.is_denied:
        return _Answer(Standing.ABANDONED, "workers", {**facts, "denied": True})
    return _Answer(Standing.RUNNING, "record", facts)


def _comes_again(seen: Evidence) -> Facts:
    """Return where the message of a job is whose execution ended without a word."""
    held = seen.sighting("unacked", "scheduled")
    if held is not None:
        known_until = None
        if held.since is not None and seen.visibility_timeout is not None:
            known_until = held.since + seen.visibility_timeout
        return known(queue=held.queue, redelivery_at=known_until)
    waits = seen.sighting("queued")
    return {} if waits is None else known(queue=waits.queue, ahead=waits.ahead)


# --- it is over -----------------------------------------------------------------------------


def _is_quarantined(seen: Evidence) -> _Answer | None:
    record = seen.record
    if record is None or "quarantined" not in (record.state, record.holder_state):
        return None
    return _Answer(
        Standing.QUARANTINED,
        "record",
        known(
            crashes=record.crashes or None,
            behind=record.holder if record.state != "quarantined" else None,
            letter=seen.letter is not None,
        ),
    )


def _is_done(seen: Evidence) -> _Answer | None:
    record = seen.record
    if record is None or record.state != "done":
        return None
    at = _ended_at(seen)
    return _Answer(
        Standing.DONE, "record", known(replays=record.replays, worker=record.worker, at=at)
    )


def _was_revoked(seen: Evidence) -> _Answer | None:
    """Celery 5.7 stores it at once, and the message is dropped only when it comes."""
    ending = seen.ending
    if ending is None or ending.status != "REVOKED":
        return None
    if ending.reason == "revoked" and (seen.sightings or seen.requests):
        return _is_to_be_dropped(seen)
    if ending.reason == "revoked" and seen.has_gap("broker"):
        at = seconds_of(ending.at)
        return _Answer(Standing.REVOKED, "result backend", known(reason="unseen", at=at))
    standing = {"expired": Standing.EXPIRED, "replaced": Standing.REPLACED}.get(
        ending.reason or "", Standing.REVOKED
    )
    return _Answer(
        standing, "result backend", known(reason=ending.reason, at=seconds_of(ending.at))
    )


def _is_to_be_dropped(seen: Evidence) -> _Answer:
    return _Answer(Standing.REVOKED, "workers", {"reason": "pending", "nodes": seen.revoked_at})


def _was_unregistered(seen: Evidence) -> _Answer | None:
    ending = seen.ending
    if ending is None or ending.error != "NotRegistered":
        return None
    at = seconds_of(ending.at)
    return _Answer(Standing.UNREGISTERED, "result backend", known(at=at, worker=ending.worker))


def _is_dead_letter(seen: Evidence) -> _Answer | None:
    letter = seen.letter
    if letter is None:
        return None
    standing = Standing.DEAD_LETTER
    if letter.is_refused:
        standing = Standing.UNREGISTERED if letter.is_unknown else Standing.REFUSED
    return _Answer(standing, "dead letters", known(reason=letter.reason, at=letter.at))


def _has_failed(seen: Evidence) -> _Answer | None:
    record = seen.record
    if record is None or record.state != "failed":
        return None
    error = seen.ending.error if seen.ending else None
    return _Answer(
        Standing.FAILED,
        "record",
        known(error=error, replays=record.replays, worker=record.worker, at=_ended_at(seen)),
    )


def _has_ended_by_backend(seen: Evidence) -> _Answer | None:
    """A failure whose message is still there is being tried again, by whatever way."""
    ending = seen.ending
    if ending is None or (seen.record is not None and seen.record.state):
        return None
    facts = known(error=ending.error, at=seconds_of(ending.at), worker=ending.worker)
    if ending.status == "SUCCESS":
        return _Answer(Standing.DONE, "result backend", facts)
    if ending.status == "FAILURE" and not (seen.sightings or seen.requests):
        return _Answer(Standing.FAILED, "result backend", facts)
    return None


def _is_to_be_revoked(seen: Evidence) -> _Answer | None:
    return _is_to_be_dropped(seen) if seen.revoked_at else None


def _has_ended_by_jots(seen: Evidence) -> _Answer | None:
    """By the recorder alone: what it noted last, if nothing of the job is there any more."""
    last = _last_turn(seen.jots)
    if last is None or seen.sightings or seen.requests or (seen.record and seen.record.state):
        return None
    standing = _ENDINGS.get((last.event, str(last.details.get(_TELLING.get(last.event, "")) or "")))
    if standing is None:
        return None
    kept = ("reason", "error", "by", "crashes")
    details = {name: last.details[name] for name in kept if name in last.details}
    if standing is Standing.DUPLICATE and seen.record is not None:
        details["behind"] = seen.record.holder
    return _Answer(
        standing,
        "flight recorder",
        known(at=last.at, worker=last.where or None, **details),
    )


_TELLING = {"settled": "state", "ended": "state", "deduplicated": "reason", "revoked": "reason"}
"""The detail that tells what an event meant."""

_ENDINGS = {
    ("settled", "done"): Standing.DONE,
    ("settled", "failed"): Standing.FAILED,
    ("ended", "SUCCESS"): Standing.DONE,
    ("ended", "FAILURE"): Standing.FAILED,
    ("deduplicated", "running"): Standing.DUPLICATE,
    ("deduplicated", "done"): Standing.DUPLICATE,
    ("deduplicated", "replaced"): Standing.REPLACED,
    ("revoked", "expired"): Standing.EXPIRED,
    ("revoked", "terminated"): Standing.REVOKED,
    ("revoked", "revoked"): Standing.REVOKED,
    ("replayed", ""): Standing.DONE,
    ("quarantined", ""): Standing.QUARANTINED,
    ("dead-lettered", ""): Standing.DEAD_LETTER,
    ("unknown", ""): Standing.UNREGISTERED,
    ("rejected", ""): Standing.REFUSED,
}


# --- it is to come --------------------------------------------------------------------------


def _waits_for_retry(seen: Evidence) -> _Answer | None:
    record = seen.record
    if record is None or record.state != "retrying":
        return None
    sighting, source = _waiting(seen), "record"
    last = _last(seen.jots, "retrying")
    next_at = _due_of(sighting) or (_plus_wait(last) if last else None) or _eta_of(seen)
    return _Answer(
        Standing.RETRYING,
        source,
        known(
            attempt=_attempt_of(sighting) or record.attempt + 1,
            next_at=next_at,
            until=record.until if next_at is None else None,
            **_place(seen, sighting),
        ),
    )


def _waits_for_other(seen: Evidence) -> _Answer | None:
    record, sighting = seen.record, _waiting(seen)
    if record is None or not record.is_taken or not _was_put_off(seen):
        return None
    last = _last(seen.jots, "deferred")
    next_at = _due_of(sighting) or _eta_of(seen) or (_plus_wait(last) if last else None)
    return _Answer(
        Standing.DEFERRED,
        "record",
        known(
            behind=record.holder,
            behind_state=record.holder_state,
            until=record.until,
            behind_worker=record.worker,
            next_at=next_at,
            **_place(seen, sighting),
        ),
    )


def _was_put_off(seen: Evidence) -> bool:
    """Whether a message of the job has asked for its turn in vain."""
    return (
        (seen.record is not None and seen.record.hops > 0)
        or any(hops_in(each.headers) for each in seen.sightings)
        or _last(seen.jots, "deferred") is not None
    )


def _is_fetched(seen: Evidence) -> _Answer | None:
    request = seen.request("reserved")
    if request is None:
        return None
    held = seen.sighting("unacked", "scheduled")
    return _Answer(
        Standing.PREFETCHED,
        "workers",
        known(worker=request.node, queue=held.queue if held else None),
    )


def _waits_in_worker(seen: Evidence) -> _Answer | None:
    request, sighting = seen.request("scheduled"), seen.sighting("scheduled")
    if request is None and sighting is None:
        return None
    due = _due_of(sighting) or _eta_of(seen)
    facts = known(
        worker=request.node if request else None,
        eta=due,
        queue=sighting.queue if sighting else None,
    )
    source = "workers" if request else "broker"
    attempt = _attempt_of(sighting) or _attempt_by_jots(seen.jots)
    is_known_to_retry = seen.ending is not None and seen.ending.status == "RETRY"
    if is_known_to_retry or (attempt or 0) > 1:
        again = known(attempt=attempt, next_at=due)
        return _Answer(Standing.RETRYING, source, {**facts, **again})
    return _Answer(Standing.SCHEDULED, source, facts)


def _is_held(seen: Evidence) -> _Answer | None:
    held = seen.sighting("unacked")
    if held is None:
        return None
    return _Answer(Standing.HELD, "broker", known(since=held.since, **_comes_again(seen)))


def _is_queued(seen: Evidence) -> _Answer | None:
    sighting = seen.sighting("queued")
    if sighting is None:
        return None
    place, attempt = _place(seen, sighting), _attempt_of(sighting)
    if attempt and attempt > 1:
        return _Answer(
            Standing.RETRYING,
            "broker",
            known(attempt=attempt, next_at=_due_of(sighting), **place),
        )
    published_at = published_in(sighting.headers) or _published_at(seen.jots)
    return _Answer(
        Standing.QUEUED, "broker", known(eta=_due_of(sighting), since=published_at, **place)
    )


def _begins_by_backend(seen: Evidence) -> _Answer | None:
    ending = seen.ending
    standing = {"STARTED": Standing.RUNNING, "RETRY": Standing.RETRYING}.get(
        ending.status if ending else ""
    )
    if ending is None or standing is None:
        return None
    last = _last(seen.jots, "retrying")
    return _Answer(
        standing,
        "result backend",
        known(
            worker=ending.worker,
            since=seconds_of(ending.at),
            next_at=_plus_wait(last) if last and standing is Standing.RETRYING else None,
            attempt=last.details.get("attempt", 0) + 1 if last else None,
        ),
    )


def _is_reserved(seen: Evidence) -> _Answer | None:
    record = seen.record
    if record is None or record.reserved_until is None or record.reserved_until <= seen.now:
        return None
    is_searched = not seen.has_gap("broker")
    return _Answer(
        Standing.RESERVED, "record", {"until": record.reserved_until, "is_searched": is_searched}
    )


def _goes_on_by_jots(seen: Evidence) -> _Answer | None:
    last = _last_turn(seen.jots)
    if last is None:
        return None
    standing = _GOING_ON.get(last.event)
    if standing is None:
        return None
    due = _plus_wait(last) or seconds_of(last.details.get("eta"))
    expires = seconds_of(last.details.get("expires"))
    if standing is Standing.PUBLISHED and expires is not None and expires <= seen.now:
        return _Answer(Standing.EXPIRED, "flight recorder", {"at": expires})
    if standing is Standing.PUBLISHED and due is not None and due > seen.now:
        standing = Standing.SCHEDULED
    return _Answer(
        standing,
        "flight recorder",
        known(
            at=last.at,
            worker=(last.where or None) if standing in _IN_HAND else None,
            queue=last.details.get("queue"),
            next_at=due,
            eta=due if last.event == "published" else None,
            attempt=last.details.get("attempt", 0) + 1 if last.event == "retrying" else None,
        ),
    )


_IN_HAND = {Standing.HELD, Standing.RUNNING}

_GOING_ON = {
    "published": Standing.PUBLISHED,
    "received": Standing.HELD,
    "claimed": Standing.RUNNING,
    "started": Standing.RUNNING,
    "deferred": Standing.DEFERRED,
    "retrying": Standing.RETRYING,
}


_QUESTIONS: tuple[Callable[[Evidence], _Answer | None], ...] = (
    _runs,
    _runs_by_record,
    _is_quarantined,
    _is_done,
    _was_revoked,
    _was_unregistered,
    _is_dead_letter,
    _has_failed,
    _has_ended_by_backend,
    _is_to_be_revoked,
    _waits_for_retry,
    _waits_for_other,
    _is_fetched,
    _waits_in_worker,
    _is_held,
    _is_queued,
    _has_ended_by_jots,
    _begins_by_backend,
    _goes_on_by_jots,
    _is_reserved,
)


# --- what helps to answer -------------------------------------------------------------------


def _waiting(seen: Evidence) -> Sighting | None:
    return seen.sighting("queued") or seen.sighting("scheduled", "unacked")


def _place(seen: Evidence, sighting: Sighting | None) -> Facts:
    """Return where a message waits, and who would take it."""
    if sighting is None:
        return {}
    if sighting.state != "queued":
        request = seen.request("reserved") or seen.request("scheduled")
        return known(queue=sighting.queue, worker=request.node if request else None)
    queue = seen.queue(sighting.queue)
    return known(
        queue=sighting.queue,
        ahead=sighting.ahead,
        depth=queue.depth if queue else None,
        readers=seen.readers(sighting.queue),
    )


def _due_of(sighting: Sighting | None) -> float | None:
    return None if sighting is None else due_in(sighting.headers) or seconds_of(sighting.eta)


def _attempt_of(sighting: Sighting | None) -> int | None:
    return None if sighting is None else attempt_in(sighting.headers)


def _attempt_by_jots(jots: Iterable[Jot]) -> int | None:
    last = _last(jots, "published")
    return None if last is None else last.details.get("retries", 0) + 1


def _eta_of(seen: Evidence) -> float | None:
    request = seen.request("scheduled")
    return seconds_of(request.eta) if request else None


def _ended_at(seen: Evidence) -> float | None:
    return seconds_of(seen.ending.at) if seen.ending else None


def _published_at(jots: Iterable[Jot]) -> float | None:
    return next((each.at for each in jots if each.event == "published"), None)


def _last(jots: Iterable[Jot], *events: str) -> Jot | None:
    return next((each for each in reversed(tuple(jots)) if each.event in events), None)


def _last_turn(jots: tuple[Jot, ...]) -> Jot | None:
    """Return the last line that says what became of the job, not of a copy or of another."""
    turns = [each for each in jots if not _is_aside(each)]
    if len(turns) > 1 and turns[-1].event == "published" and turns[-2].event in _PUBLISH_AGAIN:
        return turns[-2]  # which says why
    return turns[-1] if turns else None


def _is_aside(jot: Jot) -> bool:
    told = jot.details.get(_TELLING.get(jot.event, ""))
    if jot.event in _TELLS_IF:
        return told not in _TELLS_IF[jot.event]
    return jot.event in {"suppressed", "lost", "given-up"}


_PUBLISH_AGAIN = {"retrying", "deferred"}

_TELLS_IF = {
    "deduplicated": {"running", "done", "replaced"},
    "settled": {"done", "failed"},
    "ended": {"SUCCESS", "FAILURE"},
}
"""Events that say what became of the job with these details only."""


def _plus_wait(jot: Jot) -> float | None:
    wait = jot.details.get("wait")
    return jot.at + wait if isinstance(wait, int | float) else None
