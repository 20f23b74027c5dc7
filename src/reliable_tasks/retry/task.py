"""`retry_task`: attempts that follow each other through the queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from celery._state import get_current_task

from reliable_tasks.core.durations import Seconds
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.retry.attempts import Raised, Returned
from reliable_tasks.retry.budget import CircuitBreaker, RetryBudget
from reliable_tasks.retry.declared import MARK, check_declaration, mark, plans_of
from reliable_tasks.retry.ending import GiveUp
from reliable_tasks.retry.never import NEVER
from reliable_tasks.retry.turn import Turn

if TYPE_CHECKING:
    from tenacity.retry import RetryBaseT
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT

    from reliable_tasks.retry.policy import On, RetryPolicy

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
    from reliable_tasks.retry.policy import check_function, read_policy  # noqa: PLC0415

    policy = read_policy(
        on=on,
        attempts=attempts,
        wait=wait,
        stop=stop,
        retry=retry,
        max_wait=max_wait,
        never=NEVER,
    )
    _check_kind("budget", budget, RetryBudget)
    _check_kind("breaker", breaker, CircuitBreaker)
    if give_up is not None and not callable(give_up):
        raise ConfigurationError(f"give_up: expected a function, got {give_up!r}")
    if not isinstance(dead_letter, bool):
        raise ConfigurationError(f"dead_letter: expected True or False, got {dead_letter!r}")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        check_function("retry_task", function)
        if hasattr(function, MARK):
            raise ConfigurationError("retry_task: expected it once on a function, got it twice")
        plan = Plan(policy, budget, breaker, give_up, dead_letter)
        return _decorated(function, plan)

    return decorate


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What one decorated function was given; each has its own."""

    policy: RetryPolicy
    budget: RetryBudget | None
    breaker: CircuitBreaker | None
    give_up: GiveUp | None
    dead_letter: bool

    @property
    def needs_store(self) -> bool:
        """Whether a worker must have a store for it."""
        return self.dead_letter or self.budget is not None or self.breaker is not None


def _check_kind(option: str, value: Any, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(f"{option}: expected a {kind.__name__}, got {value!r}")


def _decorated(function: Callable[P, R], plan: Plan) -> Callable[P, R]:
    request_here = _finder(plan)
    judges_results = plan.policy.retry is not None

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        request = request_here()
        if request is None:
            return function(*args, **kwargs)
        turn = Turn(plan, request)
        turn.begin()
        while True:
            try:
                value = function(*args, **kwargs)
            except NEVER:
                raise
            except Exception as error:
                if not turn.goes_on(Raised(error)):
                    raise
            else:
                if not (judges_results and turn.goes_on(Returned(value))):
                    turn.succeed()
                    return value

    run.__dict__["__signature__"] = signature(function)  # Celery follows no `__wrapped__`
    mark(run, plan)
    return run


def _finder(plan: Plan) -> Callable[[], Any]:
    """Return what finds the request that the plan's function runs for, None in a plain call."""
    serves: dict[Any, bool] = {}

    def request_here() -> Any:
        task = get_current_task()
        if task is None:
            return None
        if task not in serves:
            serves[task] = _serves(plan, task)
        request = task.request_stack.top if serves[task] else None
        if request is None or request.called_directly or MARK in request.__dict__:
            return None
        request.__dict__[MARK] = task  # the body that calls itself is one attempt
        return request

    return request_here


def _serves(plan: Plan, task: Any) -> bool:
    """Whether *task* runs the function that *plan* belongs to, and not another that calls it."""
    cls = type(task)
    if not any(each is plan for each in plans_of(cls)):
        return False
    check_declaration(cls)
    return True
