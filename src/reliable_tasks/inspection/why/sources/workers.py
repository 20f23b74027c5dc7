"""What workers say of a job, by Celery's own inspection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reliable_tasks.broker.view import BrokerUnseen
from reliable_tasks.broker.view.line import Line
from reliable_tasks.inspection.why.evidence import Gap, RequestSeen, Worker

__all__ = ("Said", "ask")

REPLY_SECONDS = 1.0  # for all workers, as in Celery's own inspection

_STATES: Mapping[str, Literal["active", "reserved", "scheduled"]] = {
    "active": "active",
    "reserved": "reserved",
    "scheduled": "scheduled",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What was answered; *workers* is None if nobody could be asked."""

    requests: tuple[RequestSeen, ...] = ()
    workers: tuple[Worker, ...] | None = None
    revoked_at: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()


def ask(app: Any, task_id: str, *, timeout: float) -> Said:
    """
    Ask every worker of the broker about a job.

    Arguments of tasks are among the answers; they are dropped here.

    Args:
        app: The Celery app.
        task_id: The job.
        timeout: Seconds that the broker may take to answer.
    """
    line = Line(app, timeout)
    try:
        with line.connection() as connection:
            return _ask(app, task_id, connection)
    except BrokerUnseen as error:
        return Said(gaps=(Gap("workers", f"they are asked by way of the broker: {error}"),))
    finally:
        line.close()


def _ask(app: Any, task_id: str, connection: Any) -> Said:
    first = app.control.inspect(timeout=REPLY_SECONDS, connection=connection)
    answers = first.query_task(task_id) or {}
    if not answers:
        gap = Gap("workers", f"no worker answered within {REPLY_SECONDS:g} s")
        return Said(workers=(), gaps=(gap,))
    nodes = list(answers)
    again = app.control.inspect(
        nodes, timeout=REPLY_SECONDS, connection=connection, limit=len(nodes)
    )
    requests = tuple(_requests(answers, task_id))
    if _may_wait_unseen(requests):
        requests = (*requests, *_scheduled(again.scheduled() or {}, task_id))
    return Said(
        requests=requests,
        workers=tuple(_workers(nodes, again.active_queues() or {})),
        revoked_at=tuple(
            node for node, ids in (again.revoked() or {}).items() if task_id in (ids or ())
        ),
    )


def _requests(answers: Mapping[str, Any], task_id: str) -> Iterator[RequestSeen]:
    for node, found in answers.items():
        pair = found.get(task_id) if isinstance(found, Mapping) else None
        state = _STATES.get(pair[0]) if pair else None
        if pair and state is not None:
            yield _request(node, state, pair[1])


def _request(
    node: str,
    state: Literal["active", "reserved", "scheduled"],
    info: Mapping[str, Any],
    eta: Any = None,
) -> RequestSeen:
    return RequestSeen(
        node=node,
        state=state,
        task=info.get("name"),
        pid=info.get("worker_pid"),
        since=info.get("time_start"),
        eta=eta,
    )


def _may_wait_unseen(requests: tuple[RequestSeen, ...]) -> bool:
    """Whether an ETA must be asked for: by its id a job is found without, before 5.7 not at all."""
    return all(each.state == "scheduled" for each in requests)


def _scheduled(answers: Mapping[str, Any], task_id: str) -> Iterator[RequestSeen]:
    for node, entries in answers.items():
        for entry in entries or ():
            info = entry.get("request") or {}
            if info.get("id") == task_id:
                yield _request(node, "scheduled", info, entry.get("eta"))


def _workers(nodes: list[str], queues: Mapping[str, Any]) -> Iterator[Worker]:
    for node in nodes:
        yield Worker(node, frozenset(each["name"] for each in queues.get(node) or ()))
