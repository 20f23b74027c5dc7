"""For how long workers may hold messages, and when brokers deliver them again (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from reliable_tasks.doctor.checks.kit import RABBITMQ, REDIS, longest, visibility_timeout
from reliable_tasks.doctor.facts import Declared, Facts, Settings, Task
from reliable_tasks.doctor.findings import ERROR, WARNING
from reliable_tasks.doctor.versions import is_at_least, numbers
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.presets.rules import check_visibility_timeout

__all__ = (
    "MARGIN",
    "Fault",
    "breach",
    "hold",
    "ignores_argument",
    "late",
    "redelivery_time",
    "servers_own",
    "severity_of",
    "timeout_in_force",
    "timeout_wanted",
    "too_short_without_heartbeat",
)

MARGIN = 60  # seconds for a worker to settle what ended, as in the presets
SERVERS_OWN = 1_800.0  # seconds; RabbitMQ's default consumer timeout


@dataclass(frozen=True, slots=True)
class Fault:
    """
    A time-out that is shorter than a worker may hold a message.

    Attributes:
        text: What a rule of the presets says.
        is_certain: Whether one job alone can last longer.
        longest: How long that is, in seconds.
    """

    text: str
    is_certain: bool
    longest: float

    @property
    def enough(self) -> float:
        """A time-out that is long enough, without countdowns, in seconds."""
        return 2 * self.longest + MARGIN


def breach(rule: Callable[..., None], *values: Any) -> str | None:
    """Return what a rule of the presets says against *values*, if anything."""
    try:
        rule(*values)
    except ConfigurationError as error:
        return str(error)
    return None


def late(tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks whose messages are held while they run."""
    return [task for task in tasks if task.acks_late]


def hold(rule: Callable[..., None], timeout: float, tasks: Iterable[Task]) -> Fault | None:
    """
    Compare *timeout* with how long a worker may hold messages of *tasks*, by a rule of the presets.

    It is certain if one task alone can last longer. Countdowns come on top; nobody knows those.
    """
    limit = longest(late(tasks))
    if not limit:
        return None
    made_of = f"the hard time limit {limit:g} s"
    if text := breach(rule, timeout, limit, made_of):
        return Fault(text, is_certain=True, longest=limit)
    made_of += f" twice, for the task before it may last as long, and {MARGIN} s"
    if text := breach(rule, timeout, 2 * limit + MARGIN, made_of):
        return Fault(text, is_certain=False, longest=limit)
    return None


def too_short_without_heartbeat(settings: Settings, timeout: float | None = None) -> str | None:
    """
    Return why the visibility timeout is too short for a worker that has no heartbeat.

    Args:
        settings: The app's.
        timeout: Another visibility timeout than its own, in seconds.
    """
    seconds = visibility_timeout(settings) if timeout is None else timeout
    fault = hold(check_visibility_timeout, seconds, settings.tasks)
    return None if fault is None else fault.text


def severity_of(fault: Fault, tasks: Iterable[Task]) -> str:
    """A guarded job that is delivered twice takes effect once."""
    is_harmless = all(task.guarded for task in late(tasks))
    return ERROR if fault.is_certain and not is_harmless else WARNING


def timeout_in_force(queue: Declared, facts: Facts) -> float:
    """Return a queue's consumer timeout in seconds, as the server reads it."""
    wanted = timeout_wanted(queue)
    return servers_own(facts) if wanted is None or ignores_argument(facts) else wanted


def timeout_wanted(queue: Declared) -> float | None:
    """Return the consumer timeout that a queue is declared with, in seconds."""
    wanted = queue.arguments.get("x-consumer-timeout")
    return None if wanted is None else float(wanted) / 1_000


def ignores_argument(facts: Facts) -> bool:
    """Whether this RabbitMQ is known not to read the consumer timeouts of queues."""
    rabbit = facts.broker.rabbit if facts.broker is not None else None
    return (
        rabbit is not None
        and bool(numbers(rabbit.version))
        and not is_at_least(rabbit.version, 3, 12)
    )


def servers_own(facts: Facts) -> float:
    """Return the consumer timeout of queues that are declared without one, in seconds."""
    rabbit = facts.broker.rabbit if facts.broker is not None else None
    return (rabbit.consumer_timeout if rabbit is not None else None) or SERVERS_OWN


def redelivery_time(task: Task, facts: Facts) -> float | None:
    """Return after how many seconds the broker delivers what a dead worker held."""
    settings = facts.settings
    if settings.reads.kind == REDIS:
        return visibility_timeout(settings)
    if settings.reads.kind != RABBITMQ:
        return None
    queue = next((each for each in settings.declared if each.name == task.queue), None)
    return servers_own(facts) if queue is None else timeout_in_force(queue, facts)
