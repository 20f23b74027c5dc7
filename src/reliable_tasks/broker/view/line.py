"""A connection to the broker that answers soon or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from reliable_tasks.broker.view.seen import BrokerUnseen

__all__ = ("Line",)


class Line:
    """
    One connection of kombu's, opened by its first use.

    Args:
        app: The Celery app, whose settings say where the broker is.
        timeout: Seconds that connecting, and each answer, may take.
    """

    def __init__(self, app: Any, timeout: float) -> None:
        self._app, self._timeout = app, timeout
        self._connection: Any = None
        self._channel: Any = None

    @property
    def driver(self) -> str:
        """What kombu calls the kind of broker: ``redis``, ``amqp``, or another."""
        return str(self._app.connection_for_read().get_transport_cls().driver_type)

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """
        Lend a channel; one that fails is closed with its connection.

        Raises:
            BrokerUnseen: The broker could not be reached, or failed meanwhile.
        """
        with self.connection() as connection:
            if self._channel is None or not getattr(self._channel, "is_open", True):
                self._channel = connection.channel()
            yield self._channel

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """
        Lend the connection, which is closed if it fails.

        Raises:
            BrokerUnseen: As for `channel`.
        """
        try:
            yield self._connected()
        except Exception as error:  # whatever kombu and its drivers raise
            place = self._place()
            self.close()
            raise BrokerUnseen(f"{place}: {_words(error)}") from error

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            connection.collect(socket_timeout=self._timeout)

    def _connected(self) -> Any:
        if self._connection is None:
            self._connection = self._app.connection_for_read(
                connect_timeout=self._timeout, transport_options=self._time_outs()
            )
        once_each = max(0, len(self._connection.alt) - 1)  # the hosts to fail over to
        self._connection.ensure_connection(max_retries=once_each, interval_start=0, interval_step=0)
        return self._connection

    def _time_outs(self) -> dict[str, Any]:
        if self.driver == "amqp":
            return {"read_timeout": self._timeout, "write_timeout": self._timeout}
        if self.driver == "redis":
            return {"socket_timeout": self._timeout, "socket_connect_timeout": self._timeout}
        return {}

    def _place(self) -> str:
        return "the broker" if self._connection is None else str(self._connection.as_uri())


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
