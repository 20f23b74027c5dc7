"""
SQLAlchemy connections that belong to another process are not used.

Each connection notes the process that opened it. Before it is handed out, before a statement and
before a commit the note is compared; a connection from elsewhere is *disarmed*: taken out of
SQLAlchemy's hands, so that neither a rollback nor a goodbye of this process reaches the server.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

from sqlalchemy import event

from reliable_tasks.errors import InheritedConnection
from reliable_tasks.pools.kinds import keep

__all__ = ("guard_forks",)

OPENED_IN = "reliable_tasks.opened_in"

_guarded: WeakSet[Any] = WeakSet()


def guard_forks(engine: Any) -> None:
    """Make *engine* raise `InheritedConnection` for what another process opened."""
    if engine in _guarded:
        return
    _guarded.add(engine)
    guard = _Guard(os.getpid())
    for name in ("connect", "checkout", "reset", "before_cursor_execute", "commit", "rollback"):
        event.listen(engine, name, getattr(guard, name))


class _Guard:
    """
    SQLAlchemy's listeners, called as its events are and with the arguments that it names.

    Args:
        here: The process that opened what has no note: it was there before the guard.
    """

    def __init__(self, here: int) -> None:
        self._here = here

    def _opened_in(self, info: Mapping[str, Any]) -> int:
        return int(info.get(OPENED_IN, self._here))

    def connect(self, dbapi_connection: Any, connection_record: Any) -> None:  # noqa: ARG002
        connection_record.info[OPENED_IN] = os.getpid()

    def checkout(
        self,
        dbapi_connection: Any,  # noqa: ARG002
        connection_record: Any,
        connection_proxy: Any,
    ) -> None:
        opened = self._opened_in(connection_record.info)
        if opened != os.getpid():
            _disarm(connection_proxy, connection_record)
            raise InheritedConnection(opened, os.getpid())

    def reset(self, dbapi_connection: Any, connection_record: Any, reset_state: Any) -> None:  # noqa: ARG002
        """Only an error keeps SQLAlchemy from the rollback that follows; it ends in its log."""
        if connection_record is None:
            return
        opened = self._opened_in(connection_record.info)
        if opened != os.getpid():
            _disarm(connection_record)
            raise InheritedConnection(opened, os.getpid())

    def before_cursor_execute(
        self,
        conn: Any,
        cursor: Any,  # noqa: ARG002
        statement: Any,  # noqa: ARG002
        parameters: Any,  # noqa: ARG002
        context: Any,  # noqa: ARG002
        executemany: Any,  # noqa: ARG002
    ) -> None:
        self._refuse(conn)

    def commit(self, conn: Any) -> None:
        self._refuse(conn)

    def rollback(self, conn: Any) -> None:
        """What is in the parent's transaction is not this process's to undo."""
        if not conn.invalidated and self._opened_in(conn.info) != os.getpid():
            _disarm_checked_out(conn)

    def _refuse(self, connection: Any) -> None:
        opened = self._opened_in(connection.info)
        if opened != os.getpid():
            _disarm_checked_out(connection)
            raise InheritedConnection(opened, os.getpid())


def _disarm_checked_out(connection: Any) -> None:
    proxy = connection.connection
    record = getattr(proxy, "_connection_record", None)  # a detached connection has none
    _disarm(*(holder for holder in (proxy, record) if holder is not None))


def _disarm(*holders: Any) -> None:
    for holder in holders:
        keep(holder.dbapi_connection)
        holder.dbapi_connection = None


def _empty_what_pings() -> None:
    """SQLAlchemy pings a connection before it asks any listener, so these pools start anew."""
    for engine in list(_guarded):
        if getattr(engine.pool, "_pre_ping", False):
            keep(engine.pool)
            engine.dispose(close=False)


os.register_at_fork(after_in_child=_empty_what_pings)
