"""What tests turn off: waiting, and the number of attempts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reliable_tasks.retry.policy import RetryPolicy

__all__ = ("Switch", "current", "turned")


@dataclass(frozen=True, slots=True)
class Switch:
    """
    How the decorators of this process behave.

    Args:
        waits: Whether an attempt waits before it is followed by the next.
        attempts: How many attempts every policy allows; None: its own number.
    """

    waits: bool = True
    attempts: int | None = None

    def applied_to(self, policy: RetryPolicy) -> RetryPolicy:
        """Return *policy* with the number of attempts that holds."""
        return policy if self.attempts is None else replace(policy, attempts=self.attempts)


_current = Switch()


def current() -> Switch:
    """Return the switch as it is; the threads of a process share it."""
    return _current


@contextmanager
def turned(switch: Switch) -> Iterator[None]:
    """Turn the switch for a block."""
    global _current
    before, _current = _current, switch
    try:
        yield
    finally:
        _current = before
