"""What must hold between two settings; each error names both sides (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

from reliable_tasks.errors import ConfigurationError

__all__ = (
    "check_consumer_timeout",
    "check_countdown",
    "check_dead_letter_queues",
    "check_delivery_limit",
    "check_horizon",
    "check_lease",
    "check_queue_names",
    "check_routing_keys",
    "check_visibility_timeout",
)

LONGEST_DELAY = 2**28 - 1  # seconds that RabbitMQ's delayed delivery can count


def check_visibility_timeout(timeout: float, longest_silence: float, made_of: str) -> None:
    """Refuse a visibility timeout that ends while a living worker still holds a message."""
    if timeout < longest_silence:
        raise ConfigurationError(
            f"visibility_timeout: expected at least {longest_silence:g} s, for which a worker may "
            f"hold a message without a word ({made_of}), got {timeout:g} s. Redis would deliver "
            "the message again while it waits or runs."
        )


def check_consumer_timeout(timeout: float, longest_hold: float, made_of: str) -> None:
    """Refuse a consumer timeout that ends while a living worker still holds a message."""
    if timeout < longest_hold:
        raise ConfigurationError(
            f"consumer_timeout: expected at least {longest_hold:g} s, for which a worker may hold "
            f"a message ({made_of}), got {timeout:g} s. RabbitMQ would close the worker's channel "
            "and deliver the message again while it runs."
        )


def check_lease(lease: float, horizon: float) -> None:
    """Refuse a lease that outlives the record that it is written in."""
    if lease > horizon:
        raise ConfigurationError(
            f"lease_seconds: expected at most redelivery_horizon ({horizon:g} s), got {lease:g} s. "
            "A record must outlive every copy of its message."
        )


def check_horizon(horizon: float, latest_copy: float, made_of: str) -> None:
    """Refuse records that are forgotten while a copy of their message may still turn up."""
    if horizon < latest_copy:
        raise ConfigurationError(
            f"redelivery_horizon: expected at least {latest_copy:g} s, after which a copy of a "
            f"message may turn up ({made_of}), got {horizon:g} s. The copy would be a new job."
        )


def check_delivery_limit(limit: int, max_crashes: int) -> None:
    """Refuse a broker that gives up on a message before the crash count does."""
    if limit <= max_crashes:
        raise ConfigurationError(
            f"delivery_limit: expected above max_crashes ({max_crashes}), got {limit}. RabbitMQ "
            "would take the job away before it is quarantined, for no reason that anybody is told."
        )


def check_countdown(longest: float) -> None:
    """Refuse countdowns that delayed delivery cannot count."""
    if longest > LONGEST_DELAY:
        raise ConfigurationError(
            f"longest_countdown: expected at most the {LONGEST_DELAY} s that RabbitMQ's delayed "
            f"delivery can count, got {longest:g} s."
        )


def check_queue_names(queues: Sequence[str]) -> None:
    """Refuse names that RabbitMQ keeps for itself."""
    for name in queues:
        if name.startswith("amq."):
            raise ConfigurationError(
                f"queues: expected no name that begins with amq., got {name!r}. RabbitMQ keeps "
                "those for itself."
            )


def check_dead_letter_queues(queues: Sequence[str], of: Callable[[str], str]) -> None:
    """
    Refuse a queue of jobs that is also one of dead letters.

    Args:
        queues: The queues of jobs.
        of: Names the queue of a queue's dead letters.
    """
    for name in queues:
        if of(name) in queues:
            raise ConfigurationError(
                f"queues: expected no queue with the name of another one's dead letters, got "
                f"{name!r} and {of(name)!r}. Their arguments differ, so RabbitMQ would refuse it."
            )


def check_routing_keys(queues: Sequence[str]) -> None:
    """Refuse names of queues that would get each other's messages."""
    for name in queues:
        if set(name.split(".")) & {"*", "#"}:
            raise ConfigurationError(
                f"queues: expected no name with * or # between its dots, got {name!r}. A topic "
                "exchange takes them for any word, so that this queue would get others' jobs too."
            )
    for one, other in permutations(queues, 2):
        if one.endswith(f".{other}"):
            raise ConfigurationError(
                f"queues: expected no name that ends in a dot and another one, got {one!r} and "
                f"{other!r}. Delayed delivery finds a queue by the end of the routing key: "
                f"countdowns for {one!r} would also run from {other!r}."
            )
