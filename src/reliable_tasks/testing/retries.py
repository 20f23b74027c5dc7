"""Retries without their waits, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from reliable_tasks.errors import ConfigurationError
from reliable_tasks.retry.switch import Switch, turned

__all__ = ("retries",)


@contextmanager
def retries(*, waits: bool = False, attempts: int | None = None) -> Iterator[None]:
    """
    Turn waits off, and set attempts, of every `retry_task` and `retry_inline` of this process.

    For one block, with ``with retries():``; for one test, as its decorator; for the whole run, in
    a fixture with ``scope="session"`` and ``autouse=True``. Workers in other processes are not
    touched. Without waits neither budgets nor breakers are asked.

    Args:
        waits: Whether attempts wait for each other, as they do elsewhere.
        attempts: How many every policy allows, the first included; None: its own number.

    Raises:
        ConfigurationError: *attempts* is no whole number from 1.
    """
    if attempts is not None and (type(attempts) is not int or attempts < 1):
        raise ConfigurationError(f"attempts: expected a whole number from 1, got {attempts!r}")
    with turned(Switch(waits=waits, attempts=attempts)):
        yield
