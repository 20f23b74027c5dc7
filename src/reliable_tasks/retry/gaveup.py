"""What a ``give_up`` hook is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ("GaveUp", "GiveUp")


@dataclass(frozen=True, slots=True)
class GaveUp:
    """
    A job that failed for good, as `retry_task` tells its ``give_up`` hook.

    Attributes:
        task_name: The task.
        task_id: The job.
        attempts: How many there were.
        elapsed: Seconds since the first attempt began.
        reason: ``"attempts"``: all are used; ``"stop"``: `stop` ended it; ``"refused"``: the
            server said not to try again; ``"unpublished"``: the broker did not take the next.
        error: With which the job fails.
        args: The job's positional arguments, as its message had them.
        kwargs: Its keyword arguments.
    """

    task_name: str
    task_id: str
    attempts: int
    elapsed: float
    reason: str
    error: BaseException
    args: Any = field(repr=False)
    kwargs: Any = field(repr=False)


GiveUp = Callable[[GaveUp], Any]
