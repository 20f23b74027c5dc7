"""What a worker with guarded tasks does besides Celery's own work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from celery import bootsteps, signals
from celery.utils.text import match_case
from celery.worker.state import active_requests

from reliable_tasks import counting, flight, running  # noqa: F401 - before the pool forks
from reliable_tasks.core.defaults import NAMES
from reliable_tasks.core.settings import named
from reliable_tasks.core.snapshots import snapshot
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.handing import keep_handed
from reliable_tasks.inspectable import MARK, versions
from reliable_tasks.leases import keeper
from reliable_tasks.processes import numbering
from reliable_tasks.request import drain_active
from reliable_tasks.retry.declared import check_declaration, plans_of
from reliable_tasks.shield import limit_every_task
from reliable_tasks.storage import place_of, shelf_of
from reliable_tasks.task import IdempotentTask

__all__ = ("WorkerStep", "check", "check_names")

PREFIX = "reliable_tasks_"
KNOWN = (
    *NAMES,
    "store",
    "store_url",
    "store_timeout",
    "prefix",
    "alive_directory",
    "dead_letter_limit",
    "dead_letter_age",
    "flight_recorder",
)


class WorkerStep(bootsteps.StartStopStep):
    """Refuses to start a worker that cannot keep the promises; announces its shutdown."""

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        check(parent.app)
        if getattr(parent, "soft_time_limit", None):  # before the pool forks
            limit_every_task()
        counting.begin()  # before the pool forks, too
        self._parent = parent
        signals.worker_process_init.connect(self._introduce)
        flight.begin(parent.app)

    def start(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Hear of the shutdown before the jobs do."""
        signals.worker_shutting_down.connect(
            drain_active, weak=False, dispatch_uid="reliable_tasks.drain"
        )

    def close(self, parent: Any) -> None:
        """Wait for all that the pool has handed on; called before Celery's consumer ends."""
        keep_handed(parent.pool)

    def _introduce(self, **_: Any) -> None:
        """Let a new process of the pool say who it is: it may die in its first job."""
        numbering.worker = self._parent.hostname
        for task in self._parent.app.tasks.values():
            if isinstance(task, IdempotentTask):
                keeper.introduce(task.records, task.record_prefix)

    def info(self, parent: Any) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """
        Add to what `celery inspect stats` says.

        The doctor knows by the mark whom it can ask more, and `watch` shows the counts.
        """
        counts = {"running": count_running(), **counting.told()}
        return {MARK: versions().get("reliable-tasks", ""), counting.COUNTS: counts}


def count_running() -> int:
    """Return how many guarded executions this worker has; from any thread."""
    return sum(isinstance(each.task, IdempotentTask) for each in snapshot(active_requests))


def check(app: Any) -> None:
    """
    Check the settings that guarded tasks and retries depend on.

    Raises:
        ConfigurationError: A setting of ours is unknown, an app whose tasks
            need a store has none, a setting answers duplicates before the guard
            is asked, or a task has Celery's retries beside `retry_task`.
    """
    check_names(app.conf, app.namespace)
    shelf_of(app.conf)
    if flight.keep_ms_of(app.conf) is not None:
        place_of(app.conf)
    for task in app.tasks.values():
        check_declaration(type(task))
        if not isinstance(task, IdempotentTask) and any(
            plan.needs_store for plan in plans_of(type(task))
        ):
            with named(type(task), "the budget, breaker or dead letters"):
                place_of(app.conf)
    guarded = [task for task in app.tasks.values() if isinstance(task, IdempotentTask)]
    if not guarded:
        return
    if app.conf.worker_deduplicate_successful_tasks:
        raise ConfigurationError(
            "worker_deduplicate_successful_tasks: expected False with IdempotentTask, got True. It "
            "answers a copy from the result backend before the guard is asked, and loses what "
            "hangs on its message. Remove the setting."
        )
    for task in guarded:
        task.guard_options, task.records, task.record_prefix  # noqa: B018 - each raises if it is wrong


def check_names(settings: Iterable[str], namespace: str | None = None) -> None:
    """
    Refuse a ``reliable_tasks_`` setting that means nothing, or that Celery does not read.

    Args:
        settings: Their names.
        namespace: What `config_from_object` was given. Celery reads names that begin with it in
            capitals if it is, and names without it in small letters only.

    Raises:
        ConfigurationError: A name is unknown, or in the wrong case.
    """
    first = f"{namespace.rstrip('_')}_" if namespace else ""
    for name in settings:
        bare = name.lower().removeprefix(first.lower())
        option = bare.removeprefix(PREFIX)
        if option == bare:
            continue  # not ours
        if option not in KNOWN or name not in (PREFIX + option, _written(option, first)):
            near = difflib.get_close_matches(option, KNOWN, n=1)
            advice = f" Did you mean {_written(near[0], first)}?" if near else ""
            raise ConfigurationError(
                f"{name}: expected {_written('', first)} with one of {', '.join(KNOWN)}; "
                f"got {option!r}.{advice}"
            )


def _written(option: str, first: str) -> str:
    """Return the setting of an option as it stands among those that begin with *first*."""
    return str(match_case(first + PREFIX + option, first))
