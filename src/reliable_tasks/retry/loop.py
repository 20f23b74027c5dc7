"""tenacity's own loop, which asks our policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import time
from typing import Any, ParamSpec, TypeVar, cast

from tenacity import (
    RetryCallState,
    Retrying,
    sleep,
    stop_any,
    stop_before_delay,
    wait_random_exponential,
)
from tenacity.retry import RetryBaseT
from tenacity.stop import StopBaseT
from tenacity.wait import WaitBaseT

from reliable_tasks.core.durations import Seconds, to_ms
from reliable_tasks.errors import ConfigurationError, RetriesExhausted
from reliable_tasks.retry import switch
from reliable_tasks.retry.attempts import Attempts, Outcome, Raised, Reason, RetryIn, Returned, Stop
from reliable_tasks.retry.never import NEVER
from reliable_tasks.retry.notes import write_notes
from reliable_tasks.retry.policy import On, RetryPolicy, read_policy

__all__ = ("InPlace", "read_inline")

P = ParamSpec("P")
R = TypeVar("R")

FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0  # seconds; both before jitter, which is full
LONGEST_TOTAL = 10.0  # seconds


def read_inline(
    *,
    on: On | None,
    attempts: int,
    wait: WaitBaseT | None,
    stop: StopBaseT | None,
    retry: RetryBaseT | None,
    within: Seconds,
) -> RetryPolicy:
    """
    Check what `retry_inline` was given, and make a policy of it.

    Raises:
        ConfigurationError: A value cannot work.
    """
    total = to_ms("within", within, least=0.001) / 1_000
    if total > LONGEST_TOTAL:
        raise ConfigurationError(
            f"within: expected at most {LONGEST_TOTAL:g} s, got {total:g} s. The worker's slot "
            "waits all that time; what takes longer belongs into the queue, with @retry_task."
        )
    policy = read_policy(
        on=on,
        attempts=attempts,
        wait=wait,
        stop=stop,
        retry=retry,
        max_wait=total,  # a longer one does not fit, and ends it
        never=NEVER,
    )
    in_time = stop_before_delay(total)
    return replace(
        policy,
        wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)
        if wait is None
        else wait,
        stop=in_time if stop is None else stop_any(stop, in_time),  # type: ignore[arg-type]
    )


class InPlace:
    """
    One call of a function whose first attempt was not its last.

    Args:
        policy: What decides.
        began: When the first attempt began, in seconds of `monotonic`.
    """

    def __init__(self, policy: RetryPolicy, began: float) -> None:
        self._began = began
        turned = switch.current()
        self._policy = turned.applied_to(policy)
        self._sleep = sleep if turned.waits else _stay_awake
        self._attempts = Attempts.begin(0.0)
        self._judged = 0
        self._decision: RetryIn | Stop = Stop(Reason.UNRETRYABLE)

    def go_on(
        self, first: Outcome, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """
        Call *function* again until it succeeds or the policy ends it.

        Args:
            first: How the first attempt ended, which tenacity's loop takes for its own.
            function: What was called.
            args: With which arguments.
            kwargs: And with which named ones.
        """
        outcomes = iter([first])

        def attempt() -> R:
            outcome = next(outcomes, None)
            if outcome is None:
                return function(*args, **kwargs)
            if isinstance(outcome, Raised):
                raise outcome.error
            return cast("R", outcome.value)

        loop = Retrying(
            retry=self._is_retryable,
            wait=self._wait,
            stop=self._is_over,
            sleep=self._sleep,
            retry_error_callback=self._give_up,
        )
        return loop(attempt)

    def _is_retryable(self, call: RetryCallState) -> bool:
        return self._decide(call) != Stop(Reason.UNRETRYABLE)

    def _wait(self, call: RetryCallState) -> float:
        decision = self._decide(call)
        return decision.seconds if isinstance(decision, RetryIn) else 0.0

    def _is_over(self, call: RetryCallState) -> bool:
        return isinstance(self._decide(call), Stop)

    def _decide(self, call: RetryCallState) -> RetryIn | Stop:
        """Ask the policy once for each attempt; tenacity asks for one part after the other."""
        if self._judged == call.attempt_number:
            return self._decision
        self._judged = call.attempt_number
        call.start_time = self._began
        outcome = _outcome(call)
        try:
            self._decision = self._policy.judge(call, outcome, time())
        except Exception as trouble:
            if trouble.__context__ is None and isinstance(outcome, Raised):
                trouble.__context__ = outcome.error
            raise
        if isinstance(self._decision, RetryIn):
            self._attempts = self._attempts.following(
                outcome, _elapsed(call), self._decision.seconds
            )
        return self._decision

    def _give_up(self, call: RetryCallState) -> Any:
        outcome, elapsed = _outcome(call), _elapsed(call)
        error = (
            outcome.error
            if isinstance(outcome, Raised)
            else RetriesExhausted(call.attempt_number, elapsed)
        )
        if isinstance(self._decision, Stop):
            reason = self._decision.reason
            notes = self._attempts.account("retry_inline", outcome, elapsed, reason)
            write_notes(error, "retry_inline", notes)
        raise error


def _outcome(call: RetryCallState) -> Outcome:
    if call.outcome is None:
        raise RuntimeError("asked before the attempt ended")
    error = call.outcome.exception()
    return Returned(call.outcome.result()) if error is None else Raised(error)


def _elapsed(call: RetryCallState) -> float:
    return call.seconds_since_start or 0.0


def _stay_awake(_seconds: float) -> None:
    """Wait no time: a test has turned waits off."""
