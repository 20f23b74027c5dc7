"""Engines of SQLAlchemy, and the sessions that are made from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reliable_tasks.pools.kinds import FAST, Capacity, Kind, keep
from reliable_tasks.pools.psycopg import server_of

__all__ = ("KINDS", "REFUSED", "STAND_INS")


def _watch(engine: Any) -> None:
    from reliable_tasks.pools.forks import watch  # noqa: PLC0415 - it imports SQLAlchemy

    watch(engine)


def _reset(engine: Any) -> None:
    """Give *engine* an empty pool; the parent's connections stay open, and with the parent."""
    from reliable_tasks.pools.forks import is_in_memory  # noqa: PLC0415 - it imports SQLAlchemy

    if not is_in_memory(engine):
        keep(engine.pool)
        engine.dispose(close=False)


def _close(engine: Any) -> None:
    from reliable_tasks.pools.forks import close_connections  # noqa: PLC0415 - imports SQLAlchemy

    engine.dispose()
    close_connections(engine)


def _not_asynchronous(engine: Any) -> str | None:
    if not getattr(engine.dialect, "is_async", False):
        return None
    return "got the engine beneath an AsyncEngine. Register the AsyncEngine, whose loop closes it."


def _capacity(engine: Any) -> Capacity | None:
    """Only PostgreSQL is asked, and only for a pool that has a bound."""
    size, overflow = getattr(engine.pool, "size", None), getattr(engine.pool, "_max_overflow", -1)
    if engine.dialect.name != "postgresql" or size is None or overflow < 0:
        return None
    _, arguments = engine.dialect.create_connect_args(engine.url)
    return Capacity(size() + overflow, server_of(arguments), lambda: _ask(engine), engine)


def _ask(engine: Any) -> int:
    """Ask over a connection that does not stay in the pool."""
    with engine.connect() as connection:
        connection.detach()
        return int(connection.exec_driver_sql("SHOW max_connections").scalar())


def _guard(engine: Any) -> None:
    from reliable_tasks.pools.forks import guard_forks  # noqa: PLC0415 - it imports SQLAlchemy

    guard_forks(engine)


# --- asynchronous engines ------------------------------------------------------------------


def _close_async(engine: Any) -> None:
    """
    Close from an event loop of this thread, for the ones that opened the connections are over.

    psycopg says goodbye from any loop. asyncpg cannot; SQLAlchemy logs that and cuts them off.
    """
    import asyncio  # noqa: PLC0415 - here it is in use

    asyncio.run(engine.dispose())


# --- sessions ------------------------------------------------------------------------------


def _engine_of(factory: Any) -> Any:
    """Return the engine of a sessionmaker or scoped_session; None if it is not bound to one."""
    factory = getattr(factory, "session_factory", factory)
    return getattr(getattr(factory, "kw", {}).get("bind"), "engine", None)


def _unbound(factory: Any) -> str | None:
    if _engine_of(factory) is not None:
        return None
    return (
        "expected a session factory that is bound to an engine; got one without `bind`. "
        "Register its engine instead."
    )


def _reset_scoped(scoped: Any) -> None:
    """Forget the session of this thread as well: it may hold a connection of the parent."""
    if scoped.registry.has():
        keep(scoped.registry())
        scoped.registry.clear()
    _reset(_engine_of(scoped))


def _watch_scoped(scoped: Any) -> None:
    engine = _engine_of(scoped)
    if engine is not None:  # else the user has said how to reset and close it
        _watch(engine)


def _collect_scoped(scoped: Any) -> tuple[Any, Any]:
    return _engine_of(scoped), scoped.registry() if scoped.registry.has() else None


def _close_scoped(collected: tuple[Any, Any]) -> None:
    engine, session = collected
    if session is not None:
        try:
            session.close()
        except Exception:  # its engine, registered as well, may have closed its connection
            session.invalidate()
    _close(engine)


ENGINE = Kind(
    title="SQLAlchemy engine",
    reset=_reset,
    close=_close,
    rank=FAST,
    capacity=_capacity,
    guard=_guard,
    register=_watch,
    refuse=_not_asynchronous,
)
ASYNC_ENGINE = Kind(
    title="SQLAlchemy async engine",
    reset=lambda engine: _reset(engine.sync_engine),
    close=_close_async,
    rank=FAST,
    guard=lambda engine: _guard(engine.sync_engine),
    register=lambda engine: _watch(engine.sync_engine),
)
UNBOUND = Kind(title="SQLAlchemy sessionmaker", close=_engine_of, refuse=_unbound)
SCOPED_SESSION = Kind(
    title="SQLAlchemy scoped_session",
    reset=_reset_scoped,
    collect=_collect_scoped,
    close=_close_scoped,
    rank=FAST,
    capacity=lambda scoped: _capacity(_engine_of(scoped)),
    guard=lambda scoped: _guard(_engine_of(scoped)),
    register=_watch_scoped,
    refuse=_unbound,
)

KINDS: Mapping[str, Kind] = {
    "sqlalchemy.engine.base.Engine": ENGINE,
    "sqlalchemy.ext.asyncio.engine.AsyncEngine": ASYNC_ENGINE,
    "sqlalchemy.orm.session.sessionmaker": UNBOUND,
    "sqlalchemy.orm.scoping.scoped_session": SCOPED_SESSION,
}

STAND_INS: Mapping[str, Callable[[Any], Any]] = {
    "sqlalchemy.orm.session.sessionmaker": _engine_of,
}

ITS_ENGINE = "It belongs to one process and one task. Register the engine that it came from."
REFUSED: Mapping[str, str] = {
    "sqlalchemy.engine.base.Connection": ITS_ENGINE,
    "sqlalchemy.orm.session.Session": ITS_ENGINE,
    "sqlalchemy.pool.base.Pool": "A child cannot empty it. Register the engine that uses it.",
    "sqlalchemy.ext.asyncio.session.async_sessionmaker": "Register its engine.",
}
