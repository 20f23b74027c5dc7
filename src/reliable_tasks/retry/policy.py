"""
One policy for both decorators: how an attempt ended, to a wait or to the end (pure).

It speaks tenacity's language: `wait`, `stop` and `retry` are any objects of tenacity, asked with
the call state that tenacity's own loop would give them. But the state may come from a message, so
that its times are true across processes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tenacity import Future, RetryCallState, Retrying, TryAgain, wait_random_exponential
from tenacity.retry import RetryBaseT, retry_base
from tenacity.stop import StopBaseT, stop_base, stop_before_delay
from tenacity.wait import WaitBaseT, wait_base

from reliable_tasks.core.durations import Seconds, to_ms
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.retry.advice import DoNotRetry, advised
from reliable_tasks.retry.attempts import (
    Attempts,
    Outcome,
    Raised,
    Reason,
    RetryIn,
    Returned,
    Stop,
)

__all__ = ("On", "RetryPolicy", "check_function", "is_asynchronous", "read_policy")

On = (
    type[Exception]
    | tuple[type[Exception], ...]
    | retry_base
    | Callable[[Any], bool | float | timedelta]
)

FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0  # seconds; both before jitter, which is full
LONGEST_TOTAL = 3_600.0  # seconds

_NO_LOOP = Retrying()  # what a call state belongs to when no loop of tenacity runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """
    When an attempt is followed by another, and after how long; made by `read_policy`.

    Args:
        attempts: How many there are at most, the first included.
        on: Whether a call is worth another attempt, or after how many seconds it is; None: see
            *retry*.
        retry: As tenacity's; a call that either of the two wants is tried again.
        wait: As tenacity's; asked where neither *on* nor the server says how long.
        stop: As tenacity's; asked with the wait that comes next.
        max_wait: Longest wait in seconds, whoever asked for it.
        never: Errors that are not tried again, whatever *on* and *retry* say.
    """

    attempts: int
    on: Callable[[RetryCallState, Outcome], bool | float] | None
    retry: RetryBaseT | None
    wait: WaitBaseT
    stop: StopBaseT
    max_wait: float
    never: tuple[type[BaseException], ...] = ()

    def decide(self, attempts: Attempts, outcome: Outcome, now: float) -> RetryIn | Stop:
        """
        Decide what follows an attempt.

        Args:
            attempts: The state of the attempt that is over.
            outcome: How it ended.
            now: When it ended, in seconds since 1970.

        Raises:
            ConfigurationError: *on* or *wait* answered with what is none of their answers.
        """
        return self.judge(_call_state(attempts, outcome, now), outcome, now)

    def judge(self, call: RetryCallState, outcome: Outcome, now: float) -> RetryIn | Stop:
        """
        Decide what follows the attempt in *call*, a state of tenacity's.

        The wait is noted as the state's ``upcoming_sleep``, where *stop* looks for it.

        Args:
            call: The state of the attempt that is over.
            outcome: How it ended, as the state has it.
            now: The time in seconds since 1970, for servers that name a date.

        Raises:
            ConfigurationError: *on* or *wait* answered with what is none of their answers.
        """
        wanted = self._wanted(call, outcome)
        if wanted is False:
            return Stop(Reason.UNRETRYABLE)
        advice = advised(outcome, now)
        if isinstance(advice, DoNotRetry):
            return Stop(Reason.REFUSED)
        if call.attempt_number >= self.attempts:
            return Stop(Reason.ATTEMPTS)
        if wanted is not True:
            wait = wanted
        elif isinstance(advice, float):
            wait = advice
        else:
            wait = _waited("wait", self.wait(call))
        call.upcoming_sleep = min(max(wait, 0.0), self.max_wait)
        return Stop(Reason.STOP) if self.stop(call) else RetryIn(call.upcoming_sleep)

    def _wanted(self, call: RetryCallState, outcome: Outcome) -> bool | float:
        """Whether another attempt is worth it, or the seconds that it is worth it after."""
        if isinstance(outcome, Raised):
            if not isinstance(outcome.error, Exception) or isinstance(outcome.error, self.never):
                return False
            if isinstance(outcome.error, TryAgain):
                return True
        answer = False if self.on is None else self.on(call, outcome)
        if answer is False and self.retry is not None:
            return bool(self.retry(call))
        return answer


def read_policy(
    *,
    on: On | None,
    attempts: int,
    wait: WaitBaseT | None,
    stop: StopBaseT | None,
    retry: RetryBaseT | None,
    max_wait: Seconds,
    never: tuple[type[BaseException], ...] = (),
) -> RetryPolicy:
    """
    Check what a decorator was given, and make a policy of it.

    Args:
        on: What is worth another attempt: classes of errors, a `retry_*` object of tenacity, or
            a function that takes the error and returns True, False, or the seconds to wait.
            Needed unless *retry* is given.
        attempts: How many there are at most, the first included; 1: never again.
        wait: A `wait_*` object of tenacity; None: full jitter from 1 s, at most 300 s.
        stop: A `stop_*` object of tenacity, beside *attempts*; None: no wait begins that would
            end an hour or more after the first attempt did.
        retry: A `retry_*` object of tenacity, for results and for combinations.
        max_wait: Longest wait in seconds, whoever asked for it.
        never: Errors that are not tried again, whatever the others say.

    Raises:
        ConfigurationError: A value cannot work; the text names it, and what was expected.
    """
    if on is None and retry is None:
        raise ConfigurationError(
            "on: expected what is worth another attempt, such as on=ConnectionError, or "
            "retry=retry_if_result(...), got neither. Errors of your own code are not mended by "
            "trying again, so there is no default."
        )
    _check_count(attempts)
    _check_object("wait", wait, wait_base, "wait_fixed(5)")
    _check_object("stop", stop, stop_base, "stop_before_delay(600)")
    _check_object("retry", retry, retry_base, "retry_if_result(...)")
    full_jitter = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)
    return RetryPolicy(
        attempts=attempts,
        on=None if on is None else _reader(on, never),
        retry=retry,
        wait=full_jitter if wait is None else wait,
        stop=stop_before_delay(LONGEST_TOTAL) if stop is None else stop,
        max_wait=to_ms("max_wait", max_wait, least=0) / 1_000,
        never=never,
    )


def check_function(decorator: str, function: Any) -> None:
    """
    Refuse what cannot be tried again by calling it once more.

    Args:
        decorator: Name of the decorator, for the error.
        function: What it was put on.

    Raises:
        ConfigurationError: *function* is a task already, a class, or no plain function.
    """
    if hasattr(function, "apply_async"):
        raise ConfigurationError(
            f"{decorator}: expected a function, got the task {getattr(function, 'name', '')}. Put "
            f"@{decorator} below @app.task, next to the function."
        )
    if isinstance(function, staticmethod | classmethod):
        kind = type(function).__name__
        raise ConfigurationError(
            f"{decorator}: expected a plain function, got a {kind}. Put @{decorator} below "
            f"@{kind}, next to the function."
        )
    if not callable(function) or isinstance(function, type):
        raise ConfigurationError(f"{decorator}: expected a function, got {function!r}")
    if is_asynchronous(function):
        raise ConfigurationError(
            f"{decorator}: expected a plain function, got the asynchronous {_name(function)}. "
            "Run it with asyncio.run(...) inside a plain function, and put the decorator on that."
        )
    if inspect.isgeneratorfunction(function):
        raise ConfigurationError(
            f"{decorator}: expected a plain function, got the generator {_name(function)}. Calling "
            "it runs nothing that could fail; return a list, or decorate the function that "
            "consumes it."
        )


# --- what `on` may be ---------------------------------------------------------------------


def _reader(
    on: Any, never: tuple[type[BaseException], ...]
) -> Callable[[RetryCallState, Outcome], bool | float]:
    """Return how to ask *on* about a call."""
    if isinstance(on, type | tuple):
        return _by_class(on if isinstance(on, tuple) else (on,), never)
    is_other = isinstance(on, wait_base | stop_base) or not callable(on)
    if is_other or is_asynchronous(on) or not _takes_error(on):
        raise ConfigurationError(
            "on: expected a class of errors or a tuple of them, a retry_* object of tenacity, or a "
            f"plain function that takes the error, got {on!r}"
        )
    if isinstance(on, retry_base):
        return lambda call, _: bool(on(call))
    return _by_answer(on)


def _takes_error(on: Any) -> bool:
    """Whether a function can be called with an error alone, as far as it lets that be known."""
    try:
        inspect.signature(on).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin that has no signature
        return True
    return True


def _by_class(
    classes: tuple[Any, ...], never: tuple[type[BaseException], ...]
) -> Callable[[RetryCallState, Outcome], bool]:
    are_errors = [isinstance(cls, type) and issubclass(cls, Exception) for cls in classes]
    if not classes or not all(are_errors):
        raise ConfigurationError(
            "on: expected classes of errors below Exception, such as "
            f"(ConnectionError, TimeoutError), got {classes!r}"
        )
    if idle := [cls.__qualname__ for cls in classes if issubclass(cls, never)]:
        raise ConfigurationError(
            f"on: expected errors of what is called, got {idle[0]}, which is never tried again: it "
            "ends the execution itself. Catch it in the body, and raise an error of your own."
        )

    def is_one(_: RetryCallState, outcome: Outcome) -> bool:
        return isinstance(outcome, Raised) and isinstance(outcome.error, classes)

    return is_one


def _by_answer(asked: Callable[[Any], Any]) -> Callable[[RetryCallState, Outcome], bool | float]:
    def answer(_: RetryCallState, outcome: Outcome) -> bool | float:
        if isinstance(outcome, Returned):
            return False
        said = asked(outcome.error)
        if isinstance(said, bool):
            return said
        seconds = _waited(f"on: {_name(asked)}", said)
        if not 0 <= seconds < math.inf:
            raise ConfigurationError(
                f"on: {_name(asked)}: expected seconds of at least 0, got {said!r}"
            )
        return seconds

    return answer


def _waited(source: str, said: Any) -> float:
    """Return the seconds that a function or an object of tenacity answered with."""
    seconds: Any = said.total_seconds() if isinstance(said, timedelta) else said
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or math.isnan(seconds):
        allowed = "seconds" if source == "wait" else "True, False or seconds"
        raise ConfigurationError(f"{source}: expected {allowed}, got {said!r}")
    return float(seconds)


def _check_count(attempts: Any) -> None:
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
        raise ConfigurationError(
            f"attempts: expected a whole number from 1, the first included, got {attempts!r}"
        )


def _check_object(option: str, value: Any, kind: type, example: str) -> None:
    """Refuse what is neither an object of tenacity's *kind* nor a function in its place."""
    others = {wait_base, stop_base, retry_base} - {kind}
    is_other = isinstance(value, (type, *others)) or is_asynchronous(value)
    if value is not None and (is_other or not callable(value)):
        raise ConfigurationError(
            f"{option}: expected an object of tenacity such as {example}, got {value!r}"
        )


def is_asynchronous(function: Any) -> bool:
    """Whether a call of *function*, or of what a partial of it calls, is to be awaited."""
    called = getattr(function, "func", function)  # of a functools.partial
    candidates = (called, getattr(type(called), "__call__", None))  # noqa: B004 - it is inspected
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in candidates
    )


def _name(function: Any) -> str:
    return f"{getattr(function, '__qualname__', type(function).__qualname__)}()"


# --- tenacity's state of a call -----------------------------------------------------------


def _call_state(attempts: Attempts, outcome: Outcome, now: float) -> RetryCallState:
    """Return the state that tenacity's own loop would have, had it run all the attempts."""
    call = RetryCallState(_NO_LOOP, fn=None, args=(), kwargs={})
    call.attempt_number = attempts.attempt
    call.idle_for = attempts.waited
    call.outcome_timestamp = call.start_time
    call.start_time -= attempts.elapsed(now)
    raised = isinstance(outcome, Raised)
    ended_with = outcome.error if isinstance(outcome, Raised) else outcome.value
    call.outcome = Future.construct(attempts.attempt, ended_with, raised)
    return call
