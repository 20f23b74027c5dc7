"""Runs the deliveries of a task: loaded by the processes that execute jobs, not by producers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from celery.exceptions import Ignore, Reject

from reliable_tasks.core.store import Store
from reliable_tasks.delivery import Delivery
from reliable_tasks.events import is_heard, tell
from reliable_tasks.guard import Guard
from reliable_tasks.message import Drop, Requeue
from reliable_tasks.shield import SoftLimitShield
from reliable_tasks.storage import eager_store

__all__ = ("Runner",)


class Runner:
    """
    Runs every delivery of one task under a guard.

    Args:
        task: The task.
    """

    def __init__(self, task: Any) -> None:
        self._task = task

    def run(self, request: Any, args: Any, kwargs: Any) -> Any:
        """
        Run one delivery's body if it may run, else answer in its place.

        Args:
            request: The delivery's `celery.app.task.Context`.
            args: Positional arguments as they came.
            kwargs: Keyword arguments as they came.

        Raises:
            Ignore: The delivery is over or has a successor: acknowledge it.
            Reject: The broker is to deliver it again.
            Exception: What the body raised, or `Guard.execute` in its place.
        """
        shield = SoftLimitShield.of(self._task, request)
        with shield:
            delivery = Delivery(self._task, request, args, kwargs, shield)
            guard = self._eager_guard if request.is_eager else self._guard
            try:
                return guard.execute(delivery)
            except Drop:
                raise Ignore from None
            except Requeue as error:
                raise Reject(error, requeue=True) from error

    @cached_property
    def _guard(self) -> Guard:
        return self._guard_with(lambda: self._task.records)

    @cached_property
    def _eager_guard(self) -> Guard:
        return self._guard_with(eager_store)

    def _guard_with(self, store: Callable[[], Store]) -> Guard:
        task = self._task
        return Guard(store, task.guard_options, shelf=task.shelf, tell=tell, heard=is_heard)
