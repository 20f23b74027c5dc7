"""The function that `retry_task` makes of a task's body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from celery._state import get_current_task

from reliable_tasks.errors import ConfigurationError
from reliable_tasks.retry.attempts import Raised, Returned
from reliable_tasks.retry.declared import MARK, check_declaration, mark, plans_of
from reliable_tasks.retry.never import NEVER
from reliable_tasks.retry.policy import RetryPolicy, check_function
from reliable_tasks.retry.turn import Turn

if TYPE_CHECKING:
    from reliable_tasks.retry.budget import CircuitBreaker, RetryBudget
    from reliable_tasks.retry.gaveup import GiveUp

__all__ = ("Plan", "decorated")

P = ParamSpec("P")
R = TypeVar("R")


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


def decorated(function: Callable[P, R], plan: Plan) -> Callable[P, R]:
    """
    Return *function* as a body whose attempts follow each other.

    Raises:
        ConfigurationError: It cannot be tried again, or is decorated already.
    """
    check_function("retry_task", function)
    if hasattr(function, MARK):
        raise ConfigurationError("retry_task: expected it once on a function, got it twice")
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
