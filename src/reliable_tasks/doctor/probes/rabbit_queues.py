"""The queues of a RabbitMQ, by declarations that change nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from amqp.exceptions import AccessRefused, ChannelError, NotFound, PreconditionFailed

from reliable_tasks.doctor.facts import Queue

__all__ = ("Counted", "RabbitQueues")

UNLIKE = re.compile(
    r"inequivalent arg '(?P<name>[^']+)'.*"
    r"but current is (?:the value '(?P<value>[^']*)'|(?P<bare>[^\s']+)|'(?P<quoted>[^']*)')"
)
MOST_ARGUMENTS = 20


@dataclass(frozen=True, slots=True)
class Counted:
    """A queue at one moment."""

    depth: int | None = None  # None: RabbitMQ does not tell, for it is another connection's
    consumers: int | None = None


class RabbitQueues:
    """
    Asks for queues and exchanges by name.

    What a queue was declared with is found out by declaring it again as the app does: RabbitMQ
    names the argument that differs, and an equal declaration changes nothing.

    Args:
        connection: Kombu's, open.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def look(self, names: Iterable[str]) -> dict[str, Counted]:
        """Return those that exist."""
        found = {name: self._counted(name) for name in names}
        return {name: counted for name, counted in found.items() if counted is not None}

    def _counted(self, name: str) -> Counted | None:
        with self._connection.channel() as channel:
            try:
                _, depth, consumers = channel.queue_declare(name, passive=True)
            except NotFound:
                return None
            except ChannelError:
                return Counted()
        return Counted(depth, consumers)

    def described(self, name: str, declared: Any, counted: Counted) -> Queue:
        """
        Return an existing queue with what it was declared with.

        Args:
            name: Its name.
            declared: Kombu's queue, as the app declares it; None if it does not.
            counted: What is in it.
        """
        queue = Queue(name=name, depth=counted.depth, consumers=counted.consumers)
        if declared is None:
            return queue
        arguments = self._arguments(declared)
        return replace(
            queue,
            arguments=arguments,
            kind=None if arguments is None else str(arguments.get("x-queue-type") or "classic"),
            exchange_type=self._exchange_type(declared.exchange),
        )

    def _arguments(self, declared: Any) -> Mapping[str, Any] | None:
        """Return those of the broker; None if it does not tell."""
        queue = copy(declared)
        queue.queue_arguments = dict(declared.queue_arguments or {})
        for _ in range(MOST_ARGUMENTS):
            with self._connection.channel() as channel:
                try:
                    queue.bind(channel).queue_declare(passive=False)
                except PreconditionFailed as error:  # it names one that differs
                    corrected = _corrected(queue.queue_arguments, error.reply_text)
                except (AccessRefused, ChannelError):
                    return None
                else:
                    return dict(queue.queue_arguments)
            if corrected == queue.queue_arguments:
                return None
            queue.queue_arguments = corrected
            if not all(name.startswith("x-") for name in corrected):
                return corrected  # such as durable, which is none of the arguments
        return None

    def _exchange_type(self, exchange: Any) -> str | None:
        """Return the type of an exchange; None if there is none, or nobody tells."""
        with self._connection.channel() as channel:
            try:
                if not exchange.name:
                    return "direct"  # the default exchange
                channel.exchange_declare(exchange.name, exchange.type, passive=True)
                exchange.bind(channel).declare()
            except PreconditionFailed as error:
                return _corrected({"type": exchange.type}, error.reply_text).get("type")
            except (AccessRefused, ChannelError):
                return None
        return str(exchange.type)


def _corrected(own: dict[str, Any], said: str) -> dict[str, Any]:
    """Return what was declared with the one argument of which the broker says another."""
    unlike = UNLIKE.search(said)
    if unlike is None:
        return own
    value = unlike["value"] or unlike["quoted"] or unlike["bare"]
    rest = {name: each for name, each in own.items() if name != unlike["name"]}
    if value == "none":
        return rest
    return {**rest, unlike["name"]: int(value) if value.isdigit() else value}
