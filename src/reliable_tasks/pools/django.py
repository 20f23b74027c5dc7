"""
Django's connections, beside Celery's own fixup for Django.

Since Celery 5.6 the fixup closes every connection, and in prefork children the pool of each,
before and after every task. That says goodbye, but with it neither ``CONN_MAX_AGE`` nor a pool
can keep a connection from one task to the next. Once Django is registered here, a task ends for
its connections as a request does: by Django's own `close_old_connections`. Only a greenlet
keeps none, for it ends with its task.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any
from weakref import ref

from celery import signals

from reliable_tasks.pools.kinds import MIDDLE, Kind, keep

__all__ = ("WORDS",)

_opened: dict[int, ref[Any]] = {}  # connections of all threads: Django shows each its own only


def _refuse(_: object) -> str | None:
    if find_spec("django") is not None:
        return None
    return "expected Django to be installed, got no package django: pip install django"


def _register(_: object) -> None:
    from django.db.backends.signals import connection_created  # noqa: PLC0415 - here it is in use

    connection_created.connect(_note)
    signals.worker_init.connect(_take_over)


def _note(connection: Any, **_: Any) -> None:
    key = id(connection)
    _opened[key] = ref(connection, lambda _: _opened.pop(key, None))


def _take_over(sender: Any, **_: Any) -> None:
    """Close what the import of the tasks has opened, and leave the rest to `_close_old`."""
    from django.db import connections  # noqa: PLC0415 - here it is in use

    connections.close_all()
    if _runs_greenlets(sender.pool_cls):
        signals.task_postrun.connect(_close_all)
        return
    for fixup in getattr(sender.app, "_fixups", None) or ():
        worker_fixup = getattr(fixup, "worker_fixup", None)
        if worker_fixup is not None and not worker_fixup.db_reuse_max:
            worker_fixup.db_reuse_max = sys.maxsize
    signals.task_prerun.connect(_close_old)
    signals.task_postrun.connect(_close_old)


def _runs_greenlets(pool: Any) -> bool:
    name = pool if isinstance(pool, str) else pool.__module__
    return "gevent" in name or "eventlet" in name


def _close_all(sender: Any, **_: Any) -> None:
    from django.db import connections  # noqa: PLC0415 - here it is in use

    if not sender.request.is_eager:
        connections.close_all()


def _close_old(sender: Any, **_: Any) -> None:
    from django.db import close_old_connections  # noqa: PLC0415 - here it is in use

    if not sender.request.is_eager:  # a test's transaction may be open around it
        close_old_connections()


def _reset(_: object) -> None:
    """Let go of the parent's connections and pools; Django opens new ones with the first use."""
    for connection in _mine():
        keep(connection.connection)
        connection.connection = None
    _opened.clear()
    for pools in _pools():
        keep(dict(pools))
        pools.clear()


def _mine() -> list[Any]:
    """Return what this process has opened, other threads' included, and is not closed."""
    from django.db import connections  # noqa: PLC0415 - here it is in use

    known = [connection for found in list(_opened.values()) if (connection := found()) is not None]
    known += [one for one in connections.all(initialized_only=True) if one not in known]
    return [connection for connection in known if connection.connection is not None]


def _pools() -> list[dict[str, Any]]:
    """Return the pools of each kind of database, by alias; only some kinds have any."""
    from django.db import connections  # noqa: PLC0415 - here it is in use

    kinds = {type(connection) for connection in connections.all()}
    found = [getattr(kind, "_connection_pools", None) for kind in kinds]
    return [pools for pools in found if pools is not None]


def _collect(_: object) -> tuple[list[Any], list[dict[str, Any]]]:
    return _mine(), _pools()


def _close(collected: tuple[list[Any], list[dict[str, Any]]]) -> None:
    connections, pools = collected
    with ExitStack() as stack:  # all are closed, whichever fails; connections first
        for pool in [pool for by_alias in pools for pool in by_alias.values()]:
            stack.callback(pool.close)
        for connection in connections:
            connection.inc_thread_sharing()  # it was opened in another thread
            stack.callback(connection.close)


WORDS: Mapping[str, Kind] = {
    "django": Kind(
        title="Django's connections",
        refuse=_refuse,
        register=_register,
        reset=_reset,
        collect=_collect,
        close=_close,
        rank=MIDDLE,
    )
}
