"""Two brokers in memory, with what Redis and RabbitMQ do to deliveries whose consumer is gone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any

__all__ = ("Broker", "Held", "Letter", "RabbitBroker", "RedisBroker")


@dataclass(frozen=True, slots=True)
class Letter:
    """
    One message of a job.

    Attributes:
        job: The task id.
        key: The record.
        body: What the task does.
        has_key: Whether other jobs share the key.
        carries: Whether a callback hangs on it.
        payload: Digest of arguments that must agree.
        retries: Celery's count.
        hop: Successors before this one.
        due_us: Not executed earlier.
        abandoned: Deliveries that left the job to it.
        turn: Its place among the calls of the key, or nothing.
    """

    job: str
    key: str
    body: Callable[[Any], Any]
    has_key: bool = False
    carries: bool = True
    payload: str = ""
    retries: int = 0
    hop: int = 0
    due_us: int = 0
    abandoned: tuple[str, ...] = ()
    turn: int = 0

    def __str__(self) -> str:
        return f"{self.job}(retries={self.retries}, hop={self.hop})"


@dataclass(frozen=True, slots=True)
class Held:
    """One delivery in a consumer's hands."""

    tag: int
    letter: Letter
    consumer: Hashable


class Broker(ABC):
    """What both have: messages that are ready, and those that are not acknowledged."""

    def __init__(self) -> None:
        self.ready: list[tuple[int, Letter]] = []
        self.unacked: dict[int, Held] = {}
        self._tags = count(1)

    def publish(self, letter: Letter) -> None:
        """Put a new message into the queue."""
        self.ready.append((next(self._tags), letter))

    def receive(self, consumer: Hashable, tag: int) -> Held:
        """Hand the message with *tag* to a consumer."""
        place = next(place for place, (each, _) in enumerate(self.ready) if each == tag)
        _, letter = self.ready.pop(place)
        held = self.unacked[tag] = Held(tag, letter, consumer)
        return held

    @abstractmethod
    def acknowledge(self, held: Held) -> None:
        """Forget a delivery."""

    @abstractmethod
    def give_back(self, held: Held) -> None:
        """Put a delivery back into the queue."""

    @abstractmethod
    def disconnect(self, consumer: Hashable) -> None:
        """The consumer's connection is gone: it died, or it was silent for too long."""

    @abstractmethod
    def restore(self, tag: int) -> None:
        """A delivery was held for too long, whether its consumer lives or not."""


class RedisBroker(Broker):
    """
    kombu on Redis: nothing comes back before the visibility timeout.

    A message keeps its tag for life. When it is restored while its consumer still
    works on it, both copies have the same tag: acknowledging one removes the entry
    of the other, which is then safe nowhere.
    """

    def acknowledge(self, held: Held) -> None:
        self.unacked.pop(held.tag, None)

    def give_back(self, held: Held) -> None:
        if self.unacked.pop(held.tag, None) is not None:
            self.ready.append((held.tag, held.letter))

    def disconnect(self, consumer: Hashable) -> None:
        """Nothing happens: Redis does not know who holds what."""

    def restore(self, tag: int) -> None:
        """The visibility timeout is over."""
        self.ready.append((tag, self.unacked.pop(tag).letter))


class RabbitBroker(Broker):
    """
    RabbitMQ: what a channel has not acknowledged comes back as soon as it closes.

    Each delivery has a tag of its own, and a closed channel's tags mean nothing.
    """

    def acknowledge(self, held: Held) -> None:
        if self.unacked.get(held.tag) is held:
            del self.unacked[held.tag]

    def give_back(self, held: Held) -> None:
        if self.unacked.get(held.tag) is held:
            self.restore(held.tag)

    def disconnect(self, consumer: Hashable) -> None:
        """The channel is closed and everything that it held is queued again."""
        for held in [each for each in self.unacked.values() if each.consumer == consumer]:
            self.restore(held.tag)

    def restore(self, tag: int) -> None:
        """The consumer timeout is over: the channel is closed."""
        self.publish(self.unacked.pop(tag).letter)
