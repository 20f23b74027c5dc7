"""Jobs that a pool has handed to its processes when the worker begins to end."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from reliable_tasks.handing import keep_handed


def write() -> Iterator[None]:
    """Write a job to a process, as far as it takes it."""
    yield


@pytest.fixture
def writer() -> Iterator[None]:
    """A writer that has written nothing yet."""
    return write()


def kept(*jobs: Any) -> list[bool]:
    """Say of each job whether the pool waits for it."""
    keep_handed(SimpleNamespace(_pool=SimpleNamespace(_cache=dict(enumerate(jobs)))))
    return [job._accepted for job in jobs]


def test_a_job_that_was_written(writer: Iterator[None]) -> None:
    """What a process has got whole is waited for, whether its writer is still there or not."""
    list(writer)
    job = SimpleNamespace(_accepted=False, _writer=weakref.ref(writer))
    other = SimpleNamespace(_accepted=False, _writer=weakref.ref(write()))

    assert kept(job, other) == [True, True]


def test_a_job_that_was_not(writer: Iterator[None]) -> None:
    """What no process has got, or a part of it, goes back to the broker as Celery has it."""
    next(writer)
    half = SimpleNamespace(_accepted=False, _writer=weakref.ref(writer))
    none = SimpleNamespace(_accepted=False)

    assert kept(half, none) == [False, False]


def test_a_pool_that_hands_nothing_over() -> None:
    """Threads and greenlets share their jobs with the worker: there is nothing to do."""
    keep_handed(SimpleNamespace(_pool=object()))
    keep_handed(SimpleNamespace())
