"""One delivery of a task with `retry_task`: what comes before its attempt, and after."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from time import time
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary

from celery import Celery
from celery.exceptions import Ignore, Retry

from reliable_tasks.core.store import Store
from reliable_tasks.deadletter.copies import REPLAY_HEADER, is_the_one_that_runs
from reliable_tasks.errors import RetriesExhausted, StoreUnavailable
from reliable_tasks.events import GIVEN_UP, PUT_OFF, RETRYING, WAITING, Kind, report
from reliable_tasks.executions import SLOT, Execution
from reliable_tasks.publish import give_back, is_hopeless, longest_wait_ms, publish_retry
from reliable_tasks.retry import switch
from reliable_tasks.retry.attempts import NAME, Attempts, Outcome, Raised, Reason, RetryIn, Stop
from reliable_tasks.retry.declared import MARK
from reliable_tasks.retry.ending import bury, call_hook, forget, note
from reliable_tasks.retry.gaveup import GaveUp
from reliable_tasks.retry.notes import write_notes
from reliable_tasks.shield import SoftLimitShield
from reliable_tasks.storage import eager_store, place_of, prefix_of

if TYPE_CHECKING:
    from reliable_tasks.retry.budget import CircuitBreaker
    from reliable_tasks.retry.wrapper import Plan

__all__ = ("Turn",)

logger = logging.getLogger("reliable_tasks")

CLOCKS_DIFFER = 0.1  # seconds by which a message may come before its time and still be run

_records_of_apps: WeakKeyDictionary[Celery, tuple[Store, str]] = WeakKeyDictionary()
"""For tasks of another base than ours, which look it up themselves."""


class Turn:
    """
    One delivery, in the function that `retry_task` made.

    Args:
        plan: What the decorator was given.
        request: The delivery's `celery.app.task.Context`, which names the task under `MARK`.
    """

    __slots__ = ("_began_at", "_known", "_plan", "_request")

    def __init__(self, plan: Plan, request: Any) -> None:
        self._plan, self._request = plan, request
        self._known: Attempts | None = None
        headers = request.headers
        if headers and NAME in headers:
            self._known = Attempts.parse(headers[NAME], request.id)
        self._began_at = time()

    @property
    def _attempts(self) -> Attempts:
        if self._known is None:
            self._known = Attempts.begin(self._began_at)
        return self._known

    # --- before the attempt ---------------------------------------------------------------

    def begin(self) -> None:
        """
        Let the attempt begin, or put it off.

        Raises:
            Retry: It is not due yet, or the breaker is open: it was published again.
            Ignore: It is the second copy of a replay.
        """
        known, plan = self._known, self._plan
        headers = self._request.headers
        if headers and REPLAY_HEADER in headers and self._execution is None:
            self._drop_second_copy(headers[REPLAY_HEADER])
        if known is not None or (plan.breaker is not None and self._is_limited):
            shield = self._shield()
            with shield:
                self._wait()
                shield.lower()
        if known is not None and known.attempt > 1:
            self._count_in_lease()
            return
        self._known = None  # what it was put off before the first attempt does not count
        if plan.budget is not None and self._is_limited:
            plan.budget.called()

    def _drop_second_copy(self, said: Any) -> None:
        """
        Let only one of the messages run that were published for one dead letter.

        Raises:
            Ignore: This is another.
        """
        task, request = self._task, self._request
        try:
            if is_the_one_that_runs(*self._records, request.id, said):
                return
        except StoreUnavailable as error:
            if task.acks_late:
                give_back(task, "replay", error)
            logger.warning("%s[%s] runs, replayed perhaps twice: %s", task.name, request.id, error)
            return
        logger.info("Task %s[%s] dropped a copy of its replay", task.name, request.id)
        raise Ignore

    def _wait(self) -> None:
        if self._known is not None:
            self._wait_until_due(self._known)
        if self._plan.breaker is not None and self._is_limited:
            self._wait_for_breaker(self._plan.breaker)

    def _wait_until_due(self, attempts: Attempts) -> None:
        remaining = attempts.due_at - time()
        if remaining > CLOCKS_DIFFER and switch.current().waits:
            retry = self._publish(attempts, remaining, None)
            report(WAITING, self._task, self._request.id, {"wait": round(remaining, 3)})
            raise retry

    def _wait_for_breaker(self, breaker: CircuitBreaker) -> None:
        wait_ms = breaker.wait_ms(*self._records, token=self._token)
        if wait_ms:
            wait = wait_ms / 1_000
            retry = self._publish(replace(self._attempts, due_at=time() + wait), wait, None)
            self._tell(PUT_OFF, None, wait=wait, reason="breaker", breaker=breaker.name)
            raise retry

    # --- after the attempt ----------------------------------------------------------------

    def succeed(self) -> None:
        """Take note of an attempt whose value is the task's result."""
        if self._plan.dead_letter and self._attempts.attempt > 1:
            with self._shield():
                forget(self._task, self._request, lambda: self._records[0])
        if self._plan.breaker is not None:
            with self._shield():
                self._tell_breaker(failed=False)

    def goes_on(self, outcome: Outcome) -> bool:
        """
        Whether the body is to be run again at once; False: *outcome* is the task's own.

        Raises:
            Retry: The next attempt was published.
            RetriesExhausted: There is none, and the value is not one to return.
        """
        if self._is_settled_elsewhere:
            return False
        with self._shield():
            return self._goes_on(outcome)

    def _goes_on(self, outcome: Outcome) -> bool:
        now = time()
        policy = switch.current().applied_to(self._plan.policy)
        decision = policy.decide(self._attempts, outcome, now)
        if self._plan.dead_letter and isinstance(outcome, Raised):
            self._note(outcome.error, decision)
        if isinstance(decision, Stop):
            self._end(outcome, decision.reason, now)
            return False
        if not self._request.is_eager:
            self._go_on_in_queue(outcome, decision.seconds, now)
        self._go_on_here(outcome, decision.seconds, now)
        return True

    def _note(self, error: BaseException, decision: RetryIn | Stop) -> None:
        """Keep the error for a letter, unless it ends a job that nobody gave up."""
        if not (isinstance(decision, Stop) and decision.reason is Reason.UNRETRYABLE):
            attempt = self._attempts.attempt
            note(self._task, self._request, attempt, error, lambda: self._records[0])

    def _end(self, outcome: Outcome, reason: Reason, now: float) -> None:
        attempts = self._attempts
        if reason is Reason.UNRETRYABLE:
            if isinstance(outcome, Raised):
                self._tell_breaker(failed=False)
                if attempts.attempt > 1:
                    notes = attempts.account("retry_task", outcome, now, reason)
                    write_notes(outcome.error, "retry_task", notes)
            return
        self._tell_breaker(failed=True)
        error = self._give_up(outcome, reason, now)
        if not isinstance(outcome, Raised):
            raise error

    def _give_up(self, outcome: Outcome, reason: Reason, now: float) -> BaseException:
        """Tell whoever wants to know that no attempt follows *outcome*; return the job's error."""
        attempts, elapsed = self._attempts, self._attempts.elapsed(now)
        error: BaseException = RetriesExhausted(attempts.attempt, elapsed)
        if isinstance(outcome, Raised):
            error = outcome.error
        write_notes(error, "retry_task", attempts.account("retry_task", outcome, now, reason))
        self._say_farewell(error, attempts.attempt, elapsed, reason)
        self._tell(GIVEN_UP, outcome, wait=None, reason=str(reason))
        return error

    def _say_farewell(
        self, error: BaseException, attempts: int, elapsed: float, reason: Reason
    ) -> None:
        """Keep the message, and call the hook."""
        request, plan = self._request, self._plan
        if plan.dead_letter:
            bury(self._task, request, reason, lambda: self._records[0])
        if plan.give_up is not None:
            given_up = GaveUp(
                task_name=self._task.name,
                task_id=request.id,
                attempts=attempts,
                elapsed=elapsed,
                reason=str(reason),
                error=error,
                args=request.args,
                kwargs=request.kwargs,
            )
            call_hook(plan.give_up, given_up)

    # --- the next attempt -----------------------------------------------------------------

    def _go_on_here(self, outcome: Outcome, wait: float, now: float) -> None:
        """Count the next attempt of an eager run; its wait is only noted."""
        self._tell(RETRYING, outcome, wait=wait, reason=None)
        self._known = self._attempts.following(outcome, now, wait)
        self._request.retries += 1
        self._count_in_lease()

    def _go_on_in_queue(self, outcome: Outcome, wait: float, now: float) -> NoReturn:
        waits = switch.current().waits
        if waits:
            wait = self._limited(wait)
        following = self._attempts.following(outcome, now, wait)
        if not waits:  # the wait counts for `stop` all the same
            wait, following = 0.0, replace(following, due_at=0.0)
        retry = self._publish(following, wait, outcome)
        self._tell(RETRYING, outcome, wait=wait, reason=None)
        raise retry

    def _limited(self, wait: float) -> float:
        """Return how long to wait so that breaker and budget agree."""
        wait_ms = max(math.ceil(wait * 1_000), self._tell_breaker(failed=True))
        budget = self._plan.budget
        if budget is not None:
            wait_ms = budget.wait_ms(*self._records, token=self._token, wait_ms=wait_ms)
        return wait_ms / 1_000

    def _publish(self, attempts: Attempts, wait: float, outcome: Outcome | None) -> Retry:
        """
        Publish the message again, and return what tells Celery so.

        A wait that is longer than the broker safely holds goes in several hops.
        """
        task, request = self._task, self._request
        wait_ms = min(math.ceil(wait * 1_000), longest_wait_ms(task.app))
        headers = {NAME: attempts.encode(request.id)}
        try:
            signature = publish_retry(task, request, wait_ms, headers)
        except Exception as trouble:
            self._fail_to_publish(trouble, outcome)
        error = outcome.error if isinstance(outcome, Raised) else None
        retry = Retry(exc=error, when=round(wait, 3), is_eager=False, sig=signature)
        if self._execution is not None:
            self._execution.retry = retry
        return retry

    def _fail_to_publish(self, trouble: Exception, outcome: Outcome | None) -> NoReturn:
        """Leave the job in the broker; give it up if that has it no longer, or never takes it."""
        task, now = self._task, time()
        if task.acks_late and not is_hopeless(trouble):
            give_back(task, "retry", trouble)
        logger.error("%s: the retry could not be published: %s", task.name, trouble)
        if outcome is not None:
            raise self._give_up(outcome, Reason.UNPUBLISHED, now) from trouble
        attempts, reason = self._attempts, Reason.UNPUBLISHED  # this one has not begun
        self._say_farewell(trouble, attempts.attempt - 1, attempts.elapsed(now), reason)
        self._tell(GIVEN_UP, None, wait=None, reason=str(reason))
        raise trouble

    # --- what others know -----------------------------------------------------------------

    @property
    def _task(self) -> Any:
        return self._request.__dict__[MARK]

    @property
    def _execution(self) -> Execution | None:
        """The execution of a guarded task; None for a task of another base."""
        return self._request.__dict__.get(SLOT)  # type: ignore[no-any-return]

    @property
    def _is_settled_elsewhere(self) -> bool:
        """Whether the body has published a retry itself, or another execution has taken over."""
        execution = self._execution
        return execution is not None and (execution.retry is not None or execution.lease.lost)

    @property
    def _is_limited(self) -> bool:
        """Whether budget and breaker are asked."""
        return not self._request.is_eager and switch.current().waits

    def _shield(self) -> SoftLimitShield:
        """
        Return what holds a soft time limit back in the meantime.

        In the middle of publishing, nobody would know whether the next attempt is in the broker.
        """
        return SoftLimitShield.of(self._task, self._request)

    @property
    def _token(self) -> str:
        return f"{self._request.id}:{self._attempts.attempt}"

    @property
    def _records(self) -> tuple[Store, str]:
        """The store, and the first part of the names there."""
        task = self._task
        if self._request.is_eager:
            return eager_store(), prefix_of(task.app.conf)
        if self._execution is not None:
            return task.records, task.record_prefix
        if task.app not in _records_of_apps:  # looking into the settings takes its time
            _records_of_apps[task.app] = place_of(task.app.conf).open(), prefix_of(task.app.conf)
        return _records_of_apps[task.app]

    def _count_in_lease(self) -> None:
        if self._execution is not None:
            self._execution.lease.attempt = self._attempts.attempt

    def _tell_breaker(self, *, failed: bool) -> int:
        """Return for how many milliseconds the breaker is open now."""
        breaker = self._plan.breaker
        if breaker is None or not self._is_limited:
            return 0
        return breaker.ended(*self._records, token=self._token, failed=failed)

    def _tell(
        self,
        kind: Kind,
        outcome: Outcome | None,
        *,
        wait: float | None,
        reason: str | None,
        **more: str,
    ) -> None:
        details = {
            "attempt": self._attempts.attempt,
            "wait": wait if wait is None else round(wait, 3),
            "error": outcome.kind if outcome is not None else None,
            "reason": reason,
            **more,
        }
        report(kind, self._task, self._request.id, details)
