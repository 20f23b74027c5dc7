"""The words in which every broker is described."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ("LIMIT", "BrokerUnseen", "BrokerView", "Held", "Kind", "QueueView", "Search", "Sighting")

LIMIT = 10_000  # messages that one search reads at most

Kind = Literal["list", "classic", "quorum", "stream"]


class BrokerUnseen(Exception):
    """The broker did not answer, or did not let us in; the text has no password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """
    One queue.

    Attributes:
        name: As Celery names it.
        depth: Messages that wait in it.
        consumers: Workers that read it; None where the broker cannot say.
        unacked: Messages of it that workers hold; None where the broker cannot say.
        kind: What it is at the broker; None where the broker cannot say.
    """

    name: str
    depth: int
    consumers: int | None = None
    unacked: int | None = None
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """
    What all workers of a broker together hold unacknowledged.

    Attributes:
        count: Messages.
        oldest: Seconds since a worker took the one that was longest not heard of, or its
            heartbeat last named it; None if there is none, or the broker cannot say.
    """

    count: int
    oldest: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """
    One message of a job.

    Attributes:
        queue: Where it waits, or came from.
        state: ``queued``; or held by a worker: ``unacked``, or ``scheduled`` for its ETA.
        ahead: Messages before it in its queue; None for one that is held.
        eta: When it may begin, as the message says it: ISO 8601.
        redelivered: Whether it was delivered before.
        since: For one that is held: seconds since 1970 when a worker took it, or its heartbeat
            last named it.
        headers: Of the message.
    """

    queue: str
    state: Literal["queued", "unacked", "scheduled"]
    ahead: int | None = None
    eta: str | None = None
    redelivered: bool = False
    since: float | None = None
    headers: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Search:
    """
    What a search for a job's messages has found.

    Attributes:
        sightings: The messages.
        read: How many messages were read.
        gap: Why others may have been missed; empty if every message was read.
    """

    sightings: tuple[Sighting, ...] = ()
    read: int = 0
    gap: str = ""


class BrokerView(Protocol):
    """Reads, takes nothing out, and answers within its time-out. Close it after use."""

    def queues(self, names: Iterable[str]) -> list[QueueView]:
        """
        Return those of the queues *names* that the broker has.

        Redis has no empty queues: there each is returned.

        Raises:
            BrokerUnseen: The broker did not answer.
        """
        ...

    def held(self) -> Held | None:
        """
        Return what workers hold, None where the broker cannot say.

        Raises:
            BrokerUnseen: The broker did not answer.
        """
        ...

    def find(self, task_id: str, names: Iterable[str], *, limit: int = LIMIT) -> Search:
        """
        Look for the messages of a job.

        Args:
            task_id: The job.
            names: Queues to look into; what workers hold is looked through besides.
            limit: How many messages to read at most.

        Raises:
            BrokerUnseen: The broker did not answer.
        """
        ...

    def close(self) -> None:
        """Close the connection, if it is open."""
        ...
