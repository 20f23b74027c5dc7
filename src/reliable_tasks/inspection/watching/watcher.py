"""One look at a system: its workers are asked, and its broker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

from reliable_tasks.broker.view import BrokerUnseen, BrokerView, QueueView, view_of
from reliable_tasks.broker.view.line import Line
from reliable_tasks.counting import COUNTS
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.inspection.destinations import destinations
from reliable_tasks.inspection.watching.letters import letters_kept
from reliable_tasks.inspection.watching.looks import Look, WorkerLook

__all__ = ("Watcher", "worker_look")

REPLY_SECONDS = 1.0
"""How long workers may take to answer; who they are is not known before."""

CONNECT_SECONDS = 2.0

INTERNAL = "celery."  # first part of the names of Celery's own tasks


class Watcher:
    """
    Looks at the workers and the broker of an app; nothing needs to be switched on for it.

    Args:
        app: The Celery app.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._view: BrokerView = view_of(app)
        self._queues: dict[str, None] = dict.fromkeys(destinations(app))

    def look(self) -> Look:
        """Look once. It takes a second or two, a few more with silent servers."""
        gaps: list[str] = []
        letters = self._letters(gaps)
        try:
            self._view.queues(self._queues)  # a broker that is silent is known sooner
            workers = self._workers()
            at = monotonic()
            queues = self._queues_read_by(workers)
        except BrokerUnseen as error:
            gaps.append(f"The broker does not answer: {error}")
            return Look(at=monotonic(), letters=letters, gaps=tuple(gaps))
        return Look(at=at, workers=workers, queues=queues, letters=letters, gaps=tuple(gaps))

    def _letters(self, gaps: list[str]) -> int | None:
        try:
            return letters_kept(self._app)
        except StoreUnavailable as error:
            gaps.append(f"The store of records does not answer: {error}")
            return None

    def close(self) -> None:
        """Close the connection to the broker."""
        self._view.close()

    def _workers(self) -> dict[str, WorkerLook]:
        answers = self._ask("stats")
        return {name: worker_look(answer) for name, answer in answers.items()}

    def _queues_read_by(self, workers: Iterable[str]) -> tuple[QueueView, ...]:
        """Return the queues that jobs are sent to, and those that workers read."""
        readers = Counter(self._read(list(workers)))
        self._queues.update(dict.fromkeys(readers))
        return tuple(
            queue if queue.consumers is not None else replace(queue, consumers=readers[queue.name])
            for queue in self._view.queues(self._queues)
        )

    def _read(self, workers: list[str]) -> Iterator[str]:
        if workers:
            for queues in self._ask("active_queues", workers).values():
                yield from (queue["name"] for queue in queues)

    def _ask(self, question: str, workers: list[str] | None = None) -> dict[str, Any]:
        """
        Return what workers answer, by their names; all are asked if none are named.

        Each question has a connection of its own: on one that has heard an answer, kombu's Redis
        transport often misses the next.
        """
        line = Line(self._app, CONNECT_SECONDS)
        try:
            with line.connection() as connection:
                inspection = self._app.control.inspect(
                    workers, timeout=REPLY_SECONDS, connection=connection
                )
                return getattr(inspection, question)() or {}
        finally:
            line.close()


def worker_look(stats: Mapping[str, Any]) -> WorkerLook:
    """
    Return what a worker has said.

    Args:
        stats: One worker's answer to `celery inspect stats`.
    """
    counts = stats.get(COUNTS)
    return WorkerLook(
        pid=int(stats.get("pid") or 0),
        started={
            name: number
            for name, number in (stats.get("total") or {}).items()
            if not name.startswith(INTERNAL)
        },
        slots=(stats.get("pool") or {}).get("max-concurrency"),
        running=None if counts is None else counts.get("running"),
        counts=counts,
    )
