"""Connections of kombu's on which every answer has an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ("bounded_connection", "bounds")

POLL = 0.1  # seconds; else a question waits for the end of Kombu's last look for an answer: 1 s


def bounds(driver: str, timeout: float) -> dict[str, Any]:
    """
    Return arguments of `Celery.connection_for_read` and its like.

    Args:
        driver: What kombu calls the kind of broker.
        timeout: Seconds for connecting, and for each answer.
    """
    options: dict[str, Any] = {}
    if driver == "amqp":
        options = {"read_timeout": timeout, "write_timeout": timeout}
    elif driver == "redis":
        options = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "polling_interval": POLL,
        }
    return {"connect_timeout": timeout, "transport_options": options}


def bounded_connection(
    app: Any, timeout: float, on_blocked: Callable[[str], None] | None = None
) -> Any:
    """
    Return a connection, not yet open, to where the workers of *app* take their messages.

    Args:
        app: The Celery app.
        timeout: Seconds for connecting, and for each answer.
        on_blocked: Called with the reason when RabbitMQ takes no more messages.
    """
    driver = app.connection_for_read().get_transport_cls().driver_type
    arguments = bounds(driver, timeout)
    if driver == "amqp" and on_blocked is not None:
        arguments["transport_options"]["on_blocked"] = on_blocked
    return app.connection_for_read(**arguments)
