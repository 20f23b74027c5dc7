"""What a team needs, checked (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reliable_tasks.core.durations import Seconds, to_ms
from reliable_tasks.errors import ConfigurationError

__all__ = ("Needs", "optional_seconds", "read_needs", "seconds", "whole")

TO_CLEAN_UP = 30  # seconds from the soft time limit to the hard one
SHUTDOWN_MARGIN = 5  # seconds that a worker takes to end once its soft shutdown is over
IO_CONCURRENCY = 20
WORKLOADS, PUBLISHERS = ("cpu", "io"), ("web", "worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """
    What both presets start from; times in seconds.

    Made by `read_needs`. *concurrency* is None where Celery's own choice is right.
    """

    longest_task: float
    longest_countdown: float
    workload: str
    concurrency: int | None
    grace_period: float
    lease_seconds: float
    publishers: str
    queues: tuple[str, ...]

    @property
    def hard_limit(self) -> float:
        """When a task is killed."""
        return self.longest_task + TO_CLEAN_UP

    @property
    def soft_shutdown(self) -> float:
        """How long a worker that must end lets its tasks go on."""
        return self.grace_period - SHUTDOWN_MARGIN

    @property
    def is_web(self) -> bool:
        """Whether a publisher has somebody waiting for it."""
        return self.publishers == "web"


def read_needs(
    *,
    longest_task: Seconds,
    longest_countdown: Seconds,
    workload: str,
    concurrency: int | None,
    grace_period: Seconds,
    lease_seconds: Seconds,
    publishers: str,
    queues: str | Sequence[str],
) -> Needs:
    """
    Check what was asked for.

    Raises:
        ConfigurationError: A value is none of those that are expected.
    """
    _choose("workload", workload, WORKLOADS)
    _choose("publishers", publishers, PUBLISHERS)
    if concurrency is None and workload == "io":
        concurrency = IO_CONCURRENCY
    return Needs(
        longest_task=seconds("longest_task", longest_task, least=1),
        longest_countdown=seconds("longest_countdown", longest_countdown, least=0),
        workload=workload,
        concurrency=None if concurrency is None else whole("concurrency", concurrency),
        grace_period=_grace(grace_period),
        lease_seconds=seconds("lease_seconds", lease_seconds, least=0.1),
        publishers=publishers,
        queues=_names(queues),
    )


def seconds(option: str, value: Seconds, *, least: float) -> float:
    """Return a duration in seconds, a whole number if it is one."""
    found = to_ms(option, value, least=least) / 1_000
    return int(found) if found.is_integer() else found


def optional_seconds(option: str, value: Seconds | None) -> float | None:
    """Return a duration of at least a second, or None if none was given."""
    return None if value is None else seconds(option, value, least=1)


def _grace(value: Seconds) -> float:
    grace = seconds("grace_period", value, least=0)
    if grace <= SHUTDOWN_MARGIN:
        raise ConfigurationError(
            f"grace_period: expected above the {SHUTDOWN_MARGIN} s that a worker takes to end "
            f"after its soft shutdown, got {grace:g} s. It would be killed in the middle of it."
        )
    return grace


def _choose(option: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{option}: expected one of {allowed}, got {value!r}")


def whole(option: str, value: Any) -> int:
    """Return *value*, or refuse what is no whole number from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{option}: expected a whole number from 1, got {value!r}")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    is_several = isinstance(value, Iterable) and bool(value)
    if not is_several or not all(isinstance(name, str) and name for name in value):
        raise ConfigurationError(f"queues: expected names of queues, got {value!r}")
    names = tuple(str.__str__(name) for name in value)  # of a member of an enum its value
    if len(set(names)) < len(names):
        raise ConfigurationError(f"queues: expected each name once, got {value!r}")
    return names
