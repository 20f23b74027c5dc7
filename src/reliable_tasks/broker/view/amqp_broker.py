"""What RabbitMQ tells of its queues, and what any broker of kombu's tells of their depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport.native_delayed_delivery import MAX_LEVEL, level_name

from reliable_tasks.broker.view.line import Line
from reliable_tasks.broker.view.management import Managed, Management
from reliable_tasks.broker.view.seen import LIMIT, BrokerUnseen, Held, QueueView, Search

__all__ = ("AmqpView", "PlainView", "delayed_queues")

CANNOT_SEARCH = (
    "RabbitMQ lets nobody look into a queue without taking messages out, which would count as "
    "deliveries"
)
NOT_FOUND = "404"


class PlainView:
    """
    Depths alone, as every broker of kombu's can tell them.

    Args:
        line: The connection.
    """

    gap = "kombu cannot look into a queue of this broker without taking messages out"
    tells_consumers = False

    def __init__(self, line: Line) -> None:
        self._line = line

    def queues(self, names: Iterable[str]) -> list[QueueView]:
        """See `BrokerView`."""
        found = (self._declared(name) for name in names)
        return [queue for queue in found if queue is not None]

    def held(self) -> Held | None:
        """See `BrokerView`."""
        return None

    def find(
        self,
        task_id: str,  # noqa: ARG002 - the protocol's
        names: Iterable[str],  # noqa: ARG002
        *,
        limit: int = LIMIT,  # noqa: ARG002
    ) -> Search:
        """See `BrokerView`."""
        return Search(gap=self.gap)

    def close(self) -> None:
        """See `BrokerView`."""
        self._line.close()

    def _declared(self, name: str) -> QueueView | None:
        """Ask for a queue by a declaration that makes none; a refusal closes the channel."""
        with self._line.channel() as channel:
            try:
                _, depth, consumers = channel.queue_declare(name, passive=True)
            except ChannelError as error:
                if str(error.reply_code) == NOT_FOUND:
                    return None
                raise
        return QueueView(
            name=name, depth=depth, consumers=consumers if self.tells_consumers else None
        )


class AmqpView(PlainView):
    """
    RabbitMQ: by passive declarations, and what its management interface knows besides.

    Args:
        line: The connection.
        management: The interface, whose counts are some seconds old.
    """

    gap = CANNOT_SEARCH
    tells_consumers = True

    def __init__(self, line: Line, management: Management) -> None:
        super().__init__(line)
        self._management = management

    def queues(self, names: Iterable[str]) -> list[QueueView]:
        """See `BrokerView`."""
        managed = self._managed() or {}
        return [_with(queue, managed.get(queue.name)) for queue in super().queues(names)]

    def held(self) -> Held | None:
        """See `BrokerView`."""
        managed = self._managed()
        return None if managed is None else Held(sum(each.unacked for each in managed.values()))

    def _managed(self) -> Mapping[str, Managed] | None:
        try:
            return self._management.queues()
        except BrokerUnseen:
            return None


def delayed_queues(app: Any) -> list[str]:
    """Return the queues in which RabbitMQ holds messages until their time, if *app* uses them."""
    queues = app.amqp.queues.values()
    uses = any((each.queue_arguments or {}).get("x-queue-type") == "quorum" for each in queues)
    return [level_name(level) for level in range(MAX_LEVEL + 1)] if uses else []


def _with(queue: QueueView, managed: Managed | None) -> QueueView:
    if managed is None:
        return queue
    return replace(queue, unacked=managed.unacked, kind=managed.kind)
