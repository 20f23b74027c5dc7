"""Where a job is, and for what reason."""

from __future__ import annotations

from typing import Any

from reliable_tasks.inspection.why.gathering import gather
from reliable_tasks.inspection.why.standings import Note, Standing, Verdict
from reliable_tasks.inspection.why.verdict import judge
from reliable_tasks.inspection.why.words import document_of, headline, line_of, remedy, sentence_of

__all__ = (
    "Note",
    "Standing",
    "Verdict",
    "document_of",
    "headline",
    "line_of",
    "remedy",
    "sentence_of",
    "why",
)


def why(
    app: Any,
    task_id: str,
    *,
    timeout: float = 2.0,
    limit: int = 10_000,
    management: str | None = None,
) -> Verdict:
    """
    Say where a job is, and for what reason.

    Nothing is changed, and no argument or result is read out. What cannot be asked is among the
    verdict's gaps; nothing is raised for it.

    Args:
        app: The Celery app.
        task_id: The job.
        timeout: Seconds that each answer may take; a store of records has its own.
        limit: How many messages, and how many records, to read at most.
        management: RabbitMQ's management interface, ``http://user:password@host:15672``.
    """
    return judge(gather(app, task_id, timeout=timeout, limit=limit, management=management))
