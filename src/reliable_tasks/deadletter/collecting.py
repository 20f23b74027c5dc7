"""What RabbitMQ itself took out of a queue, onto the shelf."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import time
from typing import Any

from kombu.entity import Queue
from kombu.exceptions import ChannelError

from reliable_tasks.broker.view import view_of
from reliable_tasks.burial import Shelf, log_dropped
from reliable_tasks.core.store import Store
from reliable_tasks.deadletter.letters import Letter, letter_of_message
from reliable_tasks.deadletter.shelves import operator
from reliable_tasks.storage import place_of, shelf_of

__all__ = ("collect", "uncollected")

logger = logging.getLogger("reliable_tasks")

_WORDS = {
    "delivery_limit": "it was delivered more often than its queue allows",
    "rejected": "a worker refused it",
    "expired": "its time in the queue was over",
    "maxlen": "its queue was full",
}


def uncollected(app: Any) -> dict[str, int]:
    """
    Return how many messages lie in each queue of dead letters, of those that are there.

    Raises:
        BrokerUnseen: The broker did not answer.
    """
    names = list(_dead_queues(app))
    if not names:
        return {}
    view = view_of(app)
    try:
        return {queue.name: queue.depth for queue in view.queues(names)}
    finally:
        view.close()


def collect(app: Any) -> Iterator[str]:
    """
    Move the messages from the queues of dead letters onto the shelf, and yield each job.

    A message is acknowledged once its letter is kept. A job that has a letter already keeps it, for
    it knows more.

    Args:
        app: The Celery app.

    Raises:
        ConfigurationError: There is no store.
        StoreUnavailable: It did not answer; the rest stays where it is.
        OSError: The broker did not answer; the rest stays where it is.
    """
    store, shelf = place_of(app.conf).open(), shelf_of(app.conf)
    with app.connection_for_write() as connection:
        for name, source in _dead_queues(app).items():
            yield from _emptied(connection, name, source, store, shelf)


def _emptied(connection: Any, name: str, source: str, store: Store, shelf: Shelf) -> Iterator[str]:
    with connection.channel() as channel:
        queue = Queue(name, channel=channel, no_declare=True)
        try:
            while (message := queue.get()) is not None:
                letter = _letter(message, source)
                _keep(letter, store, shelf)
                message.ack()
                yield letter.id
        except ChannelError as error:
            if str(error.reply_code) != "404":  # it is declared when a worker starts
                raise


def _keep(letter: Letter, store: Store, shelf: Shelf) -> None:
    if store.letter(shelf.name, letter.id) is None:
        whole = replace(letter, attempts=shelf.past(store, letter.id))
        shelf.bury(store, letter.id, whole.encode(), at_ms=letter.at_ms, dropped=log_dropped)
    logger.warning("Task %s[%s] was put among the dead letters by %s: %s",
                   letter.task, letter.id, operator(), letter.reason)  # fmt: skip


def _letter(message: Any, source: str) -> Letter:
    deaths = (message.headers or {}).get("x-death") or [{}]
    why = str(_said(deaths[0], "reason"))
    return letter_of_message(
        message,
        reason=f"RabbitMQ: {_WORDS.get(why, why)} ({why})",
        at_ms=round(time() * 1_000),
        worker="",
        queue=source,
    )


def _said(death: Mapping[str, Any], name: str) -> Any:
    return death.get(name) or "unknown"


def _dead_queues(app: Any) -> dict[str, str]:
    """Return the queues of dead letters that the app's queues name, and whose each is."""
    found = {}
    for name, queue in app.amqp.queues.items():
        arguments = queue.queue_arguments or {}
        dead = arguments.get("x-dead-letter-routing-key")
        if dead and "x-dead-letter-exchange" in arguments:
            found[str(dead)] = str(name)
    return found
