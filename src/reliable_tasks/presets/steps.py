"""What a worker checks of its settings and its queues before it takes a message."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from amqp.exceptions import PreconditionFailed
from celery import bootsteps
from kombu.entity import Queue

from reliable_tasks.errors import ConfigurationError
from reliable_tasks.presets.conflicts import (
    command_line_conflicts,
    conflicts,
    pool_conflicts,
    task_conflicts,
)

__all__ = ("QueueStep", "SettingsStep", "conflicts", "declare")

logger = logging.getLogger("reliable_tasks")

APPLIED = "reliable_tasks_settings"
"""Attribute of an app, where `setup` keeps what it was given."""


OPTIONS = {
    "task_time_limit": "time_limit",
    "task_soft_time_limit": "soft_time_limit",
    "worker_prefetch_multiplier": "prefetch_multiplier",
}
"""Of a worker's command line, by the settings that they go before."""


class SettingsStep(bootsteps.Step):
    """Warns of what the app and the worker say that a promise of the preset does not survive."""

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        applied = getattr(parent.app, APPLIED, None)
        for settings in applied.sources if applied is not None else ():
            for conflict in _all_conflicts(settings, parent):
                logger.warning("%s", conflict)


def _all_conflicts(settings: Mapping[str, Any], worker: Any) -> Iterator[str]:
    conf = worker.app.conf
    given = {name: getattr(worker, option) for name, option in OPTIONS.items()}
    yield from conflicts(settings, conf)
    yield from command_line_conflicts(
        settings, {name: value for name, value in given.items() if value != conf.get(name)}
    )
    yield from pool_conflicts(settings, worker.pool_cls.__module__)
    yield from task_conflicts(settings, worker.app.tasks.values())


class QueueStep(bootsteps.StartStopStep):
    """
    Declares queues that have arguments and those of dead letters, and explains what is refused.

    Celery's consumer takes a refusal for a lost connection, and tries again for ever.
    """

    def start(self, parent: Any) -> None:
        """Do it before the worker consumes; a broker that is not there is waited for later."""
        queues = [queue for queue in parent.app.amqp.queues.values() if queue.queue_arguments]
        if not queues:
            return
        with parent.app.connection_for_write() as connection:
            if connection.transport.driver_type != "amqp":
                return
            try:
                declare(connection, queues)
            except connection.recoverable_connection_errors as error:
                logger.warning("the queues of dead letters were not declared: %s", error)


def declare(connection: Any, queues: list[Any]) -> None:
    """
    Declare queues, and those of their dead letters.

    Args:
        connection: A connection of Kombu's to RabbitMQ.
        queues: Kombu's queues.

    Raises:
        ConfigurationError: A queue exists with other arguments.
    """
    for queue in queues:
        try:
            with connection.channel() as channel:
                queue.bind(channel).declare()
                if name := queue.queue_arguments.get("x-dead-letter-routing-key"):
                    _dead_letters(name).bind(channel).declare()
        except PreconditionFailed as error:
            raise ConfigurationError(
                f"task_queues: expected no queue {queue.name!r} with other arguments on this "
                f"virtual host, but RabbitMQ says: {error.reply_text}. RabbitMQ never changes a "
                "queue. Give it another name in the preset (queues=...), let workers of the old "
                "settings empty the old one, and delete it; or keep it, with what it was declared "
                "with (queue_type, longest_task, longest_countdown, delivery_limit)."
            ) from error


def _dead_letters(name: str) -> Any:
    return Queue(name, routing_key=name, queue_arguments={"x-queue-type": "quorum"})
