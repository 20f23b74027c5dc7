"""
Connections and what else a process holds: dropped after a fork, closed at its end.

    close_on_shutdown -> recognise (which Kind) -> registry -> handlers (Celery's signals)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from reliable_tasks.core.durations import Seconds, to_ms
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.pools import birth  # noqa: F401 - it hears of forks from now on

__all__ = ("close_on_shutdown",)

R = TypeVar("R")


def close_on_shutdown(
    resource: R,
    *,
    name: str | None = None,
    reset: Callable[[], object] | None = None,
    close: Callable[[], object] | None = None,
    timeout: Seconds = 2.0,
    fork_guard: bool = False,
) -> R:
    """
    Close *resource* when a worker process ends, and reset it when one is forked.

    In each forked child of a prefork worker the connections that it inherited are dropped
    without a word to the server, so that the parent goes on using them and no two processes
    share one. At the end of each worker process its own connections are closed with a goodbye,
    wherever Celery or Python say that the process ends. All resources are closed at the same
    time, so one must not need another: write a function that closes both in order.

    Registering a resource again changes nothing. It is referred to weakly, so this keeps none
    alive; functions are kept.

    Args:
        resource: A SQLAlchemy engine, sessionmaker or scoped_session, a pool of psycopg_pool or
            psycopg2, a redis-py, httpx, requests or pymongo client, ``"django"`` for all its
            connections, any object with ``close``, ``dispose`` or ``disconnect``, or a function
            without arguments that closes.
        name: What the log calls it; its kind if left out.
        reset: Called without arguments in each forked child instead of what is known of the
            kind. Without it an object of an unknown kind is neither reset nor closed in the
            children, and a worker that forks says so when it starts.
        close: Called without arguments instead of what is known of the kind, in a thread of its
            own.
        timeout: Seconds, or a `timedelta`, that closing may take; then the process ends without it.
        fork_guard: Raise `InheritedConnection` when a connection is used in a process that did
            not open it, whoever forked it. For SQLAlchemy.

    Returns:
        The resource.

    Raises:
        ConfigurationError: It is none of these, a function cannot be called without arguments,
            *timeout* is not above 0, or there is no fork guard for its kind.
    """
    # Most programs that import the package never come here, or have time when they do.
    from reliable_tasks.pools import handlers, registry  # noqa: PLC0415
    from reliable_tasks.pools.recognise import recognise, stand_in  # noqa: PLC0415

    seconds = to_ms("timeout", timeout, least=0.001) / 1_000
    held = stand_in(resource)
    kind = recognise(held, reset=reset, close=close)
    if fork_guard:
        if kind.guard is None:
            raise ConfigurationError(
                f"fork_guard: expected a resource of SQLAlchemy, got a {kind.title}. Others are "
                "protected by their reset after a fork only."
            )
        kind.guard(held)
    is_new = registry.add(held, kind, name=name or kind.title, timeout=seconds)
    if is_new and kind.register is not None:
        kind.register(held)
    handlers.connect()
    return resource
