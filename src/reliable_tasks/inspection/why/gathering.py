"""Everybody who may know is asked, one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from time import time
from typing import Any

from reliable_tasks.inspection.why.evidence import Evidence, Jot
from reliable_tasks.inspection.why.sources import backend, messages, records, workers
from reliable_tasks.task import IdempotentTask

__all__ = ("gather",)


def gather(
    app: Any, task_id: str, *, timeout: float, limit: int, management: str | None
) -> Evidence:
    """
    Return all that is known of a job; what cannot be asked is among the gaps.

    Args:
        app: The Celery app.
        task_id: The job.
        timeout: Seconds that each answer may take; a store of records has its own.
        limit: How many messages, and how many records, to read at most.
        management: RabbitMQ's management interface, as for `broker.view.view_of`.
    """
    app.loader.import_default_modules()
    seen = _seen(app, task_id, timeout=timeout, limit=limit, management=management)
    if seen.is_anything or not seen.workers:
        return seen
    # It may have moved on from whom was asked late to whom was asked early.
    return _seen(app, task_id, timeout=timeout, limit=limit, management=management)


def _seen(
    app: Any, task_id: str, *, timeout: float, limit: int, management: str | None
) -> Evidence:
    kept = records.read_kept(app, task_id)
    asked_at = time()
    said = workers.ask(app, task_id, timeout=timeout)
    names = messages.queues_of(app).union(*(each.queues or () for each in said.workers or ()))
    lying = messages.look(
        app, task_id, sorted(names), timeout=timeout, limit=limit, management=management
    )
    requests = said.requests
    if said.workers and _may_wait_unseen(said, lying):
        nodes = [each.node for each in said.workers]
        requests = workers.ask_for_waiting(app, task_id, nodes, timeout=timeout) or requests
    ending, backend_gaps = backend.ask(app, task_id, timeout=timeout)
    headers = [each.headers for each in lying.sightings]
    task = _first(
        *(each.get("task") for each in headers),
        *(each.task for each in requests),
        ending.task if ending else None,
        kept.letter.task if kept.letter else None,
        *(each.details.get("task") for each in kept.jots),
    )
    record, record_gaps = records.find_record(
        app, task_id, task=task, headers=headers, keys=_keys(kept.jots), limit=limit
    )
    return Evidence(
        task_id=task_id,
        now=time(),
        task=task or _task_in(record.key if record else ""),
        record=record,
        requests=requests,
        workers=said.workers,
        asked_at=asked_at,
        revoked_at=said.revoked_at,
        sightings=lying.sightings,
        queues=lying.queues,
        ending=ending,
        letter=kept.letter,
        jots=kept.jots,
        visibility_timeout=messages.visibility_timeout(app),
        is_guarded=_is_guarded(app, task),
        gaps=(*record_gaps, *lying.gaps, *said.gaps, *backend_gaps, *kept.gaps),
    )


def _may_wait_unseen(said: workers.Said, lying: messages.Lying) -> bool:
    """Whether the job may wait for its time in a worker, and worker or time are not known yet."""
    if any(each.state != "scheduled" for each in said.requests):
        return False
    if not lying.sightings:
        return bool(lying.gaps)
    return not said.requests and any(each.state == "scheduled" for each in lying.sightings)


def _first(*names: Any) -> str | None:
    return next((str(name) for name in names if name), None)


def _keys(jots: Iterable[Jot]) -> list[str]:
    return list(dict.fromkeys(str(jot.details["key"]) for jot in jots if "key" in jot.details))


def _task_in(key: str) -> str | None:
    """Return the task's name in the name of a record: what stands between prefix and identity."""
    parts = key.split(":", 2)
    return parts[2].rpartition(":")[0] or None if len(parts) == 3 else None


def _is_guarded(app: Any, task: str | None) -> bool | None:
    return None if task not in app.tasks else isinstance(app.tasks[task], IdempotentTask)
