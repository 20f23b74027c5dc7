"""The tasks, queues and schedule of an app; makes no queue in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celery.app.routes import Router
from celery.exceptions import QueueNotFound
from kombu.entity import Queue
from kombu.serialization import registry

from reliable_tasks.doctor.facts import Declared, Entry, Guarded, Task
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.inspectable import digest_of
from reliable_tasks.task import IdempotentTask

__all__ = ("Routes", "declared_of", "entries_of", "own_tasks", "read_task")


class Routes:
    """
    Where calls go, by the app's routes; makes no queue in the app itself.

    Args:
        app: The Celery app.
        queues: Its queues, as Celery keeps them.
        on_redis: Whether it publishes to a Redis. There kombu takes an exchange that the process
            has not declared for a direct one, and a call declares none.
    """

    def __init__(self, app: Any, queues: Any, *, on_redis: bool) -> None:
        self._queues, self._on_redis = queues, on_redis
        self._router = Router(app.amqp.routes, queues, app=app)

    def of(self, name: str, options: Mapping[str, Any], task: Any = None) -> tuple[str | None, str]:
        """Return the queue of a call, and why there is none; both empty if only a call can tell."""
        try:
            route = self._router.route(dict(options), name, (), {}, task)
        except QueueNotFound as error:
            return None, str(error.args[0])
        except Exception:  # a router of the app's that looks at arguments
            return None, ""
        exchange, key = route.get("exchange"), route.get("routing_key")
        queue = route.get("queue") or self._bound(exchange, key)
        if queue is None and self._is_lost(exchange):
            name = getattr(exchange, "name", exchange)
            return None, f"no queue has exactly the routing key {key!r} of the exchange {name!r}"
        if not isinstance(queue, Queue):
            return (str(queue), "") if queue else (None, "")
        return None if _is_for_all(queue) else queue.name, ""

    def _is_lost(self, exchange: Any) -> bool:
        """Whether what goes to an exchange of the app's, and to none of its queues, is dropped."""
        name = getattr(exchange, "name", exchange)
        own = {each.exchange.name for each in self._queues.values() if not _is_for_all(each)}
        return self._on_redis and bool(name) and name in own

    def _bound(self, exchange: Any, routing_key: Any) -> Any:
        name = getattr(exchange, "name", exchange)
        for queue in self._queues.values():
            if (queue.exchange.name, queue.routing_key) == (name, routing_key):
                return queue
        return None


def _is_for_all(queue: Any) -> bool:
    """Whether each worker has a copy of it, under a name of its own."""
    return getattr(queue.exchange, "type", None) == "fanout"


def own_tasks(app: Any) -> list[Any]:
    """Return the tasks of *app*, without Celery's own."""
    return [task for name, task in sorted(app.tasks.items()) if not name.startswith("celery.")]


def read_task(task: Any, routes: Routes) -> Task:
    """Return what is in force for a task."""
    queue, nowhere = routes.of(task.name, _options(vars(type(task)) | vars(task)), task)
    retry_delay = task.default_retry_delay
    return Task(
        name=task.name,
        queue=queue,
        nowhere=nowhere,
        acks_late=bool(task.acks_late),
        reject_on_worker_lost=bool(task.reject_on_worker_lost),
        acks_on_timeout=_acks_on_timeout(task),
        hard_limit=_limit(task, "time_limit"),
        soft_limit=_limit(task, "soft_time_limit"),
        retry_delay=float(retry_delay) if isinstance(retry_delay, int | float) else None,
        content_type=registry.name_to_type.get(task.serializer, task.serializer),
        digest=digest_of(task.run),
        guarded=_guarded(task),
    )


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    names = ("queue", "exchange", "routing_key")
    return {name: given[name] for name in names if given.get(name) is not None}


def _acks_on_timeout(task: Any) -> bool:
    own = getattr(task, "acks_on_timeout", None)  # Celery 5.7
    if own is None:
        own = task.acks_on_failure_or_timeout
    return bool(own) or own is None


def _limit(task: Any, name: str) -> float | None:
    """Return a limit in seconds; before Celery 5.7 that of the settings is the worker's alone."""
    limit = getattr(task, name) or task.app.conf.get(f"task_{name}")
    return float(limit) if isinstance(limit, int | float) and limit > 0 else None


def _guarded(task: Any) -> Guarded | None:
    if not isinstance(task, IdempotentTask):
        return None
    try:
        options = task.guard_options
    except ConfigurationError:  # one of the refusals
        return None
    retention = options.retention_ms
    return Guarded(
        lease=options.lease_ms / 1_000,
        max_run=options.max_run_for(task.time_limit) / 1_000,
        horizon=options.horizon_ms / 1_000,
        retention=None if retention is None else retention / 1_000,
        has_key=options.idempotency_key is not None,
        max_crashes=options.max_crashes,
    )


def declared_of(queues: Mapping[str, Any]) -> Iterator[Declared]:
    """Yield the queues that have a name of their own, as the app declares them."""
    for queue in queues.values():
        if not _is_for_all(queue):
            yield _declared(queue)


def _declared(queue: Any) -> Declared:
    return Declared(
        name=queue.name,
        exchange_type=getattr(queue.exchange, "type", None) or "direct",
        routing_key=queue.routing_key or "",
        arguments=dict(queue.queue_arguments or {}),
    )


def entries_of(app: Any, routes: Routes) -> Iterator[Entry]:
    """Yield the lines of beat's schedule that are in the settings."""
    for name, entry in (app.conf.beat_schedule or {}).items():
        task = entry.get("task") if isinstance(entry, Mapping) else getattr(entry, "task", None)
        if not isinstance(task, str):
            continue
        options = entry.get("options") if isinstance(entry, Mapping) else entry.options
        registered = app.tasks.get(task)
        own = _options(vars(type(registered)) | vars(registered)) if registered else {}
        queue, nowhere = routes.of(task, own | _options(options or {}), registered)
        yield Entry(name=str(name), task=task, queue=queue, nowhere=nowhere)
