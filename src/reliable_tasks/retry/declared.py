"""Which tasks `retry_task` decorates, and what else they may not declare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from celery import Task

from reliable_tasks.core.settings import name_of
from reliable_tasks.errors import ConfigurationError

__all__ = ("MARK", "check_declaration", "mark", "plans_of")

MARK = "_reliable_tasks_retry"
"""Where a decorated function, and whatever wraps it, names its plan; and a request its task."""

_BY_CELERY = {
    "max_retries": "attempts=, which counts the first run too (and max_retries=None, if a base "
    "class or the app's annotations set it)",
    "autoretry_for": "on= (and autoretry_for=(), if a base class or the app's annotations set it)",
}


class _Annotations(dict[str, Any]):
    """
    A function's annotations, which Celery makes those of the task's class.

    So the class can be told to look at itself as soon as it has all its options: a task of
    Celery's own base class has no other place where a declaration could be refused.
    """

    def __set_name__(self, owner: Any, name: str) -> None:
        if not issubclass(owner, Task):
            return

        def on_bound(cls: Any, app: Any) -> None:
            inherited: Any = super(owner, cls)
            inherited.on_bound(app)
            check_declaration(cls)

        owner.on_bound = classmethod(on_bound)


def mark(function: Callable[..., Any], plan: Any) -> None:
    """Let it be known that *function* is decorated, to whoever has it and to its task's class."""
    setattr(function, MARK, plan)
    function.__annotations__ = _Annotations(function.__annotations__)


def plans_of(cls: type) -> Iterator[Any]:
    """Yield the plans of a task's body, and of those bodies of its bases that it may call."""
    for each in cls.__mro__:
        run = vars(each).get("run")
        plan = getattr(run.__func__ if isinstance(run, staticmethod) else run, MARK, None)
        if plan is not None:
            yield plan


def check_declaration(cls: type) -> None:
    """
    Refuse Celery's own retries on a task whose body `retry_task` decorates.

    Args:
        cls: The task's class, with the app's annotations once it is bound.

    Raises:
        ConfigurationError: ``max_retries`` or ``autoretry_for`` is set.
    """
    if not any(plans_of(cls)):
        return
    for option, instead in _BY_CELERY.items():
        value = _set_value(cls, option)
        if value not in (None, (), []):
            raise ConfigurationError(
                f"{option}: expected none beside @retry_task on {name_of(cls)}, got {value!r}. "
                f"Two counts of the same attempts would contradict each other. Use {instead}."
            )


def _set_value(cls: type, option: str) -> Any:
    """Return what a task's own classes or the app's annotations set, else None."""
    for each in cls.__mro__:
        if each is Task:
            return None
        if option in vars(each):
            return vars(each)[option]
    return None
