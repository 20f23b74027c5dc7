"""What workers say of a job, by Celery's own inspection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
        answers = _answers(app, timeout, "query_task", task_id)
        nodes = list(answers)
        queues = _answers(app, timeout, "active_queues", nodes=nodes) if nodes else {}
        revoked = _answers(app, timeout, "revoked", nodes=nodes) if nodes else {}
    except BrokerUnseen as error:
        return Said(gaps=(Gap("workers", f"they are asked by way of the broker: {error}"),))
    slow = [node for node in nodes if node not in queues or node not in revoked]
    unanswered = [f"{node} did not answer every question" for node in slow]
    silence = [] if nodes else [f"no worker answered within {_patience(timeout):g} s"]
    return Said(
        requests=tuple(_requests(answers, task_id)),
        workers=tuple(_worker(node, queues.get(node)) for node in nodes),
        revoked_at=tuple(node for node, ids in revoked.items() if task_id in (ids or ())),
        gaps=tuple(Gap("workers", why) for why in (*silence, *unanswered)),
    )


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
        return tuple(_scheduled(_answers(app, timeout, "scheduled", nodes=nodes), task_id))
    except BrokerUnseen:
        return ()


def _answers(
    app: Any, timeout: float, question: str, *arguments: str, nodes: Sequence[str] = ()
) -> Mapping[str, Any]:
    """
    Ask one question; over a connection of its own, for kombu loses the second answer of one.

    Args:
        app: The Celery app.
        timeout: As for `ask`.
        question: A method of Celery's inspection.
        arguments: Its arguments.
        nodes: Who is asked, and need not be waited for any longer; everybody if empty.

    Raises:
        BrokerUnseen: The broker could not be reached.
    """
    line = Line(app, timeout)
    try:
        with line.connection() as connection:
            inspection = app.control.inspect(
                list(nodes) or None,
                timeout=_patience(timeout),
                connection=connection,
                limit=len(nodes) or None,
            )
            return getattr(inspection, question)(*arguments) or {}
    finally:
        line.close()


def _patience(timeout: float) -> float:
    return min(timeout, REPLY_SECONDS)


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
