"""Messages that a worker can do nothing with: kept, where Celery would drop them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import time
from typing import Any

from celery import bootsteps

from reliable_tasks.burial import log_dropped
from reliable_tasks.deadletter.letters import letter_of_message, source_of
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.storage import place_of, shelf_of

__all__ = ("RefusalStep", "keep")

logger = logging.getLogger("reliable_tasks")


class RefusalStep(bootsteps.StartStopStep):
    """
    Keeps an unknown task's message, one of a refused content type, and what is no task at all.

    Celery acknowledges or rejects each of them; they are kept before it does.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._wrapped = False

    def include_if(self, consumer: Any) -> bool:
        """Take part where there is a place to keep them."""
        try:
            place_of(consumer.app.conf)
        except ConfigurationError:
            return False
        return True

    def start(self, consumer: Any) -> None:
        """Stand before Celery's own answers; called again after each reconnection."""
        if not self._wrapped:
            self._wrapped = True
            _wrap(consumer)
        consumer.task_consumer.on_decode_error = consumer.on_decode_error  # it has Celery's own


def _wrap(consumer: Any) -> None:
    unknown_task, invalid = consumer.on_unknown_task, consumer.on_invalid_task
    unknown, undecodable = consumer.on_unknown_message, consumer.on_decode_error

    def on_unknown_task(body: Any, message: Any, error: BaseException) -> Any:
        name = (message.headers or {}).get("task")
        _rejected(consumer, message, f"the worker does not know the task {name}")
        return unknown_task(body, message, error)

    def on_invalid_task(body: Any, message: Any, error: BaseException) -> Any:
        _rejected(consumer, message, f"the worker refuses it: {error}")
        return invalid(body, message, error)

    def on_unknown_message(body: Any, message: Any) -> Any:
        _rejected(consumer, message, "it is no task's message")
        return unknown(body, message)

    def on_decode_error(message: Any, error: BaseException) -> Any:
        keep(consumer, message, f"it cannot be read: {error}")  # Celery acknowledges it
        return undecodable(message, error)

    _put(consumer, on_unknown_task, on_invalid_task, on_unknown_message, on_decode_error)


def _put(consumer: Any, *answers: Callable[..., Any]) -> None:
    for answer in answers:
        setattr(consumer, answer.__name__, answer)


def _rejected(consumer: Any, message: Any, reason: str) -> None:
    """Keep a message that Celery rejects, unless RabbitMQ has a place for it then."""
    queue = consumer.app.amqp.queues.get(source_of(consumer.app, message) or "")
    if queue is None or "x-dead-letter-exchange" not in (queue.queue_arguments or {}):
        keep(consumer, message, reason)


def keep(consumer: Any, message: Any, reason: str) -> None:
    """
    Put a message that no worker could take among the dead letters; that it is not is logged.

    Args:
        consumer: The worker's consumer.
        message: Kombu's.
        reason: Why, in words.
    """
    app = consumer.app
    try:
        letter = letter_of_message(
            message,
            reason=reason,
            at_ms=round(time() * 1_000),
            worker=consumer.hostname,
            queue=source_of(app, message),
        )
        store, shelf = place_of(app.conf).open(), shelf_of(app.conf)
        shelf.bury(store, letter.id, letter.encode(), at_ms=letter.at_ms, dropped=log_dropped)
    except Exception as error:
        logger.error("a message is refused and not among the dead letters: %s", error)
        return
    logger.warning("Task %s[%s] is among the dead letters: %s", letter.task, letter.id, reason)
