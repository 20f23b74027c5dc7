"""Everything that is known of a record, as one document (pure)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from reliable_tasks.core.lines import HOPS_PER_RETRY
from reliable_tasks.core.records import Fact, Record, State
from reliable_tasks.inspection.records.finding import Found

__all__ = ("document",)


def document(found: Found, *, result: bool = False) -> dict[str, Any]:
    """
    Return what a record says, as mappings, lists, texts and numbers.

    Times are seconds since 1970 by the store's clock.

    Args:
        found: The record.
        result: Whether the stored outcome is in it, and not its size alone.
    """
    record = found.record
    return {
        **asdict(found.entry),
        "store": found.ground.store.identity,
        "token": record.token or None,
        "attempt": record.retries + 1 if record.token else None,
        "newest_message": _message(record.line),
        "announced_shutdown": record.draining,
        "suspected_deaths": [token / 1_000_000 for token in record.suspects],
        "outcome_bytes": None if record.outcome is None else len(record.outcome),
        **({"outcome": _text(record.outcome)} if result else {}),
        "closed": record.closed,
        "replays": record.replays,
        "replayed": _seconds(record.replayed_ms),
        "arguments_digest": record.payload or None,
        "reserved": _reserved(record),
        "window": _window(record),
        "other_jobs": [_other(job, fact) for job, fact in record.facts.items()],
        "kept_until": _seconds(record.expires_ms),
    }


def _message(line: int) -> dict[str, int]:
    retries, hops = divmod(line, HOPS_PER_RETRY)
    return {"retries": retries, "hops": hops}


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")


def _seconds(moment_ms: int | None) -> float | None:
    return moment_ms / 1_000 if moment_ms else None


def _reserved(record: Record) -> dict[str, Any] | None:
    waiting = record.waiting
    if waiting is None:
        return None
    times = {"until": _seconds(waiting.until_ms), "due": _seconds(waiting.due_ms)}
    return {"job": waiting.job, **times, "put_off_since": _seconds(waiting.first_ms)}


def _window(record: Record) -> dict[str, Any] | None:
    held = record.held
    if held is None:
        return None
    return {"job": held.job, "since": _seconds(held.since_ms), "until": _seconds(held.until_ms)}


def _other(job: str, fact: Fact) -> dict[str, Any]:
    return {
        "job": job,
        "state": State(fact.ended).name.lower() if fact.ended in set(State) else "not ended",
        "closed": fact.closed,
        "replays": fact.replays,
        "noted": _seconds(fact.at_ms),
        "newest_message": _message(fact.line),
    }
