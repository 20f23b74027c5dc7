"""What the decorators add to an attempt that does not fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery import Celery
from celery._state import _task_stack
from celery.app.task import Context

from reliable_tasks import RetryBudget, retry_inline, retry_task
from tests.bench.report import Figure
from tests.bench.rounds import Thing, measure

__all__ = ("retry",)

ROUNDS, CALLS = 300, 100


def nothing(order: int) -> int:
    """Do nothing."""
    return order


def retry() -> Iterator[Figure]:
    """Yield the cost of each decorator in a worker: the function with it less the bare function."""
    app = Celery("bench", broker="memory://", set_as_current=False)
    plain = retry_task(on=ConnectionError)(nothing)
    counted = retry_task(on=ConnectionError, budget=RetryBudget("bench"))(nothing)
    bodies = {
        "bare": nothing,
        "retry_task": plain,
        "retry_task with a budget": counted,
        "retry_inline": retry_inline(on=ConnectionError)(nothing),
    }
    costs = measure(
        {name: _execution(app, name, body) for name, body in bodies.items()},
        rounds=ROUNDS,
        calls=CALLS,
    )
    bare = costs.pop("bare")
    bounds = {"retry_task": 3.0, "retry_inline": 3.0}
    for name, cost in costs.items():
        yield Figure(f"{name}, no failure", "", (cost - bare).wall, "µs", at_most=bounds.get(name))


def _execution(app: Celery, name: str, body: Any) -> Thing:
    """Return what runs *body* as Celery's tracer does: its task and a request are current."""
    task = app.task(name=name, lazy=False, shared=False)(body)

    def call(request: Context) -> None:
        _task_stack.push(task)
        task.request_stack.push(request)
        body(1)
        task.request_stack.pop()
        _task_stack.pop()

    def prepare() -> Context:
        return Context(id="job", headers={"tenant": "a"}, called_directly=False)

    return Thing(prepare, call)
