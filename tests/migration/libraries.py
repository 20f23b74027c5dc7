"""The three libraries: what stands in a task's declaration, and what a duplicate gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from celery import Celery

from reliable_tasks import setup

__all__ = ("LIBRARIES", "Library")

EXPIRY = 5  # seconds: what a lock that nobody frees is given in the tests


@dataclass(frozen=True)
class Library:
    """
    One library, as a small app declares its tasks.

    Args:
        key: The distribution.
        name: The same, with the version that is compared.
        module: What to import.
        base: The task base class in it.
        error: What a duplicate raises, if told to.
        configure: Tell an app where locks are kept.
        lifetime: Seconds for which a task without options of its own keeps the place of a queued
            job that is gone; None: for ever.
        long: Options of a task whose lock outlives every test.
        short: Options of a task whose lock is over after `EXPIRY` seconds.
        bounds: What can end an identity that nobody frees, with its seconds in the tests.
        modes: Further options, by the words for them in the tables.
        again: Options of a task of which a call during a run causes one more run.
    """

    key: str
    name: str
    module: str
    base: str
    error: str
    configure: Callable[[Celery, str], None]
    lifetime: Callable[[Any], float | None]
    long: Mapping[str, Any]
    short: Mapping[str, Any]
    bounds: Mapping[str, float]
    modes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    again: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def base_class(self) -> Any:
        """The task base class."""
        return getattr(import_module(self.module), self.base)

    @property
    def error_class(self) -> type[Exception]:
        """What a duplicate raises, if told to."""
        error: type[Exception] = getattr(import_module(self.module), self.error)
        return error


OURS = {"lease_seconds": 2.0, "publish_grace": 4.0, "reserved_for": 7.0}


def _once(app: Celery, locks: str) -> None:
    app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": locks}}


def _singleton(app: Celery, locks: str) -> None:
    app.conf.singleton_backend_url = locks


def _ours(app: Celery, locks: str) -> None:
    setup(
        app,
        {
            "reliable_tasks_store_url": locks,
            "reliable_tasks_lease_seconds": OURS["lease_seconds"],
            "reliable_tasks_publish_grace": OURS["publish_grace"],
        },
    )


_ALL = (
    Library(
        "celery-once",
        "celery-once 3.0.1",
        "celery_once",
        "QueueOnce",
        "AlreadyQueued",
        _once,
        lambda task: task.default_timeout,
        long={"once": {"timeout": 600}},
        short={"once": {"timeout": EXPIRY}},
        bounds={"timeout": EXPIRY},
        modes={"": {}, "with `graceful`": {"once": {"timeout": 600, "graceful": True}}},
        again={"once": {"timeout": 600, "unlock_before_run": True}},
    ),
    Library(
        "celery-singleton",
        "celery-singleton 0.3.1",
        "celery_singleton",
        "Singleton",
        "DuplicateTaskError",
        _singleton,
        lambda task: task.singleton_config.lock_expiry,
        long={"lock_expiry": 600},
        short={"lock_expiry": EXPIRY},
        bounds={"lock_expiry": EXPIRY},
    ),
    Library(
        "reliable-tasks",
        "reliable-tasks",
        "reliable_tasks",
        "UniqueTask",
        "DuplicateJob",
        _ours,
        lambda task: task.uniqueness.reserved_for_ms / 1_000,
        long={},
        short={"reserved_for": OURS["reserved_for"]},
        bounds=OURS,
        again={"keep_last": True},
    ),
)
LIBRARIES = {library.key: library for library in _ALL}
