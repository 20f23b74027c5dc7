"""Where a job can be, and the form of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from reliable_tasks.inspection.why.evidence import Gap, Jot

__all__ = ("OVER", "Facts", "Note", "Standing", "Verdict", "known")


class Standing(StrEnum):
    """Where a job is."""

    RUNNING = "running"
    ABANDONED = "abandoned"
    QUARANTINED = "quarantined"
    DONE = "done"
    REVOKED = "revoked"
    EXPIRED = "expired"
    REPLACED = "replaced"
    UNREGISTERED = "unregistered"
    REFUSED = "refused"
    DEAD_LETTER = "dead-letter"
    FAILED = "failed"
    DUPLICATE = "duplicate"
    RETRYING = "retrying"
    DEFERRED = "deferred"
    PREFETCHED = "prefetched"
    SCHEDULED = "scheduled"
    HELD = "held"
    QUEUED = "queued"
    RESERVED = "reserved"
    PUBLISHED = "published"
    UNKNOWN = "unknown"


Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Note:
    """Something beside the verdict that an operator should know."""

    name: str
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """
    Where a job is, and for what reason.

    Attributes:
        task_id: The job.
        now: When it was looked for, seconds since 1970.
        standing: Where it is.
        source: Who says so: ``workers``, ``record``, ``broker``, ``result backend``, ``dead
            letters``, ``flight recorder``, or nobody.
        facts: The details; times in seconds since 1970.
        notes: What else is known.
        jots: What the flight recorder has.
        gaps: What was not looked at.
    """

    task_id: str
    now: float
    standing: Standing
    source: str = ""
    facts: Facts = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    jots: tuple[Jot, ...] = ()
    gaps: tuple[Gap, ...] = ()


OVER = {
    Standing.DONE,
    Standing.FAILED,
    Standing.QUARANTINED,
    Standing.DEAD_LETTER,
    Standing.REVOKED,
    Standing.EXPIRED,
}
"""A job that is there does not run again."""


def known(**facts: Any) -> dict[str, Any]:
    """Return the facts that are not None."""
    return {name: value for name, value in facts.items() if value is not None}
