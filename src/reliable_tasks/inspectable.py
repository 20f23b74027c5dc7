"""What a worker says of itself when it is asked; the doctor asks."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from time import time
from types import CodeType
from typing import Any

from celery.worker import state as requests
from celery.worker.control import inspect_command

from reliable_tasks.core.snapshots import snapshot
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.storage import place_of, prefix_of

__all__ = ("COMMAND", "FORMAT", "MARK", "SETTINGS", "about", "digest_of", "versions")

COMMAND = "reliable_tasks_about"
"""A command of `celery inspect`, of workers whose ``stats`` have the mark."""

MARK = "reliable_tasks"

FORMAT = 1
"""Of what `about` answers; whoever knows another one asks as if it were a plain worker."""

SETTINGS = (
    "task_acks_late",
    "task_reject_on_worker_lost",
    "task_soft_time_limit",
    "task_time_limit",
    "worker_pool",
    "worker_prefetch_multiplier",
    "worker_soft_shutdown_timeout",
)
"""Settings that workers are compared by, none of which can hold a secret."""
TRANSPORT_OPTIONS = ("global_keyprefix", "visibility_timeout")


def about(state: Any) -> dict[str, Any]:
    """
    Say what this worker is: where it listens, to what, and which code it runs.

    Addresses are without credentials, and nothing of what a task was called with is told.
    """
    app, consumer = state.app, state.consumer
    return {
        "format": FORMAT,
        "now": time(),
        "versions": versions(),
        "broker": _broker(consumer.connection),
        "queues": sorted(queue.name for queue in consumer.task_consumer.queues),
        "accept": sorted(consumer.task_consumer.accept or ()),
        "tasks": dict(_digests(app)),
        "pool": type(consumer.pool).__module__.rpartition(".")[2],
        "concurrency": consumer.pool.num_processes,
        "heartbeat": any(type(step).__name__ == "HeartbeatStep" for step in consumer.steps),
        "settings": {name: app.conf.get(name) for name in SETTINGS},
        **_running(),
        "store": _store(app.conf),
    }


inspect_command(name=COMMAND)(about)


@cache
def versions() -> dict[str, str]:
    """Return the releases of what matters, by name of the distribution; without what is missing."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("reliable-tasks", "celery", "kombu", "billiard", "redis", "amqp"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def digest_of(run: Any) -> str | None:
    """
    Return a short name of a function's code: equal code on equal Pythons has equal names.

    It is made of what was loaded, not of the file, which a deploy may have changed since. Comments,
    lines and files do not count, and neither does what the function calls.

    Args:
        run: A function or method; decorators that say what they wrap are looked through.

    Returns:
        The name, or None for what is not written in Python.
    """
    code = getattr(inspect.unwrap(run), "__code__", None)
    if not isinstance(code, CodeType):
        return None
    text = repr(_essence(code)).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _essence(code: CodeType) -> tuple[Any, ...]:
    """Return what a function does, without where it stands."""
    constants = tuple(
        _essence(each) if isinstance(each, CodeType) else _settled(each) for each in code.co_consts
    )
    return code.co_name, code.co_varnames, code.co_names, code.co_code, constants


def _settled(constant: Any) -> Any:
    """Return a constant whose text is the same in every process: a set has no order."""
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant


def _digests(app: Any) -> Iterator[tuple[str, str | None]]:
    for name, task in app.tasks.items():
        if not name.startswith("celery."):
            yield name, digest_of(task.run)


def _running() -> dict[str, Any]:
    """Return how long the oldest job has run, and how many wait here for a slot."""
    active = snapshot(requests.active_requests)
    reserved = snapshot(requests.reserved_requests)
    begun = [request.time_start for request in active if request.time_start]
    return {
        "longest_run": time() - min(begun) if begun else None,
        "reserved": len(set(reserved).difference(active)),
    }


def _broker(connection: Any) -> dict[str, Any]:
    """Return which part of a server this worker sees; the doctor knows which server."""
    driver = connection.transport.driver_type
    options: Mapping[str, Any] = connection.transport_options or {}
    if driver != "redis":
        return {"driver": driver, "virtual_host": str(connection.virtual_host)}
    pool = connection.default_channel.client.connection_pool  # knows what Sentinel was asked for
    return {
        "driver": driver,
        "virtual_host": str(pool.connection_kwargs.get("db") or 0),
        "options": {name: options[name] for name in TRANSPORT_OPTIONS if name in options},
    }


def _store(conf: Any) -> dict[str, str] | None:
    """Return where records live, or None where no Redis is named for them."""
    try:
        place = place_of(conf).open().identity
        return {"place": place, "prefix": prefix_of(conf)}
    except ConfigurationError:
        return None
