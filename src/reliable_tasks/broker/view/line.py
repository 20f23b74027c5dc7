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
        """
        What kombu calls the kind of broker: ``redis``, ``amqp``, or another.

        Raises:
            BrokerUnseen: Kombu cannot read the broker's address; not in kombu's words, for a part
                of a password may be in them.
        """
        try:
            return str(self._app.connection_for_read().get_transport_cls().driver_type)
        except Exception as error:  # whatever kombu and urllib raise
            raise BrokerUnseen(f"its address cannot be read ({type(error).__name__})") from None

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
        except BrokerUnseen:
            self.close()
            raise
        except Exception as error:  # whatever kombu and its drivers raise
            words = self._words(error)
            self.close()
            raise BrokerUnseen(words) from error

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

    def _words(self, error: BaseException) -> str:
        """Say where it was and what; where a password is taken for a virtual host, neither."""
        name, text = type(error).__name__, str(error)
        if self._connection is None:
            return f"the broker: {name}: {text}" if text else f"the broker: {name}"
        if "@" in str(self._connection.virtual_host):
            return f"the broker: {name}; a password with a / in it writes that as %2F"
        place = self._connection.as_uri()
        return f"{place}: {name}: {text}" if text else f"{place}: {name}"
