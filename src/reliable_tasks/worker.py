"""What a worker with guarded tasks does besides Celery's own work."""

from __future__ import annotations

from typing import Any

from celery import bootsteps, signals

from reliable_tasks.errors import ConfigurationError
from reliable_tasks.request import drain_active
from reliable_tasks.task import IdempotentTask

__all__ = ("WorkerStep", "check")


class WorkerStep(bootsteps.StartStopStep):
    """Refuses to start a worker that cannot keep the promises; announces its shutdown."""

    def __init__(self, parent: Any, **_: Any) -> None:
        super().__init__(parent)
        check(parent.app)

    def start(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Hear of the shutdown before the jobs do."""
        signals.worker_shutting_down.connect(
            drain_active, weak=False, dispatch_uid="reliable_tasks.drain"
        )


def check(app: Any) -> None:
    """
    Check the settings that guarded tasks depend on.

    Raises:
        ConfigurationError: An app with guarded tasks has no store, or a setting
            answers duplicates before the guard is asked.
    """
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
        task.guard_options, task.place, task.record_prefix  # noqa: B018 - each raises if it is wrong
