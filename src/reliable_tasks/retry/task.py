"""`retry_task`: attempts that follow each other through the queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from reliable_tasks.core.durations import Seconds
from reliable_tasks.errors import ConfigurationError

if TYPE_CHECKING:
    from tenacity.retry import RetryBaseT
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT

    from reliable_tasks.retry.budget import CircuitBreaker, RetryBudget
    from reliable_tasks.retry.gaveup import GiveUp
    from reliable_tasks.retry.policy import On

__all__ = ("retry_task",)

P = ParamSpec("P")
R = TypeVar("R")


def retry_task(
    *,
    on: On | None = None,
    attempts: int = 5,
    wait: WaitBaseT | None = None,
    stop: StopBaseT | None = None,
    retry: RetryBaseT | None = None,
    max_wait: Seconds = 3_600.0,
    budget: RetryBudget | None = None,
    breaker: CircuitBreaker | None = None,
    give_up: GiveUp | None = None,
    dead_letter: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """
    Run a task again, later, when it fails: put it below ``@app.task``, next to the function.

    Each further attempt is the same message, published again with a countdown: the worker's slot
    is free in the meantime. In eager mode and in `.apply()` they follow at once. A direct call of
    the task is one plain call.

    When there is no further attempt, the last error is raised as it is, with a note for each.

    Args:
        on: What is worth another attempt: classes of errors; a function that takes the error and
            returns True, False, or the seconds to wait; or a ``retry_*`` object of tenacity.
            Needed unless *retry* is given.
        attempts: Runs at most, the first included; 1: never again.
        wait: A ``wait_*`` object of tenacity, asked where neither *on* nor the server says how
            long (``Retry-After``). Default: full jitter from 1 s, at most 300 s.
        stop: A ``stop_*`` object of tenacity, beside *attempts*. Default: no wait begins that
            would end an hour or more after the first attempt did.
        retry: A ``retry_*`` object of tenacity, for results and for combinations.
        max_wait: Longest wait in seconds, whoever asked for it.
        budget: What the retries of all workers together may ask of a dependency; what exceeds it
            waits longer.
        breaker: Puts attempts off, without using them up, while a dependency is down.
        give_up: Called with a `GaveUp` when an error of this kind is not tried again.
        dead_letter: Whether the message is kept then.

    Returns:
        A decorator that keeps the function's signature. The task fails with `RetriesExhausted`
        where every result is one that *retry* wants to try again.

    Raises:
        ConfigurationError: An argument cannot work, or the function is a coroutine function, a
            generator, or a task already, when it is decorated; or the task has ``max_retries`` or
            ``autoretry_for``, when it is declared.
    """
    # Here, for tenacity costs 6 ms, and most programs that import the package retry nothing.
    from reliable_tasks.retry.never import NEVER  # noqa: PLC0415
    from reliable_tasks.retry.policy import is_asynchronous, read_policy  # noqa: PLC0415
    from reliable_tasks.retry.wrapper import Plan, decorated  # noqa: PLC0415

    policy = read_policy(
        on=on,
        attempts=attempts,
        wait=wait,
        stop=stop,
        retry=retry,
        max_wait=max_wait,
        never=NEVER,
    )
    if budget is not None or breaker is not None:
        _check_limits(budget, breaker)
    hook: Any = give_up
    if hook is not None and (not callable(hook) or is_asynchronous(hook)):
        raise ConfigurationError(f"give_up: expected a plain function, got {hook!r}")
    if not isinstance(dead_letter, bool):
        raise ConfigurationError(f"dead_letter: expected True or False, got {dead_letter!r}")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        return decorated(function, Plan(policy, budget, breaker, give_up, dead_letter))

    return decorate


def _check_limits(budget: Any, breaker: Any) -> None:
    # Here, for it costs 4 ms, and whoever has one of them has loaded it.
    from reliable_tasks.retry.budget import CircuitBreaker, RetryBudget  # noqa: PLC0415

    _check_kind("budget", budget, RetryBudget)
    _check_kind("breaker", breaker, CircuitBreaker)


def _check_kind(option: str, value: Any, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(f"{option}: expected a {kind.__name__}, got {value!r}")
