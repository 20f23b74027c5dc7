"""Jobs that a pool has handed to its processes when the worker begins to end."""

from __future__ import annotations

from typing import Any

__all__ = ("keep_handed",)


def keep_handed(pool: Any) -> None:
    """
    Have a pool of processes wait for all that it has handed to them.

    Since Celery 5.6 it forgets, when the worker begins to end, each job that no process has said
    to have begun. One that was handed over runs nevertheless: its message is not acknowledged and
    is delivered again, and its process waits for 30 s that somebody takes the result. With these
    jobs taken for begun the pool waits for them.

    Args:
        pool: Celery's, of any kind; only prefork's hands over.
    """
    jobs = getattr(getattr(pool, "_pool", None), "_cache", {})
    for job in list(jobs.values()):
        if is_handed(job):
            job._accepted = True  # noqa: SLF001 - no public name says it


def is_handed(job: Any) -> bool:
    """Whether a process has got all of a job; one that got a part of it will never begin it."""
    writer = getattr(job, "_writer", None)  # a weak reference to a generator
    return writer is not None and (writer() is None or writer().gi_frame is None)
