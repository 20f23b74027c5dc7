"""From what a worker has in its hands to what it reports (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ("MOST_NAMES", "Run", "Sample", "hangs", "idle_since")

MOST_NAMES = 3
UNRENEWED_LEASES = 2


@dataclass(frozen=True, slots=True)
class Run:
    """
    One job that runs. Times in seconds of the monotonic clock.

    Attributes:
        name: Of the task, with the job's id.
        ends_at: Its hard time limit or max_run, and a margin.
        lease: Length of its lease in seconds; None: it has none.
        renewed_at: When the process that runs it last renewed its leases; None: not known.
    """

    name: str
    ends_at: float
    lease: float | None = None
    renewed_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """
    What a worker has at one moment.

    Attributes:
        runs: The jobs that run.
        slots: How many can run at once.
        waiting: Jobs that were handed to the pool and have not begun.
        begun: How many have begun since the worker's start.
        is_closing: Whether it shuts down.
        runs_in_loop: Whether jobs run in the main loop, as in the solo pool.
    """

    runs: Sequence[Run]
    slots: int
    waiting: int
    begun: int
    is_closing: bool
    runs_in_loop: bool


def hangs(run: Run, now: float) -> bool:
    """Whether a job is past its time, or its process has not renewed for two leases."""
    if now >= run.ends_at:
        return True
    if run.lease is None or run.renewed_at is None:
        return False
    return now - run.renewed_at > UNRENEWED_LEASES * run.lease


def idle_since(
    before: Sample | None, sample: Sample, since: float | None, now: float
) -> float | None:
    """
    Return since when jobs wait though a slot is free, and none has begun.

    Args:
        before: The sample before this one.
        sample: The present one.
        since: What was returned for *before*.
        now: When *sample* was taken.
    """
    if not sample.waiting or len(sample.runs) >= sample.slots:
        return None
    if before is None or before.begun != sample.begun or since is None:
        return now
    return since
