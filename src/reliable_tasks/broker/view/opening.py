"""From an app to the view of its broker."""

from __future__ import annotations

from typing import Any

from reliable_tasks.broker.view.amqp_broker import AmqpView, PlainView
from reliable_tasks.broker.view.line import Line
from reliable_tasks.broker.view.management import Management, address_of
from reliable_tasks.broker.view.seen import BrokerView

__all__ = ("view_of",)


def view_of(app: Any, *, timeout: float = 2.0, management: str | None = None) -> BrokerView:
    """
    Return a view of the broker from which the workers of *app* take their messages.

    Opens nothing yet.

    Args:
        app: The Celery app.
        timeout: Seconds that connecting, and each answer, may take.
        management: RabbitMQ's management interface, ``http://user:password@host:15672``. By
            default it is looked for at the broker's host; what it alone knows is left out if it
            does not answer.

    Raises:
        BrokerUnseen: The broker's address cannot be read.
    """
    line = Line(app, timeout)
    if line.driver == "redis":
        from reliable_tasks.broker.view.redis_broker import (  # noqa: PLC0415 - redis is not needed elsewhere
            RedisView,
        )

        return RedisView(line)
    if line.driver == "amqp":
        address = address_of(app.connection_for_read(), management)
        return AmqpView(line, Management(address, timeout))
    return PlainView(line)
