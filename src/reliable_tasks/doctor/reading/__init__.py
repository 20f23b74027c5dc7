"""What an app says of itself, read without a server."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from celery.app.defaults import _OLD_SETTING_KEYS, SETTING_KEYS
from kombu.serialization import prepare_accept_content

from reliable_tasks.broker import HEARTBEAT_STEP
from reliable_tasks.core.durations import Seconds, to_ms
from reliable_tasks.doctor.facts import Gap, Settings
from reliable_tasks.doctor.reading.places import (
    address_faults,
    as_text,
    backend_faults,
    backend_of,
    place_at,
    store_of,
)
from reliable_tasks.doctor.reading.tasks import (
    Routes,
    declared_of,
    entries_of,
    own_tasks,
    read_task,
)
from reliable_tasks.doctor.versions import allows
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.inspectable import versions
from reliable_tasks.presets.conflicts import conflicts, task_conflicts
from reliable_tasks.setup import SETTINGS
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
    declared = tuple(declared_of(queues))  # before a route can add one
    broker, consumes = as_text(conf.broker_write_url), as_text(conf.broker_read_url)
    prefix = str((conf.get("broker_transport_options") or {}).get("global_keyprefix") or "")
    publishes_to = place_at(broker, prefix)
    routes = Routes(app, queues, on_redis=publishes_to.kind == "redis")
    return Settings(
        conf=dict(_effective(conf)),
        given=frozenset(_given(app)),
        accepts=frozenset(prepare_accept_content(conf.accept_content or ()) or ()),
        broker=publishes_to,
        consumes=None if consumes == broker else place_at(consumes, prefix),
        backend=backend_of(conf),
        store=store_of(app),
        refusals=tuple(refusals),
        broken_promises=tuple(_broken_promises(app)),
        address_faults=tuple(address_faults(broker, conf)),
        tasks=tuple(read_task(task, routes) for task in own_tasks(app)),
        entries=tuple(entries_of(app, routes)),
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
    of_tasks = [getattr(task, "store_url", None) for task in own_tasks(app)]
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
    yield from backend_faults(app)
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
        yield from task_conflicts(settings, own_tasks(app))


def _gaps(conf: Any) -> Iterator[Gap]:
    scheduler = conf.get("beat_scheduler")
    if conf.get("beat_schedule"):
        yield Gap("whether beat runs", "it answers to nobody; see its log, or its file")
    if scheduler and str(scheduler) != FILE_SCHEDULER:
        yield Gap(
            "entries that beat reads from elsewhere",
            f"beat_scheduler is {scheduler}; only those of the settings were looked at",
        )


def _file_of(app: Any) -> str | None:
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and any(each is app for each in list(vars(module).values())):
            return _relative(Path(file))
    return None


def _relative(file: Path) -> str | None:
    here = Path.cwd()
    return file.relative_to(here).as_posix() if file.is_relative_to(here) else None
