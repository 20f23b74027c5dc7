"""What happens in a demo: the messages and the faults, the same for both sides (pure)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

__all__ = ("LEAST_JOBS", "Blow", "Fault", "Message", "Plan", "Point", "draw")

LEAST_JOBS = 10
MOST_FAULTS = 12
JOBS_PER_FAULT = 25
JOBS_PER_DUPLICATE = 10
LATEST_COPY = 25  # messages between a first message and its copy


class Blow(StrEnum):
    """What is done to a process."""

    KILL_CHILD = "child"
    KILL_WORKER = "worker"
    PAUSE = "pause"


class Point(StrEnum):
    """Where in a payment it is done."""

    BEFORE = "before the charge"
    AFTER = "between the charge and its record"


@dataclass(frozen=True, slots=True)
class Fault:
    """A blow at a point of the first execution of a payment."""

    blow: Blow
    point: Point


@dataclass(frozen=True, slots=True)
class Message:
    """One message to publish; two with one *task_id* are the same message sent twice."""

    payment: int
    task_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Messages in the order of publishing, and the payments at which a fault waits."""

    messages: tuple[Message, ...]
    faults: dict[int, Fault]

    @property
    def sent_again(self) -> int:
        """How many payments are published more than once."""
        counts: dict[int, int] = {}
        for message in self.messages:
            counts[message.payment] = counts.get(message.payment, 0) + 1
        return sum(count > 1 for count in counts.values())


_FAULTS = (
    Fault(Blow.KILL_CHILD, Point.BEFORE),
    Fault(Blow.KILL_WORKER, Point.BEFORE),
    Fault(Blow.PAUSE, Point.BEFORE),
    Fault(Blow.KILL_CHILD, Point.AFTER),
    Fault(Blow.KILL_CHILD, Point.BEFORE),
    Fault(Blow.KILL_WORKER, Point.BEFORE),
)


def draw(jobs: int, seed: int) -> Plan:
    """
    Return the plan for *jobs* payments; the same for the same *seed*.

    Args:
        jobs: Payments, numbered from 1; at least `LEAST_JOBS`.
        seed: Any integer.
    """
    rng = random.Random(seed)
    faults = _draw_faults(jobs, rng)
    return Plan(_draw_messages(jobs, faults, rng), faults)


def _draw_faults(jobs: int, rng: random.Random) -> dict[int, Fault]:
    """Spread faults over the first four fifths, so that both sides end soon after the last."""
    count = max(4, min(MOST_FAULTS, jobs // JOBS_PER_FAULT))
    stride = jobs * 0.8 / count
    places = [1 + int(stride * index + (stride - 1) * rng.random()) for index in range(count)]
    return {place: _FAULTS[index % len(_FAULTS)] for index, place in enumerate(places)}


def _draw_messages(jobs: int, faults: dict[int, Fault], rng: random.Random) -> tuple[Message, ...]:
    """Publish every payment, some of them again: as a new message or as the same one."""
    again = set(rng.sample(range(1, jobs + 1), max(2, jobs // JOBS_PER_DUPLICATE)))
    struck = sorted(place for place, fault in faults.items() if fault.point is Point.BEFORE)
    again |= set(struck[::2])  # a crash while a copy races it is the harder case
    placed: list[tuple[float, Message]] = []
    for payment in range(1, jobs + 1):
        first = Message(payment, _task_id(rng))
        placed.append((payment, first))
        for copy in range(rng.choice((1, 1, 2)) if payment in again else 0):
            same_message = (payment + copy) % 2
            message = first if same_message else Message(payment, _task_id(rng))
            placed.append((payment + rng.uniform(0, LATEST_COPY), message))
    placed.sort(key=lambda each: each[0])
    return tuple(message for _, message in placed)


def _task_id(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))
