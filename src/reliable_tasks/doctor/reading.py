"""What an app says of itself, read without a server."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from celery.app.defaults import _OLD_SETTING_KEYS, SETTING_KEYS
from celery.app.routes import Router
from celery.exceptions import QueueNotFound
from kombu.entity import Queue
from kombu.serialization import prepare_accept_content, registry

from reliable_tasks.broker import HEARTBEAT_STEP
from reliable_tasks.core.durations import Seconds, to_ms
from reliable_tasks.doctor.facts import (
    Declared,
    Entry,
    Gap,
    Guarded,
    Place,
    Settings,
    Task,
)
from reliable_tasks.doctor.versions import allows
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.inspectable import digest_of, versions
from reliable_tasks.presets.addresses import (
    CLUSTER,
    DATABASES,
    RABBITMQ,
    REDIS,
    Address,
    check_sentinel,
    masked,
    read_address,
)
from reliable_tasks.presets.conflicts import conflicts, task_conflicts
from reliable_tasks.setup import SETTINGS
from reliable_tasks.storage import place_of, prefix_of
from reliable_tasks.task import IdempotentTask
from reliable_tasks.worker import check

__all__ = ("addresses_of", "read")

NAMES = (
    "accept_content",
    "beat_scheduler",
    "broker_channel_error_retry",
    "broker_heartbeat",
    "control_queue_durable",
    "control_queue_exclusive",
    "event_queue_durable",
    "event_queue_exclusive",
    "result_expires",
    "task_acks_late",
    "task_acks_on_failure_or_timeout",
    "task_acks_on_timeout",
    "task_always_eager",
    "task_create_missing_queues",
    "task_default_queue",
    "task_default_queue_type",
    "task_ignore_result",
    "task_reject_on_worker_lost",
    "task_serializer",
    "task_soft_time_limit",
    "task_time_limit",
    "worker_concurrency",
    "worker_detect_quorum_queues",
    "worker_pool",
    "worker_prefetch_multiplier",
    "worker_soft_shutdown_timeout",
)
"""What the checks look at; nothing else of an app's settings is copied."""

OPTIONS = {
    "broker_transport_options": (
        "confirm_publish",
        "global_keyprefix",
        "read_timeout",
        "socket_timeout",
        "unacked_restore_interval",
        "unacked_restore_throttle",
        "visibility_timeout",
    ),
    "result_backend_transport_options": ("global_keyprefix", "visibility_timeout"),
}
FILE_SCHEDULER = "celery.beat:PersistentScheduler"
CLIENT = re.compile(r"redis(?P<limits>[^a-zA-Z_;\[-][^;]*)")
CELERYS_OWN = "deprecated_settings"  # a note of its own, among the settings
SLIP = 0.9  # how alike two names are, from 0 to 1, of which one is a misspelt other
NO_RESULTS = ("", "disabled", "disabled://")


def read(app: Any, *, grace_period: Seconds | None = None) -> Settings:
    """
    Read the settings, tasks, queues and schedule of *app*; asks no server.

    The modules of its tasks are imported, as a worker does when it starts.

    Args:
        app: The Celery app.
        grace_period: Seconds from SIGTERM to SIGKILL where its workers run, if that is known.

    Raises:
        ConfigurationError: *grace_period* is no duration.
    """
    app.finalize()
    refusals = [*_unimportable(app), *_refusals(app)]
    conf = app.conf
    queues = app.amqp.Queues(conf.task_queues)
    declared = tuple(_declared(queue) for queue in queues.values() if not _is_for_all(queue))
    routes = _Routes(app, queues)
    broker, consumes = _text(conf.broker_write_url), _text(conf.broker_read_url)
    prefix = str((conf.get("broker_transport_options") or {}).get("global_keyprefix") or "")
    return Settings(
        conf=dict(_effective(conf)),
        given=frozenset(_given(app)),
        accepts=frozenset(prepare_accept_content(conf.accept_content or ()) or ()),
        broker=_place(broker, prefix),
        consumes=None if consumes == broker else _place(consumes, prefix),
        backend=_backend(conf),
        store=_store(app),
        refusals=tuple(refusals),
        broken_promises=tuple(_broken_promises(app)),
        address_faults=tuple(_address_faults(broker, conf)),
        tasks=tuple(_task(task, routes) for task in _own_tasks(app)),
        entries=tuple(_entries(app, routes)),
        declared=declared,
        names_queues=bool(conf.task_queues),
        has_heartbeat=HEARTBEAT_STEP in app.steps["consumer"],
        relies_on_heartbeat=any(getattr(each, "heartbeat", False) for each in _sources(app)),
        misspelt=dict(_misspelt(app)),
        releases=versions(),
        unsupported=tuple(_unsupported()),
        grace_period=_seconds(grace_period),
        file=_file_of(app),
        gaps=tuple(_gaps(conf)),
    )


def addresses_of(app: Any) -> list[Any]:
    """Return every value of the app in which a password can be; never to be shown."""
    conf = app.conf
    *layers, _ = conf.maps
    named = {name: conf.get(name) for layer in layers for name in map(str, layer)}
    read_by_celery = [
        conf.broker_url,
        conf.broker_read_url,
        conf.broker_write_url,
        conf.result_backend,
    ]
    of_tasks = [getattr(task, "store_url", None) for task in _own_tasks(app)]
    return [named, read_by_celery, of_tasks]


def _seconds(grace_period: Seconds | None) -> float | None:
    return None if grace_period is None else to_ms("grace_period", grace_period, least=0) / 1_000


# --- settings ---------------------------------------------------------------------------------


def _effective(conf: Any) -> Iterator[tuple[str, Any]]:
    for name in NAMES:
        yield name, conf.get(name)
    for name, options in OPTIONS.items():
        given = conf.get(name) or {}
        yield name, {option: given[option] for option in options if option in given}


def _given(app: Any) -> Iterator[str]:
    """Yield names as Celery's own are written; a namespace of the app's is cut off."""
    namespace = f"{app.namespace.rstrip('_')}_".lower() if app.namespace else ""
    *layers, _ = app.conf.maps
    for layer in layers:
        for name in map(str, layer):
            if name == CELERYS_OWN:
                continue
            lower = name.lower()
            if lower.startswith(namespace):
                yield lower.removeprefix(namespace)
            elif layer is layers[0] or name.startswith("reliable_tasks_"):  # app.conf, and setup
                yield lower


def _misspelt(app: Any) -> Iterator[tuple[str, str]]:
    known = {*SETTING_KEYS, *(key.lower() for key in _OLD_SETTING_KEYS)}
    for name in set(_given(app)) - known:
        near = difflib.get_close_matches(name, SETTING_KEYS, n=1, cutoff=SLIP)
        if near and not name.startswith("reliable_tasks_"):
            yield name, near[0]


def _unsupported() -> Iterator[str]:
    """Yield each client library that is installed in a release that Kombu does not support."""
    for line in requires("kombu") or ():
        asked = CLIENT.match(line)
        if asked and not allows(asked["limits"], version("redis")):
            yield (
                f"redis {version('redis')}; Kombu {version('kombu')} supports "
                f"{asked['limits'].strip()}"
            )


def _unimportable(app: Any) -> Iterator[str]:
    """Import the modules of the app's tasks, as a worker does; yield why one cannot be."""
    try:
        app.loader.import_default_modules()
    except Exception as error:  # whatever a module of the app raises
        yield f"a module with tasks cannot be imported: {error!r}"


def _refusals(app: Any) -> Iterator[str]:
    try:
        check(app)
    except ConfigurationError as error:
        yield " ".join([str(error), *getattr(error, "__notes__", ())])


def _sources(app: Any) -> list[Mapping[str, Any]]:
    applied = getattr(app, SETTINGS, None)
    return applied.sources if applied is not None else []


def _broken_promises(app: Any) -> Iterator[str]:
    for settings in _sources(app):
        yield from conflicts(settings, app.conf)
        yield from task_conflicts(settings, _own_tasks(app))


def _gaps(conf: Any) -> Iterator[Gap]:
    scheduler = conf.get("beat_scheduler")
    if conf.get("beat_schedule"):
        yield Gap("whether beat runs", "it answers to nobody; see its log, or its file")
    if scheduler and str(scheduler) != FILE_SCHEDULER:
        yield Gap(
            "entries that beat reads from elsewhere",
            f"beat_scheduler is {scheduler}; only those of the settings were looked at",
        )


# --- addresses --------------------------------------------------------------------------------


def _text(url: Any) -> str:
    """Return an address as one text; without one Celery looks for RabbitMQ on this machine."""
    if isinstance(url, list | tuple):
        return ";".join(map(str, url))
    return str(url or "amqp://localhost//")


def _place(text: str, prefix: str = "") -> Place:
    kind = _kind(text.partition("://")[0])
    urls = tuple(url for url in text.split(";") if url)
    if kind == "redis":
        address = Address(urls)
        servers, database = address.servers, address.database
    elif kind == "rabbitmq":
        servers = frozenset(map(_rabbit_server, urls))
        database = unquote(urlsplit(urls[0]).path[1:]) or "/"
    else:
        servers, database = frozenset(), ""
    return Place(kind=kind, url=masked(text), servers=servers, database=database, prefix=prefix)


def _kind(scheme: str) -> str:
    if scheme in (*REDIS, *CLUSTER):
        return "redis"
    if scheme in (*RABBITMQ, "librabbitmq"):
        return "rabbitmq"
    if scheme in ("memory", "rpc"):
        return scheme
    return "database" if scheme.startswith(DATABASES) or "+" in scheme else "other"


def _rabbit_server(url: str) -> str:
    parts = urlsplit(url)
    usual = 5671 if parts.scheme == "amqps" else 5672
    return f"{parts.hostname or 'localhost'}:{parts.port or usual}"


def _backend(conf: Any) -> Place | None:
    url = conf.result_backend
    if not isinstance(url, str) or url in NO_RESULTS:
        return None
    options = conf.get("result_backend_transport_options") or {}
    named = url if "://" in url else f"{url}://"
    return _place(named, str(options.get("global_keyprefix") or ""))


def _store(app: Any) -> Place | None:
    """Return where guarded tasks have their records; None without such tasks, or without a URL."""
    guarded = [task for task in _own_tasks(app) if isinstance(task, IdempotentTask)]
    if not guarded:
        return None
    try:
        target = place_of(app.conf).target
        prefix = prefix_of(app.conf)
    except ConfigurationError:
        return None
    return _place(target, prefix) if isinstance(target, str) else None


def _address_faults(broker: str, conf: Any) -> Iterator[str]:
    kind = _kind(broker.partition("://")[0])
    if kind not in ("redis", "rabbitmq") or broker.startswith("librabbitmq"):
        return
    options = conf.get("broker_transport_options") or {}
    try:
        check_sentinel(read_address(broker, kind), options.get("master_name"))
    except ConfigurationError as error:
        yield masked(str(error))


# --- tasks, queues, schedule ------------------------------------------------------------------


class _Routes:
    """Where calls go, by the app's routes; makes no queue in the app itself."""

    def __init__(self, app: Any, queues: Any) -> None:
        self._queues = queues
        self._router = Router(app.amqp.routes, queues, app=app)

    def of(self, name: str, options: Mapping[str, Any], task: Any = None) -> tuple[str | None, str]:
        """Return the queue of a call, and why there is none; both empty if only a call can tell."""
        try:
            route = self._router.route(dict(options), name, (), {}, task)
        except QueueNotFound as error:
            return None, str(error.args[0])
        except Exception:  # a router of the app's that looks at arguments
            return None, ""
        queue = route.get("queue") or self._bound(route.get("exchange"), route.get("routing_key"))
        if not isinstance(queue, Queue):
            return (str(queue), "") if queue else (None, "")
        return None if _is_for_all(queue) else queue.name, ""

    def _bound(self, exchange: Any, routing_key: Any) -> Any:
        name = getattr(exchange, "name", exchange)
        for queue in self._queues.values():
            if (queue.exchange.name, queue.routing_key) == (name, routing_key):
                return queue
        return None


def _is_for_all(queue: Any) -> bool:
    """Whether each worker has a copy of it, under a name of its own."""
    return getattr(queue.exchange, "type", None) == "fanout"


def _own_tasks(app: Any) -> list[Any]:
    return [task for name, task in sorted(app.tasks.items()) if not name.startswith("celery.")]


def _task(task: Any, routes: _Routes) -> Task:
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


def _declared(queue: Any) -> Declared:
    return Declared(
        name=queue.name,
        exchange_type=getattr(queue.exchange, "type", None) or "direct",
        routing_key=queue.routing_key or "",
        arguments=dict(queue.queue_arguments or {}),
    )


def _entries(app: Any, routes: _Routes) -> Iterator[Entry]:
    for name, entry in (app.conf.beat_schedule or {}).items():
        task = entry.get("task") if isinstance(entry, Mapping) else getattr(entry, "task", None)
        if not isinstance(task, str):
            continue
        options = entry.get("options") if isinstance(entry, Mapping) else entry.options
        registered = app.tasks.get(task)
        own = _options(vars(type(registered)) | vars(registered)) if registered else {}
        queue, nowhere = routes.of(task, own | _options(options or {}), registered)
        yield Entry(name=str(name), task=task, queue=queue, nowhere=nowhere)


# --- where it is ------------------------------------------------------------------------------


def _file_of(app: Any) -> str | None:
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and any(each is app for each in list(vars(module).values())):
            return _relative(Path(file))
    return None


def _relative(file: Path) -> str | None:
    here = Path.cwd()
    return file.relative_to(here).as_posix() if file.is_relative_to(here) else None
