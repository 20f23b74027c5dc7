"""Which deliveries a worker goes on to hold (pure)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

__all__ = ("PATIENCE", "Holdings", "Plan", "Run", "interval_of", "plan")

PATIENCE = 300.0  # seconds; a loop that waits for a result backend that is down is not wedged
LONGEST_INTERVAL = 15.0  # seconds
BEATS_PER_TIMEOUT = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One job that runs. Times in seconds of the clock that `plan` is told of."""

    tag: str
    name: str
    ends_at: float  # its hard time limit or max_run, and a margin
    is_acknowledged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """
    What a worker has in its hands.

    Attributes:
        delivered: Tags of what its consumer took and did not acknowledge.
        runs: The jobs that run, those of earlier connections included.
        slots: How many can run at once.
        silent_for: Seconds since the consumer's loop last turned.
        loop_may_rest: Whether the loop stands still while a job runs: in the solo
            pool, and while the worker shuts down.
    """

    delivered: Collection[str]
    runs: Collection[Run]
    slots: int
    silent_for: float
    loop_may_rest: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What to hold on to, and what is let go for which reason."""

    tags: frozenset[str]
    overdue: Mapping[str, str]  # names of jobs by tag
    is_stuck: bool = False


def plan(holdings: Holdings, now: float) -> Plan:
    """
    Choose the deliveries that stay invisible to others.

    A job that runs is held until its time is over. What waits is held for as long as the worker
    gets on: not when jobs whose time is over have all of its slots. Nothing is held by a worker
    whose loop has stopped, for it could not acknowledge anything either.

    Args:
        holdings: What the worker has.
        now: Seconds of the clock of `Run.ends_at`.
    """
    alive = [run for run in holdings.runs if now < run.ends_at]
    overdue = {run.tag: run.name for run in holdings.runs if now >= run.ends_at}
    rests = holdings.loop_may_rest and bool(alive)
    if holdings.silent_for >= PATIENCE and not rests:
        return Plan(frozenset(), overdue, is_stuck=True)
    tags = {run.tag for run in alive if not run.is_acknowledged}
    if len(overdue) < holdings.slots:
        tags.update(set(holdings.delivered).difference(overdue))
    return Plan(frozenset(tags), overdue)


def interval_of(visibility_timeout: float) -> float:
    """Return the seconds from one beat to the next, so that three may fail in a row."""
    return min(visibility_timeout / BEATS_PER_TIMEOUT, LONGEST_INTERVAL)
