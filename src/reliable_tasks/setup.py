"""Settings, worker steps and handlers onto an app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reliable_tasks.task import WORKER_STEP

__all__ = ("setup",)


def setup(app: Any, settings: Mapping[str, Any] | None = None) -> None:
    """
    Apply *settings* and what the worker needs to *app*; calling it twice changes nothing.

    Args:
        app: The Celery app.
        settings: Celery settings and ``reliable_tasks_<option>`` settings. They go before those
            of ``config_from_object``; what is set on ``app.conf`` after this call goes before them.
    """
    if settings:
        app.conf.update(settings)
    app.steps["worker"].add(WORKER_STEP)
