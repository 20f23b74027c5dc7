"""`retry_inline`: blips of a few seconds, retried where they happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from reliable_tasks.core.durations import Seconds
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.retry.attempts import Outcome, Raised, Returned
from reliable_tasks.retry.declared import MARK

if TYPE_CHECKING:
    from tenacity.retry import RetryBaseT
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT

    from reliable_tasks.retry.policy import On

__all__ = ("retry_inline",)

P = ParamSpec("P")
R = TypeVar("R")


def retry_inline(
    *,
    on: On | None = None,
    attempts: int = 3,
    wait: WaitBaseT | None = None,
    stop: StopBaseT | None = None,
    retry: RetryBaseT | None = None,
    within: Seconds = 5.0,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """
    Call a function again, in place, when it fails: for a blip of at most a few seconds.

    The caller waits, and a worker's slot with it. What lasts longer belongs into
    the queue: put `retry_task` around it. A server that asks for more patience
    than *within* leaves ends the attempts at once, so that the queue can have it.

    When there is no further attempt, the last error is raised as it is, with a
    note for each attempt.

    Args:
        on: What is worth another attempt: classes of errors; a function that takes the error and
            returns True, False, or the seconds to wait; or a ``retry_*`` object of tenacity.
            Needed unless *retry* is given.
        attempts: Calls at most, the first included; 1: never again.
        wait: A ``wait_*`` object of tenacity. Default: full jitter from 0.1 s, at most 2 s.
        stop: A ``stop_*`` object of tenacity, beside *attempts* and *within*.
        retry: A ``retry_*`` object of tenacity, for results and for combinations.
        within: Seconds in total, at most 10. No wait begins that would end later.

    Returns:
        A decorator that keeps the function's signature. The function raises
        `RetriesExhausted` where every result is one that *retry* wants to try again.

    Raises:
        ConfigurationError: An argument cannot work, or the function is a coroutine function, a
            generator, or a task already; when it is decorated.
    """
    # Here, for tenacity costs 6 ms, and most programs that import the package retry nothing.
    from reliable_tasks.retry.loop import InPlace, read_inline  # noqa: PLC0415
    from reliable_tasks.retry.policy import check_function  # noqa: PLC0415

    policy = read_inline(on=on, attempts=attempts, wait=wait, stop=stop, retry=retry, within=within)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        check_function("retry_inline", function)
        if hasattr(function, MARK):
            raise ConfigurationError(
                "retry_inline: expected a function without @retry_task, got one with it. Attempts "
                "in place come first: put @retry_inline below @retry_task."
            )

        @wraps(function)
        def retried(*args: P.args, **kwargs: P.kwargs) -> R:
            began = time.monotonic()
            try:
                value = function(*args, **kwargs)
            except Exception as error:
                first: Outcome = Raised(error)
            else:
                if policy.retry is None:
                    return value
                first = Returned(value)
            try:
                return InPlace(policy, began).go_on(first, function, *args, **kwargs)
            finally:
                del first  # its error knows this frame, and would live on with it

        return retried

    return decorate
