"""The messages of a job in the broker."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from reliable_tasks.broker.unacked import DEFAULT_VISIBILITY_TIMEOUT, uses_redis
from reliable_tasks.broker.view import BrokerUnseen, QueueView, Sighting, delayed_queues, view_of
from reliable_tasks.inspection.destinations import destinations
from reliable_tasks.inspection.why.evidence import Gap

__all__ = ("Lying", "look", "queues_of")


@dataclass(frozen=True, slots=True)
class Lying:
    """What lies in the broker."""

    sightings: tuple[Sighting, ...] = ()
    queues: tuple[QueueView, ...] = ()
    gaps: tuple[Gap, ...] = ()


def look(
    app: Any,
    task_id: str,
    names: Iterable[str],
    *,
    timeout: float,
    limit: int,
    management: str | None = None,
) -> Lying:
    """
    Look for the messages of a job.

    Args:
        app: The Celery app.
        task_id: The job.
        names: Queues to look into.
        timeout: Seconds that each answer may take.
        limit: How many messages to read at most.
        management: As for `view_of`.
    """
    wanted = list(names)
    try:
        view = view_of(app, timeout=timeout, management=management)
    except BrokerUnseen as error:
        return Lying(gaps=(Gap("broker", str(error)),))
    try:
        queues = tuple(view.queues(wanted))
        search = view.find(task_id, [each.name for each in queues], limit=limit)
    except BrokerUnseen as error:
        return Lying(gaps=(Gap("broker", str(error)),))
    finally:
        view.close()
    gaps = (Gap("broker", search.gap),) if search.gap else ()
    return Lying(search.sightings, queues, gaps)


def queues_of(app: Any) -> set[str]:
    """Return the queues that the app declares, that its tasks are sent to, and that delay."""
    return destinations(app).union(delayed_queues(app))


def visibility_timeout(app: Any) -> float | None:
    """Return after how many seconds Redis delivers again; None with another or unknown broker."""
    try:
        if not uses_redis(app):
            return None
    except Exception:  # whatever kombu raises at an address that it cannot read
        return None
    options = app.conf.broker_transport_options or {}
    return float(options.get("visibility_timeout") or DEFAULT_VISIBILITY_TIMEOUT)
