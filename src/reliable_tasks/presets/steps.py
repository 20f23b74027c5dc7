"""What a worker checks of its settings and its queues before it takes a message."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from amqp.exceptions import PreconditionFailed
from celery import bootsteps
from kombu.entity import Queue

from reliable_tasks.errors import ConfigurationError
from reliable_tasks.presets.addresses import masked
from reliable_tasks.presets.preset import Preset

__all__ = ("QueueStep", "SettingsStep", "conflicts", "declare")

logger = logging.getLogger("reliable_tasks")

APPLIED = "reliable_tasks_settings"
"""Attribute of an app, where `setup` keeps what it was given."""


class SettingsStep(bootsteps.Step):
    """Warns of settings of the app that a promise of its preset does not survive."""

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        applied = getattr(parent.app, APPLIED, None)
        for settings in applied.sources if applied is not None else ():
            for conflict in conflicts(settings, parent.app.conf):
                logger.warning("%s", conflict)


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


def conflicts(preset: Mapping[str, Any], conf: Mapping[str, Any]) -> Iterator[str]:
    """
    Yield a line for each setting of an app that a promise of *preset* does not survive.

    Args:
        preset: What `setup` was given; a mapping that is no preset promises nothing.
        conf: The app's settings.
    """
    if not isinstance(preset, Preset):
        return
    yield from _unstored(preset, conf)
    for row in preset.rows:
        value = row.value_in(conf)
        if not row.is_kept_by(value):
            yield (
                f"the app's own settings say {row.name} = {value!r}, the preset says {row.shown}. "
                f"{row.reason} Without it: {row.without}"
            )


def _unstored(preset: Preset, conf: Any) -> Iterator[str]:
    backend = getattr(conf, "result_backend", None)
    if backend and preset.get("task_ignore_result") and conf.get("task_ignore_result"):
        yield (
            f"the app has the result backend {masked(backend)!r}, but its preset was made without "
            "results, so none are stored: give the preset results=..., or set task_ignore_result "
            "yourself."
        )


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
