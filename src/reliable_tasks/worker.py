"""What a worker with guarded tasks does besides Celery's own work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from celery import bootsteps, signals

from reliable_tasks.core.settings import DEFAULTS
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.request import drain_active
from reliable_tasks.shield import limit_every_task
from reliable_tasks.task import IdempotentTask

__all__ = ("WorkerStep", "check", "check_names")

PREFIX = "reliable_tasks_"
KNOWN = (*DEFAULTS, "store", "store_url", "store_timeout", "prefix")


class WorkerStep(bootsteps.StartStopStep):
    """Refuses to start a worker that cannot keep the promises; announces its shutdown."""

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        check(parent.app)
        if getattr(parent, "soft_time_limit", None):  # before the pool forks
            limit_every_task()

    def start(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Hear of the shutdown before the jobs do."""
        signals.worker_shutting_down.connect(
            drain_active, weak=False, dispatch_uid="reliable_tasks.drain"
        )


def check(app: Any) -> None:
    """
    Check the settings that guarded tasks depend on.

    Raises:
        ConfigurationError: A setting of ours is unknown, an app with guarded
            tasks has no store, or a setting answers duplicates before the guard
            is asked.
    """
    check_names(app.conf)
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


def check_names(settings: Iterable[str]) -> None:
    """
    Refuse a ``reliable_tasks_`` setting that means nothing, which would silently do nothing.

    Raises:
        ConfigurationError: A name is unknown.
    """
    for name in settings:
        option = name.lower().removeprefix(PREFIX)
        if name.lower() != option and option not in KNOWN:
            near = difflib.get_close_matches(option, KNOWN, n=1)
            advice = f" Did you mean {PREFIX}{near[0]}?" if near else ""
            raise ConfigurationError(
                f"{name}: expected {PREFIX} with one of {', '.join(KNOWN)}; got {option!r}.{advice}"
            )
