"""The pools of psycopg and psycopg2: begun anew in a forked child, closed with a goodbye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from threading import Lock
from typing import Any

from reliable_tasks.pools.kinds import FAST, Capacity, Kind, keep

__all__ = ("KINDS", "REFUSED", "begin_anew")

WAIT_FOR_THREADS = 1.0  # seconds; they may be connecting to a server that does not answer
WAIT_FOR_SERVER = 2  # seconds; libpq takes whole ones


def begin_anew(pool: Any) -> None:
    """
    Run the initialisation of a `psycopg_pool.ConnectionPool` again, on the same object.

    In a child its threads are gone, one of them may hold its lock for ever, and its
    connections are the parent's: these are dropped, which sends nothing, for psycopg closes
    a connection that nobody holds only in the process that opened it.
    """
    if pool.closed:
        return
    own: Any = next(cls for cls in type(pool).__mro__ if _is_theirs(cls))
    arguments = _arguments(pool, own)
    vars(pool).pop("_lock", None)  # before 3.3 one that is there is kept
    own.__init__(pool, **arguments, open=True)


def _arguments(pool: Any, own: Any) -> dict[str, Any]:
    kept = {name.removeprefix("_"): value for name, value in vars(pool).items()}
    arguments = {name: kept[name] for name in signature(own).parameters if name in kept}
    # Before psycopg 3.3, close_returns=True puts a class of the pool's in its place.
    classes = pool.connection_class.__mro__
    arguments["connection_class"] = next(cls for cls in classes if not _is_theirs(cls))
    return arguments


def _is_theirs(cls: type) -> bool:
    return cls.__module__.startswith("psycopg_pool.")


def _close(pool: Any) -> None:
    pool.close(timeout=WAIT_FOR_THREADS)


def _capacity(pool: Any) -> Capacity | None:
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - here it is in use

    if callable(pool.conninfo) or callable(pool.kwargs):
        return None  # whose answer may change
    server = server_of(conninfo_to_dict(pool.conninfo, **(pool.kwargs or {})))
    return Capacity(pool.max_size, server, lambda: _most_allowed(pool))


def server_of(arguments: Mapping[str, Any]) -> str:
    """Name the server of libpq's *arguments*."""
    return f"postgresql on {arguments.get('host') or 'localhost'}:{arguments.get('port') or 5432}"


def _most_allowed(pool: Any) -> int:
    from psycopg.rows import tuple_row  # noqa: PLC0415 - here it is in use

    arguments = {**(pool.kwargs or {}), "connect_timeout": WAIT_FOR_SERVER}
    with pool.connection_class.connect(pool.conninfo, **arguments) as connection:
        cursor = connection.cursor(row_factory=tuple_row)
        return int(cursor.execute("SHOW max_connections").fetchone()[0])


def _drop_psycopg2(pool: Any) -> None:
    """Leave what the parent opened alone; the child opens its own with the first use."""
    state = vars(pool)
    keep((state["_pool"], state["_used"]))
    state.update(_pool=[], _used={}, _rused={})
    if "_lock" in state:
        state["_lock"] = Lock()  # a thread that held it is gone


def _close_psycopg2(pool: Any) -> None:
    if not pool.closed:
        pool.closeall()


def _capacity_psycopg2(pool: Any) -> Capacity:
    from psycopg2.extensions import make_dsn, parse_dsn  # noqa: PLC0415 - here it is in use

    given, arguments = vars(pool)["_args"], vars(pool)["_kwargs"]
    named = {name: value for name, value in arguments.items() if not name.endswith("_factory")}
    server = server_of(parse_dsn(make_dsn(*given[:1], **named)))
    return Capacity(pool.maxconn, server, lambda: _most_allowed_psycopg2(given, arguments))


def _most_allowed_psycopg2(given: Sequence[Any], arguments: Mapping[str, Any]) -> int:
    import psycopg2  # noqa: PLC0415 - here it is in use

    connection = psycopg2.connect(*given, **{**arguments, "connect_timeout": WAIT_FOR_SERVER})
    try:
        with connection.cursor(cursor_factory=psycopg2.extensions.cursor) as cursor:
            cursor.execute("SHOW max_connections")
            return int(cursor.fetchone()[0])
    finally:
        connection.close()


ONE_CONNECTION = (
    "A connection cannot be shared by processes, and a child cannot make it anew: "
    "register a pool, or two functions, close_on_shutdown(close_it, reset=open_another)."
)
NO_EVENT_LOOP = (
    "When a worker process ends no event loop runs in which it could be closed: "
    "register a psycopg_pool.ConnectionPool, or close it in the task that opened it."
)

KINDS: Mapping[str, Kind] = {
    "psycopg_pool.pool.ConnectionPool": Kind(
        title="psycopg pool", close=_close, reset=begin_anew, capacity=_capacity
    ),
    "psycopg2.pool.AbstractConnectionPool": Kind(
        title="psycopg2 pool",
        close=_close_psycopg2,
        reset=_drop_psycopg2,
        rank=FAST,
        capacity=_capacity_psycopg2,
    ),
}
REFUSED: Mapping[str, str] = {
    "psycopg_pool.pool_async.AsyncConnectionPool": NO_EVENT_LOOP,
    "psycopg.Connection": ONE_CONNECTION,
    "psycopg.AsyncConnection": NO_EVENT_LOOP,
    "psycopg2.extensions.connection": ONE_CONNECTION,
}
