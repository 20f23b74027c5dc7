"""What workers say of a job, by Celery's own inspection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from reliable_tasks.broker.view import BrokerUnseen
from reliable_tasks.broker.view.line import Line
from reliable_tasks.inspection.why.evidence import Gap, RequestSeen, Worker

__all__ = ("Said", "ask", "ask_for_waiting")

REPLY_SECONDS = 1.0  # at most, for all workers, as in Celery's own inspection

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
        timeout: Seconds that the broker may take to answer, and workers if it is less than 1.
    """
    try:
        with _connected(app, timeout) as connection:
            return _ask(app, task_id, connection, min(timeout, REPLY_SECONDS))
    except BrokerUnseen as error:
        return Said(gaps=(Gap("workers", f"they are asked by way of the broker: {error}"),))


def ask_for_waiting(
    app: Any, task_id: str, nodes: Sequence[str], *, timeout: float
) -> tuple[RequestSeen, ...]:
    """
    Ask for a job among all that wait in workers for their time, which is a long answer.

    By its id a job that waits is found without its ETA, and by Celery before 5.7 not at all.

    Args:
        app: The Celery app.
        task_id: The job.
        nodes: The workers.
        timeout: As for `ask`.
    """
    try:
        with _connected(app, timeout) as connection:
            asked = _inspection(app, nodes, connection, min(timeout, REPLY_SECONDS))
            return tuple(_scheduled(asked.scheduled() or {}, task_id))
    except BrokerUnseen:
        return ()


@contextmanager
def _connected(app: Any, timeout: float) -> Iterator[Any]:
    """Lend a connection, closed after use."""
    line = Line(app, timeout)
    try:
        with line.connection() as connection:
            yield connection
    finally:
        line.close()


def _inspection(app: Any, nodes: Sequence[str], connection: Any, patience: float) -> Any:
    return app.control.inspect(
        list(nodes), timeout=patience, connection=connection, limit=len(nodes)
    )


def _ask(app: Any, task_id: str, connection: Any, patience: float) -> Said:
    everybody = app.control.inspect(timeout=patience, connection=connection)
    answers = everybody.query_task(task_id) or {}
    if not answers:
        gap = Gap("workers", f"no worker answered within {patience:g} s")
        return Said(workers=(), gaps=(gap,))
    nodes = list(answers)
    asked = _inspection(app, nodes, connection, patience)
    queues, revoked = asked.active_queues() or {}, asked.revoked() or {}
    slow = [node for node in nodes if node not in queues or node not in revoked]
    return Said(
        requests=tuple(_requests(answers, task_id)),
        workers=tuple(_worker(node, queues.get(node)) for node in nodes),
        revoked_at=tuple(node for node, ids in revoked.items() if task_id in (ids or ())),
        gaps=tuple(Gap("workers", f"{node} did not answer every question") for node in slow),
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


def _scheduled(answers: Mapping[str, Any], task_id: str) -> Iterator[RequestSeen]:
    for node, entries in answers.items():
        for entry in entries or ():
            info = entry.get("request") or {}
            if info.get("id") == task_id:
                yield _request(node, "scheduled", info, entry.get("eta"))


def _worker(node: str, queues: Any) -> Worker:
    return Worker(node, None if queues is None else frozenset(each["name"] for each in queues))
