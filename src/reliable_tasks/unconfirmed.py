"""Celery's own events in a worker with greenlets."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

__all__ = ("UnconfirmedStep",)


class UnconfirmedStep(bootsteps.Step):
    """
    Has a worker with greenlets publish Celery's events without waiting for RabbitMQ's confirmation.

    From Celery 5.7 on two greenlets read the connection of the events: who has published one and
    waits for the confirmation, and the consumer's loop, which looks for RabbitMQ's heartbeats.
    What the loop reads the other one never sees. It waits for ever, and so does all that has an
    event to send: a job that begins or ends with ``-E``, and the worker's goodbye.
    """

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        if not getattr(consumer.pool, "is_green", False):
            return

        def connection_for_write(**options: Any) -> Any:  # of the events alone
            return consumer.ensure_connected(
                consumer.app.connection_for_write(
                    **options, transport_options={"confirm_publish": False}
                )
            )

        consumer.connection_for_write = connection_for_write
