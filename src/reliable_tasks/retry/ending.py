"""When no further attempt follows: the hook, the dead letter."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import sleep
from typing import Any

from reliable_tasks.core.keys import shelf_name
from reliable_tasks.core.store import Store
from reliable_tasks.deadletter import letter_of
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.events import DEAD_LETTERED, report
from reliable_tasks.publish import headers_of
from reliable_tasks.retry.attempts import NAME, Reason
from reliable_tasks.retry.gaveup import GaveUp, GiveUp

__all__ = ("bury", "call_hook")

logger = logging.getLogger("reliable_tasks")

PAUSES_BEFORE_LOSS = (0.5, 1.0, 2.0)  # seconds between tries to reach the store


def call_hook(hook: GiveUp, given_up: GaveUp) -> None:
    """Call a ``give_up`` hook; what it raises is logged and hides nothing."""
    try:
        hook(given_up)
    except Exception:
        logger.exception(
            "Task %s[%s]: its give_up hook failed", given_up.task_name, given_up.task_id
        )


def bury(task: Any, request: Any, reason: Reason, records: Callable[[], tuple[Store, str]]) -> None:
    """
    Keep the whole message among the dead letters, as if it had never been tried.

    Without a store the job fails all the same: that it is not kept is logged.

    Args:
        task: The job's task.
        request: Its context.
        reason: Why it is given up.
        records: Gives the store, and the first part of the names there.
    """
    try:
        headers = headers_of(request)
        headers.pop(NAME, None)
        letter = letter_of(
            task, request, request.args, request.kwargs, str(reason), headers=headers
        )
        store, prefix = records()
        _bury(store, shelf_name(prefix), request.id, letter)
    except Exception as error:
        logger.error("Task %s[%s] is not among the dead letters: %s", task.name, request.id, error)
        return
    report(DEAD_LETTERED, task, request.id, {"reason": str(reason)})


def _bury(store: Store, shelf: str, job: str, letter: bytes) -> None:
    for pause in PAUSES_BEFORE_LOSS:
        try:
            return store.bury(shelf, job, letter)
        except StoreUnavailable:
            sleep(pause)
    return store.bury(shelf, job, letter)
