"""The worker's main process: its word that a job is over, or that its process is ending."""

from __future__ import annotations

import logging
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any
from weakref import WeakSet

from celery.app.task import Context
from celery.exceptions import TimeLimitExceeded
from celery.worker import state
from celery.worker.request import Request

from reliable_tasks.core.records import State
from reliable_tasks.core.snapshots import snapshot
from reliable_tasks.core.store import Store
from reliable_tasks.errors import ReliableTasksError
from reliable_tasks.task import IdempotentTask

__all__ = ("GuardedRequest", "drain_active")

logger = logging.getLogger("reliable_tasks")

_announced: WeakSet[Any] = WeakSet()
"""Requests whose end was announced: one round trip for all, however many are cancelled."""

_ENDED = frozenset({State.DONE, State.FAILED})
_BEGUN = _ENDED | {State.RUNNING, State.QUARANTINED}


class GuardedRequest(Request):
    """A request whose job is also ended in the store when the main process ends it."""

    _given_back = False

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Leave a job alone at its hard time limit whose message has gone back to the queue."""
        if not soft and _acknowledges_timeouts(self.task) and self._is_given_back():
            return
        super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        """
        End the job at its hard time limit, before its failure is stored.

        Do not take an execution for failed that only had to send what hangs on its outcome.
        """
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, TimeLimitExceeded):  # `on_timeout` comes after it
            if self._is_given_back():
                return None
            if _acknowledges_timeouts(self.task):
                self._end(killed=True)
        answer = super().on_failure(exc_info, *args, **kwargs)
        for other in self._running_copies():  # Celery forgets a job's id with any copy of it
            state.requests.setdefault(self.id, other)
        return answer

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Terminate what runs of the job: Celery finds but the copy that it received last."""
        for other in self._running_copies():
            super(GuardedRequest, other).terminate(pool, signal)
        super().terminate(pool, signal)

    def _running_copies(self) -> list[Any]:
        running = snapshot(state.active_requests)
        return [each for each in running if each.id == self.id and each is not self]

    def _is_given_back(self) -> bool:
        """Whether the job had its outcome when its time was over; a copy sends what is left."""
        if not self._given_back:
            known, is_closed = self._known()
            if known not in _ENDED or is_closed:
                return False
            self._given_back = True
            logger.warning(
                "%s[%s]: its time was over before all was sent; a copy goes on", self.name, self.id
            )
            state.task_ready(self)
            self.reject(requeue=True)
        return True

    def cancel(self, *args: Any, **kwargs: Any) -> None:
        """Say that a cold or soft shutdown ends this job; Celery's signal comes too late."""
        if self not in _announced:
            _drain({self, *snapshot(state.active_requests)})
        super().cancel(*args, **kwargs)

    def maybe_expire(self) -> bool:
        """
        Let only a job expire that has not begun.

        A copy of one that runs, or has an outcome, is the guard's: Celery would report the job
        as revoked, also to its chord, and drop what hangs on it.
        """
        is_late = self.expires < datetime.now(UTC if self.expires.tzinfo else None)
        if is_late and self._has_begun():
            return False
        return bool(super().maybe_expire())

    def _has_begun(self) -> bool:
        known, _ = self._known()
        return known in _BEGUN

    def _known(self) -> tuple[str, bool]:
        """Return the job's state by its record, or nothing, and whether it is closed."""
        try:
            record = self.task.records.peek(key_of_request(self))
        except Exception as error:
            logger.warning("%s[%s]: its record could not be read: %s", self.name, self.id, error)
            return "", False
        if record is None:
            return "", False
        if record.job == self.id:
            return record.state, record.closed
        fact = record.facts.get(self.id)
        return (fact.ended, fact.closed) if fact is not None else ("", False)

    def _announce_revoked(
        self,
        reason: str,
        terminated: bool,
        signum: Any,
        expired: bool,
    ) -> None:
        self._end(killed=terminated)
        super()._announce_revoked(reason, terminated, signum, expired)

    def _success_was_stored(self) -> bool:
        """Never take a stored success for the end: what hangs on the message may be unsent."""
        return False

    def _end(self, *, killed: bool) -> None:
        task = self.task
        try:
            key = key_of_request(self)
            task.records.end(
                key, job=self.id, killed=killed, horizon_ms=task.guard_options.horizon_ms
            )
        except Exception as error:  # a key that cannot be made must not end the worker
            logger.warning("%s[%s]: its end was not recorded: %s", self.name, self.id, error)


def _acknowledges_timeouts(task: Any) -> bool:
    """Whether a job is over at its hard time limit; Celery 5.7 has an option for just that."""
    return bool(getattr(task, "acks_on_timeout", task.acks_on_failure_or_timeout))


def key_of_request(request: Any) -> str:
    """Return the record key of a request in the main process."""
    context = Context(request.request_dict)
    return str(request.task.identity_of(context, request.args, request.kwargs).key)


def drain_active(**_: Any) -> None:
    """Say of every job that runs here that its process is shutting down."""
    _drain(set(snapshot(state.active_requests)))


def _drain(requests: set[Any]) -> None:
    jobs: dict[Store, list[tuple[str, str]]] = defaultdict(list)
    for request in requests:
        _announced.add(request)
        if isinstance(request.task, IdempotentTask):
            try:
                jobs[request.task.records].append((key_of_request(request), request.id))
            except Exception as error:
                logger.warning("%s[%s]: %s", request.name, request.id, error)
    for store, each in jobs.items():
        try:
            store.drain(each)
        except ReliableTasksError as error:
            logger.warning("a shutdown could not be announced to the store: %s", error)
