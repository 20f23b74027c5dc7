"""When no further attempt follows: the hook, the dead letter."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import sleep, time
from typing import Any

from reliable_tasks.core.store import Store
from reliable_tasks.deadletter.letters import GAVE_UP, letter_of
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.events import DEAD_LETTERED, LETTER_DROPPED, report
from reliable_tasks.executions import SLOT, Execution
from reliable_tasks.processes import numbering
from reliable_tasks.publish import headers_of
from reliable_tasks.retry.attempts import NAME, Reason
from reliable_tasks.retry.gaveup import GaveUp, GiveUp
from reliable_tasks.storage import shelf_of

__all__ = ("bury", "call_hook", "forget", "note")

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


def note(
    task: Any, request: Any, attempt: int, error: BaseException, store: Callable[[], Store]
) -> None:
    """Note an attempt that failed, for the case that its job becomes a dead letter."""
    numbering.worker = numbering.worker or request.hostname or ""
    try:
        shelf_of(task.app.conf).note_error(store(), request.id, attempt, error)
    except Exception as trouble:
        logger.warning("Task %s[%s]: its error is not noted: %s", task.name, request.id, trouble)


def forget(task: Any, request: Any, store: Callable[[], Store]) -> None:
    """Let go what was noted of the attempts of a job that has succeeded."""
    try:
        shelf_of(task.app.conf).forget_notes(store(), request.id)
    except Exception as trouble:  # it goes by itself, later
        logger.debug("Task %s[%s]: its notes stay: %s", task.name, request.id, trouble)


def bury(task: Any, request: Any, reason: Reason, records: Callable[[], Store]) -> None:
    """
    Keep the whole message among the dead letters, as if it had never been tried.

    Without a store the job fails all the same: that it is not kept is logged.

    Args:
        task: The job's task.
        request: Its context.
        reason: Why it is given up.
        records: Gives the store.
    """
    try:
        _patiently(lambda: _bury(task, request, reason, records()))
    except Exception as error:
        logger.error("Task %s[%s] is not among the dead letters: %s", task.name, request.id, error)
        return
    report(DEAD_LETTERED, task, request.id, {"reason": str(reason)})


def _bury(task: Any, request: Any, reason: Reason, store: Store) -> None:
    execution: Execution | None = request.__dict__.get(SLOT)
    guarded = execution.delivery if execution is not None else None
    shelf, at_ms = shelf_of(task.app.conf), round(time() * 1_000)
    letter = letter_of(
        task,
        request,
        request.args,
        request.kwargs,
        kind=GAVE_UP,
        reason=str(reason),
        at_ms=at_ms,
        past=shelf.past(store, request.id),
        headers={name: each for name, each in headers_of(request).items() if name != NAME},
        standing=guarded.standing if guarded is not None else None,
    )

    def dropped(other: str) -> None:
        report(LETTER_DROPPED, task, request.id, {"dropped": other})

    shelf.bury(store, request.id, letter, at_ms=at_ms, dropped=dropped)


def _patiently(act: Callable[[], None]) -> None:
    for pause in PAUSES_BEFORE_LOSS:
        try:
            return act()
        except StoreUnavailable:
            sleep(pause)
    return act()
