"""Where the records of an app live, and how a long look into such a place stays bounded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from reliable_tasks.core.store import Store
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.storage import place_of, prefix_of
from reliable_tasks.task import IdempotentTask

__all__ = ("Ground", "TimeOver", "grounds_of", "within")

_END = object()


@dataclass(frozen=True, slots=True)
class Ground:
    """One store, the first part of the names there, and the app's tasks whose records it has."""

    store: Store
    prefix: str
    tasks: tuple[str, ...]


def grounds_of(app: Any) -> list[Ground]:
    """
    Return where records of *app* are: the place of the app itself, and those of single tasks.

    Raises:
        ConfigurationError: Neither the app nor a task of it has a Redis for records.
    """
    app.loader.import_default_modules()
    app.finalize(auto=True)
    prefix = prefix_of(app.conf)
    tasks: dict[Store, list[str]] = {}
    guarded = [task for task in app.tasks.values() if isinstance(task, IdempotentTask)]
    for task in guarded:
        tasks.setdefault(task.records, []).append(str(task.name))
    try:
        tasks.setdefault(place_of(app.conf).open(), [])
    except ConfigurationError:
        if not tasks:
            raise
    return [Ground(store, prefix, tuple(sorted(names))) for store, names in tasks.items()]


class TimeOver(Exception):
    """The time for a look is over, and there may be more."""


def within(keys: Iterator[str], seconds: float) -> Generator[str]:
    """
    Yield what *keys* yields, for a time.

    A store with many names and few records may not yield one for long, so it is asked by a
    thread, which ends with the next name that it finds.

    Raises:
        TimeOver: The time is over.
        Exception: What *keys* raises.
    """
    found: queue.Queue[Any] = queue.Queue(maxsize=1_000)
    over = threading.Event()

    def put(item: Any) -> None:
        while not over.is_set():
            with suppress(queue.Full):
                found.put(item, timeout=0.1)
                return

    def ask() -> None:
        try:
            for key in keys:
                if over.is_set():
                    return
                put(key)
            put(_END)
        except Exception as error:
            put(error)

    threading.Thread(target=ask, name="reliable-tasks-scan", daemon=True).start()
    try:
        yield from _taken(found, monotonic() + seconds)
    finally:
        over.set()


def _taken(found: queue.Queue[Any], until: float) -> Iterator[str]:
    while True:
        try:
            item = found.get(timeout=max(0.0, until - monotonic()))
        except queue.Empty:
            raise TimeOver from None
        if item is _END:
            return
        if isinstance(item, Exception):
            raise item
        yield item
