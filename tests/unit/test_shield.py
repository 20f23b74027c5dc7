"""Soft time limits wait while the guard talks to the store."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from reliable_tasks.shield import SoftLimitShield


@pytest.fixture(autouse=True)
def soft_limit_handler() -> Iterator[None]:
    """Do what billiard's pool does in a child: SIGUSR1 raises SoftTimeLimitExceeded."""

    def handler(*_: object) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, handler)
    yield
    signal.signal(signal.SIGUSR1, before)


def limit() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_limit_is_held_until_the_body_runs() -> None:
    """A limit that comes during the claim is raised where the task can see it."""
    shield = SoftLimitShield(active=True)
    with shield:
        limit()
        with pytest.raises(SoftTimeLimitExceeded):
            shield.lower()
        shield.raise_again()


def test_a_limit_after_the_body_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """A limit that comes during the settle changes nothing, and says so."""
    before = signal.getsignal(signal.SIGUSR1)
    with SoftLimitShield(active=True):
        limit()

    assert "came after the task's outcome" in caplog.text
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_limit_that_another_thread_receives_is_held_too() -> None:
    """A process's signal goes to any thread, and is held back all the same."""
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    try:
        with SoftLimitShield(active=True):
            signal.pthread_kill(other.ident, signal.SIGUSR1)
            time.sleep(0.05)
    finally:
        over.set()
        other.join()


def test_a_limit_in_the_body_is_raised_there() -> None:
    """While the body runs nothing is held back."""
    shield = SoftLimitShield(active=True)
    with shield:
        shield.lower()
        with pytest.raises(SoftTimeLimitExceeded):
            limit()
        shield.raise_again()


def test_without_a_limit_nothing_is_touched() -> None:
    """A task without a soft time limit pays for no system call."""
    before = signal.getsignal(signal.SIGUSR1)
    shield = SoftLimitShield(active=False)
    with shield:
        assert signal.getsignal(signal.SIGUSR1) is before
        shield.lower()
        shield.raise_again()
