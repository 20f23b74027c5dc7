"""Wait for a condition instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ("eventually",)

T = TypeVar("T")


def eventually(
    condition: Callable[[], T],
    *,
    timeout: float = 30.0,
    interval: float = 0.05,
    message: str | Callable[[], str] = "",
) -> T:
    """
    Call *condition* until what it returns is true, and return that.

    An `AssertionError` that *condition* raises counts as "not yet", so several
    assertions can stand in one function; any other error is passed on at once.

    Args:
        condition: Called at least once, and a last time when the time is over.
        timeout: Seconds to wait at most.
        interval: Seconds between two calls.
        message: What was waited for; a callable is asked only in case of failure.

    Returns:
        The first true answer.

    Raises:
        AssertionError: *condition* was not true in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        is_last = time.monotonic() >= deadline
        try:
            if answer := condition():
                return answer
            reason = f"last answer: {answer!r}"
        except AssertionError as error:
            reason = str(error) or "its assertion failed"
        if is_last:
            wanted = message() if callable(message) else message
            raise AssertionError(
                f"not within {timeout:g} s: {wanted or getattr(condition, '__name__', condition)}"
                f" ({reason})"
            )
        time.sleep(interval)
