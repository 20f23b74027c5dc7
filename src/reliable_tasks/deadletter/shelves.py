"""The dead letters of an app, wherever its tasks keep them: found, shown, thrown away."""

from __future__ import annotations

import getpass
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import time
from typing import Any

from reliable_tasks.burial import Shelf
from reliable_tasks.core.store import Store
from reliable_tasks.deadletter.letters import Letter, UnreadableLetter
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.storage import place_of, shelf_of

__all__ = ("Found", "Kept", "Wanted", "find", "operator", "places_of", "purge")

logger = logging.getLogger("reliable_tasks")


@dataclass(frozen=True, slots=True)
class Kept:
    """A letter, and where it is."""

    letter: Letter
    store: Store = field(repr=False)
    shelf: Shelf = field(repr=False)

    def is_there(self) -> bool:
        """
        Whether this very letter is still kept.

        Raises:
            StoreUnavailable: The store did not answer.
        """
        data = self.store.letter(self.shelf.name, self.letter.id)
        return data is not None and Letter.parse(data).at_ms == self.letter.at_ms

    def take_off(self) -> bool:
        """
        Take the letter off its shelf, unless a later one took its place; whether it was there.

        Raises:
            StoreUnavailable: It may be there or not.
        """
        return self.store.unbury(self.shelf.name, self.letter.id, at_ms=self.letter.at_ms)


@dataclass(frozen=True, slots=True)
class Found:
    """
    Letters, the oldest first.

    Attributes:
        kept: Those that can be read.
        unreadable: Job and reason of the others.
    """

    kept: list[Kept]
    unreadable: list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """
    Which letters are meant; None: any.

    Attributes:
        jobs: Task ids.
        task: A task's name.
        reason: A letter's kind, or a part of its reason.
        older_than: Seconds.
    """

    jobs: tuple[str, ...] = ()
    task: str | None = None
    reason: str | None = None
    older_than: float | None = None

    def fits(self, letter: Letter, now: float) -> bool:
        """Whether *letter* is meant, at the time *now* in seconds since 1970."""
        return (
            (not self.jobs or letter.id in self.jobs)
            and self.task in (None, letter.task)
            and (self.reason is None or self.reason in f"{letter.kind}: {letter.reason}")
            and (self.older_than is None or now - letter.at >= self.older_than)
        )


def places_of(app: Any) -> list[tuple[Store, Shelf]]:
    """
    Return the shelves that the tasks of an app use, each once, that of the app first.

    Raises:
        ConfigurationError: Neither the app nor one of its tasks has a store.
    """
    app.loader.import_default_modules()
    app.finalize()
    shelf = shelf_of(app.conf)
    places: dict[tuple[str, str], tuple[Store, Shelf]] = {}
    try:
        store = place_of(app.conf).open()
        places[store.identity, shelf.name] = store, shelf
    except ConfigurationError:
        if not any(hasattr(task, "guard_options") for task in app.tasks.values()):
            raise
    for task in app.tasks.values():
        if hasattr(task, "guard_options"):  # a guarded one may have a store of its own
            places.setdefault((task.records.identity, task.shelf.name), (task.records, task.shelf))
    return list(places.values())


def find(app: Any, wanted: Wanted | None = None) -> Found:
    """
    Return the dead letters of an app, the oldest first.

    Args:
        app: The Celery app.
        wanted: Which; all if left out.

    Raises:
        ConfigurationError: There is no store.
        StoreUnavailable: A store did not answer.
    """
    wanted, now = wanted or Wanted(), time()
    kept, unreadable = [], []
    for store, shelf in places_of(app):
        for job, data in _letters(store, shelf, wanted):
            try:
                letter = Letter.parse(data)
            except UnreadableLetter as error:
                unreadable.append((job, str(error)))
                continue
            if wanted.fits(letter, now):
                kept.append(Kept(letter, store, shelf))
    return Found(sorted(kept, key=lambda each: (each.letter.at, each.letter.id)), unreadable)


def _letters(store: Store, shelf: Shelf, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    if not wanted.jobs:
        yield from store.letters(shelf.name)
        return
    for job in wanted.jobs:
        data = store.letter(shelf.name, job)
        if data is not None:
            yield job, data


def purge(kept: Kept) -> bool:
    """
    Throw a letter away, and log who did so; returns whether it was there.

    Raises:
        StoreUnavailable: It may be there or not.
    """
    was_there = kept.take_off()
    if was_there:
        letter = kept.letter
        logger.warning("Task %s[%s]: its dead letter was thrown away by %s",
                       letter.task, letter.id, operator())  # fmt: skip
    return was_there


def operator() -> str:
    """Return who does something here, for the log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
