"""What a worker says of itself to a liveness probe on its machine; `_reliable_tasks` reads it."""

from __future__ import annotations

__all__ = ("REPORTING_STEP", "WATCHING_STEP")

WATCHING_STEP = "reliable_tasks.liveness.step:WatchingStep"
"""Of the consumer's blueprint; a name, so that Celery's worker is imported only in workers."""

REPORTING_STEP = "reliable_tasks.liveness.step:ReportingStep"
"""Of the worker's blueprint."""
