"""From what others keep to evidence (pure); never raises on what a stranger wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from reliable_tasks.core.header import NAME, Header
from reliable_tasks.core.lines import HOPS_PER_RETRY, retries_of
from reliable_tasks.core.records import Record, State
from reliable_tasks.inspection.why.evidence import Ending, Jot, Letter, RecordSeen
from reliable_tasks.retry import attempts

__all__ = (
    "attempt_in",
    "due_in",
    "ending_from",
    "hops_in",
    "jots_from",
    "letter_from",
    "published_in",
    "record_from",
    "seconds_of",
)

PENDING = "PENDING"
REFUSED = "refused"  # a kind of dead letter
UNKNOWN_TASK = "does not know the task"  # in its reason
PUBLISHED = "reliable_tasks_published"  # by contrib.prometheus


def seconds_of(when: Any) -> float | None:
    """Return seconds since 1970 of a text in ISO 8601, None if it is none."""
    if isinstance(when, datetime):
        moment = when
    elif isinstance(when, str):
        try:
            moment = datetime.fromisoformat(when)
        except ValueError:
            return None
    else:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def attempt_in(headers: Mapping[str, Any]) -> int | None:
    """Return which attempt a message is, from 1; None if it does not say."""
    noted = _attempts(headers)
    if noted is not None:
        return noted.attempt
    retries = headers.get("retries")
    return retries + 1 if isinstance(retries, int) else None


def due_in(headers: Mapping[str, Any]) -> float | None:
    """Return when an attempt may begin, which can be some hops of its message away."""
    noted = _attempts(headers)
    return noted.due_at or None if noted is not None else None


def hops_in(headers: Mapping[str, Any]) -> int:
    """Return how many messages before it, with the same retries, gave way to a later one."""
    header = Header.parse(headers.get(NAME), str(headers.get("id")))
    return 0 if header is None else header.hop % HOPS_PER_RETRY


def published_in(headers: Mapping[str, Any]) -> float | None:
    """Return when a message was published, if its publisher was instrumented."""
    at = headers.get(PUBLISHED)
    return float(at) if isinstance(at, int | float) else None


def _attempts(headers: Mapping[str, Any]) -> attempts.Attempts | None:
    return attempts.Attempts.parse(headers.get(attempts.NAME), str(headers.get("id")))


def record_from(
    key: str, record: Record, task_id: str, process: Mapping[str, Any]
) -> RecordSeen | None:
    """
    Return what a record says of a job, None if the job is not in it.

    Args:
        key: Its name.
        record: As it is.
        task_id: The job.
        process: What is known of the process that was granted the key last.
    """
    waiting = record.waiting
    reserved_until = (
        waiting.until_ms / 1_000 if waiting is not None and waiting.job == task_id else None
    )
    holder = None if record.job == task_id else record.job or None
    fact = record.facts.get(task_id)
    if holder is not None and fact is None and reserved_until is None:
        return RecordSeen(key=key, **_holder(record, process))
    if holder is not None:
        state = _name(fact.ended) if fact is not None and fact.ended else ""
        return RecordSeen(
            key=key,
            state=state,
            is_closed=fact.closed if fact else False,
            replays=fact.replays if fact else 0,
            hops=fact.line % HOPS_PER_RETRY if fact else 0,
            reserved_until=reserved_until,
            **_holder(record, process),
        )
    return RecordSeen(
        key=key,
        state=_name(record.state),
        since=record.token / 1e6 or None,
        until=record.until_ms / 1_000 or None,
        worker=_worker(process),
        pid=process.get("pid"),
        hops=record.line % HOPS_PER_RETRY,
        attempt=record.retries + 1 if record.token else retries_of(record.line),
        is_closed=record.closed,
        replays=record.replays,
        crashes=len(record.suspects),
        is_draining=record.draining,
        reserved_until=reserved_until,
    )


def _holder(record: Record, process: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "holder": record.job or None,
        "holder_state": _name(record.state),
        "since": record.token / 1e6 or None,
        "until": record.until_ms / 1_000 or None,
        "worker": _worker(process),
        "pid": process.get("pid"),
        "crashes": len(record.suspects) if record.state == State.QUARANTINED else 0,
    }


def _worker(process: Mapping[str, Any]) -> str | None:
    """Return the node, or for a process outside of workers its machine."""
    return process.get("worker") or process.get("host") or None


def _name(state: State | str) -> str:
    try:
        return State(state).name.lower()
    except ValueError:
        return str(state)


def ending_from(meta: Mapping[str, Any]) -> Ending | None:
    """Return what a result backend keeps, None if it knows nothing."""
    status = str(meta.get("status") or PENDING)
    if status == PENDING:
        return None
    result = meta.get("result")
    at = meta.get("date_done")
    begun_by = result.get("hostname") if isinstance(result, dict) else None
    return Ending(
        status=status,
        error=type(result).__name__ if isinstance(result, BaseException) else None,
        reason=str(result) if status == "REVOKED" and isinstance(result, BaseException) else None,
        at=at.isoformat() if isinstance(at, datetime) else at,
        task=meta.get("name"),
        worker=meta.get("worker") or (begun_by if status == "STARTED" else None),
    )


def letter_from(raw: bytes | None) -> Letter | None:
    """Return what a dead letter says of itself."""
    letter = _document(raw)
    if letter is None:
        return None
    at, reason = letter.get("at"), str(letter.get("reason") or "")
    return Letter(
        reason=reason,
        at=float(at) if isinstance(at, int | float) else 0.0,
        task=letter.get("task"),
        is_refused=letter.get("kind") == REFUSED,
        is_unknown=UNKNOWN_TASK in reason,
    )


def jots_from(lines: list[bytes]) -> tuple[Jot, ...]:
    """Return the recorder's lines; of equal neighbours one, for a lost reply may double a line."""
    single = [line for at, line in enumerate(lines) if at == 0 or line != lines[at - 1]]
    return tuple(sorted(filter(None, map(_jot, single)), key=lambda each: each.at))


def _jot(line: bytes) -> Jot | None:
    try:
        at, event, where, details = json.loads(line)
        return Jot(float(at), str(event), str(where), dict(details))
    except (ValueError, TypeError):
        return None


def _document(raw: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(raw) if raw else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
