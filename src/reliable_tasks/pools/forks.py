"""
SQLAlchemy connections that belong to another process are not used.

Each connection of a watched engine notes the process that opened it. What another process opened
is *disarmed* before this one would roll it back or close it: it is taken out of SQLAlchemy's hands,
so that neither reaches the server. A guard also raises before such a connection is handed out,
before a statement and before a commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import event

from reliable_tasks.errors import InheritedConnection
from reliable_tasks.pools.birth import forked_at
from reliable_tasks.pools.kinds import keep

__all__ = ("close_connections", "guard_forks", "is_in_memory", "watch")

OPENED_IN = "reliable_tasks.opened_in"

_watches: WeakKeyDictionary[Any, _Watch] = WeakKeyDictionary()
_guarded: WeakSet[Any] = WeakSet()


def watch(engine: Any) -> None:
    """
    Keep this process from ending or undoing what another one opened.

    An engine that connected before this process was forked, and is known only now, starts anew.
    """
    if engine in _watches or is_in_memory(engine):
        return
    watched = _watches[engine] = _Watch(os.getpid())
    for name in ("connect", "reset", "rollback"):
        event.listen(engine, name, getattr(watched, name))
    inherited = False
    for record in _idle(engine):
        is_own = record.starttime >= forked_at()
        record.info[OPENED_IN] = os.getpid() if is_own else os.getppid()
        watched.records.add(record)
        inherited = inherited or not is_own
    if inherited:
        keep(engine.pool)
        engine.dispose(close=False)


def guard_forks(engine: Any) -> None:
    """Make *engine* raise `InheritedConnection` for what another process opened."""
    if engine in _guarded or is_in_memory(engine):
        return
    watch(engine)
    _guarded.add(engine)
    guard = _Guard(_watches[engine])
    for name in ("checkout", "before_cursor_execute", "commit"):
        event.listen(engine, name, getattr(guard, name))


def close_connections(engine: Any) -> None:
    """Close what this process opened and somebody still holds, which `dispose` leaves open."""
    watched = _watches.get(engine)
    if watched is None:
        return
    for record in list(watched.records):
        is_own = watched.opened_in(record.info) == os.getpid()
        if is_own and record.dbapi_connection is not None:
            record.close()


def is_in_memory(engine: Any) -> bool:
    """Whether its database is this process's memory, which a fork copies."""
    if engine.dialect.name != "sqlite":
        return False
    url = engine.url
    return url.database in {None, "", ":memory:"} or url.query.get("mode") == "memory"


def _idle(engine: Any) -> Iterator[Any]:
    """Yield the records of a pool's idle connections, where it keeps them in a queue."""
    queue = getattr(getattr(engine.pool, "_pool", None), "queue", ())
    yield from (record for record in list(queue) if record.dbapi_connection is not None)


class _Watch:
    """
    SQLAlchemy's listeners, called as its events are and with the arguments that it names.

    Args:
        here: The process that opened what has no note: it was there before.
    """

    def __init__(self, here: int) -> None:
        self._here = here
        self.records: WeakSet[Any] = WeakSet()

    def opened_in(self, info: Mapping[str, Any]) -> int:
        """Return the process that opened the connection with *info*."""
        return int(info.get(OPENED_IN, self._here))

    def connect(self, dbapi_connection: Any, connection_record: Any) -> None:  # noqa: ARG002
        connection_record.info[OPENED_IN] = os.getpid()
        self.records.add(connection_record)

    def reset(self, dbapi_connection: Any, connection_record: Any, reset_state: Any) -> None:  # noqa: ARG002
        """Only an error keeps SQLAlchemy from the rollback that follows; it ends in its log."""
        if connection_record is None:
            return
        opened = self.opened_in(connection_record.info)
        if opened != os.getpid():
            _disarm(connection_record)
            raise InheritedConnection(opened, os.getpid())

    def rollback(self, conn: Any) -> None:
        """What is in the parent's transaction is not this process's to undo."""
        if not conn.invalidated and self.opened_in(conn.info) != os.getpid():
            _disarm_checked_out(conn)


class _Guard:
    """The listeners that raise, beside those of a watch."""

    def __init__(self, watched: _Watch) -> None:
        self._opened_in = watched.opened_in

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
