"""The shelf on which a project's dead letters are kept, and what is noted for them beforehand."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reliable_tasks.core.keys import notes_key, shelf_name
from reliable_tasks.core.store import Store
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.processes import numbering, who

if TYPE_CHECKING:
    from reliable_tasks.core.records import Death

__all__ = ("DEFAULT_AGE", "DEFAULT_LIMIT", "Shelf", "log_dropped")

logger = logging.getLogger("reliable_tasks")

DEFAULT_LIMIT = 10_000  # letters
DEFAULT_AGE = 30 * 86_400.0  # seconds
MAX_NOTES = 32
KEEP_NOTES_MS = 7 * 86_400_000  # from the last: retries may be far apart
MAX_TEXT = 8_192  # characters of a traceback or a message


@dataclass(frozen=True, slots=True)
class Shelf:
    """
    The dead letters of one project, bounded in number and age.

    Args:
        prefix: First part of the names in the store.
        most: How many letters there may be.
        oldest_ms: How old a letter may be when another comes.
    """

    prefix: str
    most: int = DEFAULT_LIMIT
    oldest_ms: int = round(DEFAULT_AGE * 1_000)

    @property
    def name(self) -> str:
        """Its name in the store."""
        return shelf_name(self.prefix)

    def bury(
        self, store: Store, job: str, letter: bytes, *, at_ms: int, dropped: Callable[[str], None]
    ) -> None:
        """
        Keep a letter; what is too old or too much then is told, and only then dropped.

        Args:
            store: Where.
            job: The task id.
            letter: From `deadletter.letters`.
            at_ms: When it was written, in milliseconds since 1970.
            dropped: Called with each other job whose letter goes.

        Raises:
            StoreUnavailable: The letter may be kept or not.
        """
        surplus = store.bury(
            self.name, job, letter, at_ms=at_ms, most=self.most, oldest_ms=self.oldest_ms
        )
        try:
            for other, each_ms in surplus:
                dropped(other)
                store.unbury(self.name, other, at_ms=each_ms)
        except StoreUnavailable as error:  # the next letter names them again
            logger.warning("dead letters beyond the bounds stay for now: %s", error)

    def note_death(self, store: Store, job: str, death: Death) -> None:
        """Note an execution of which nothing was heard any more."""
        self._note(store, job, lambda: self._description(store, death))

    def note_error(
        self, store: Store, job: str, attempt: int, error: BaseException, delivery: str = ""
    ) -> None:
        """Note an attempt that ended with an error, or whose process ended with it."""
        self._note(store, job, lambda: _failure(attempt, error, delivery))

    def forget_notes(self, store: Store, job: str) -> None:
        """Let what was noted of a job go, which needs no letter any more."""
        store.jot(notes_key(self.prefix, job), b"", most=1, keep_ms=1)

    def past(self, store: Store, job: str, death: Death | None = None) -> list[dict[str, Any]]:
        """
        Return what is known of a job's attempts, the oldest first, and *death* the last.

        Raises:
            StoreUnavailable: The store did not answer.
        """
        lines = store.jottings(notes_key(self.prefix, job))
        known = [json.loads(line) for line in dict.fromkeys(lines) if line]
        if death is None or any(each.get("delivery") == death.delivery for each in known):
            return known
        return [*known, self._description(store, death)]

    def _description(self, store: Store, death: Death) -> dict[str, Any]:
        known = who(store, self.prefix, death.delivery)
        began = {"began": death.token / 1_000_000} if death.token else {}
        return {"outcome": "died", "delivery": death.delivery, **began, **_place(known)}

    def _note(self, store: Store, job: str, describe: Callable[[], Mapping[str, Any]]) -> None:
        try:
            line = json.dumps(describe()).encode()
            store.jot(notes_key(self.prefix, job), line, most=MAX_NOTES, keep_ms=KEEP_NOTES_MS)
        except Exception as error:  # it only informs
            logger.warning("what happened to job %s is not noted: %s", job, error)


def log_dropped(job: str) -> None:
    """Say in the log that the letter of a job gives way, where no task can say it."""
    logger.warning("the dead letter of job %s is dropped: there are too many, or it is old", job)


def _failure(attempt: int, error: BaseException, delivery: str) -> dict[str, Any]:
    text = "".join(traceback.format_exception(error))
    return {
        "outcome": "failed" if isinstance(error, Exception) else "died",
        "at": round(time.time(), 3),
        "attempt": attempt,
        **({"delivery": delivery} if delivery else {}),
        "error": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": _shown(error),
        "traceback": text[-MAX_TEXT:],
        **_place(json.loads(numbering.introduction())),
    }


def _shown(error: BaseException) -> str:
    try:
        return str(error)[:MAX_TEXT]
    except Exception:  # an error whose own text fails
        return ""


def _place(known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: known[name] for name in ("worker", "pid", "host") if known.get(name)}
