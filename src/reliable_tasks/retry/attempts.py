"""
What is known of a job's attempts, and what is decided of the next one (pure).

The state travels with the message, in a header of its own; on the wire it is a list:
``[format, task id, attempt, first at, waited, due at, [[kind, after], ...]]``. It names errors by
their class only: their text may hold arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

__all__ = (
    "FORMAT",
    "MAX_PAST",
    "NAME",
    "Attempts",
    "Outcome",
    "Past",
    "Raised",
    "Reason",
    "RetryIn",
    "Returned",
    "Stop",
)

NAME: Final = "reliable_tasks_retry"
FORMAT: Final = 1
MAX_PAST: Final = 16
"""Attempts that a message names; the oldest are forgotten first."""

MAX_NUMBER: Final = 2**53 - 1  # what JSON parsers elsewhere count exactly
MAX_KIND_LENGTH: Final = 128  # characters

_FIELDS = 6


@dataclass(frozen=True, slots=True)
class Raised:
    """An attempt ended with an error."""

    error: BaseException

    @property
    def kind(self) -> str:
        """The error's class, with its module unless it is a builtin."""
        cls = type(self.error)
        name = (
            cls.__qualname__
            if cls.__module__ == "builtins"
            else f"{cls.__module__}.{cls.__qualname__}"
        )
        return name[-MAX_KIND_LENGTH:]


@dataclass(frozen=True, slots=True)
class Returned:
    """An attempt ended with a value."""

    value: Any

    @property
    def kind(self) -> None:
        """None: no error."""
        return None


Outcome = Raised | Returned


class Reason(StrEnum):
    """Why there is no further attempt."""

    UNRETRYABLE = "unretryable"
    """Neither `on` nor `retry` names the outcome; a value of this kind is the result."""
    REFUSED = "refused"
    """The server said not to try again."""
    ATTEMPTS = "attempts"
    """All attempts are used."""
    STOP = "stop"
    """The `stop` object ends it: by default, the next wait would end after an hour in total."""
    UNPUBLISHED = "unpublished"
    """The broker did not take the next attempt, and has the job no longer or never will."""


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Another attempt, after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stop:
    """No further attempt."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Past:
    """
    An attempt that is over and was tried again.

    Args:
        kind: The class of its error; None: it returned a value that was to be tried again.
        after: When it ended, in seconds since the first attempt began.
    """

    kind: str | None
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """
    How often a job was tried, and since when.

    Args:
        attempt: The attempt that is on or comes next, from 1.
        first_at: When the first attempt began, in seconds since 1970.
        waited: Sum of the waits before this attempt, in seconds.
        due_at: When this attempt may begin, in seconds since 1970; 0: at once.
        past: The last `MAX_PAST` attempts before this one.
    """

    attempt: int
    first_at: float
    waited: float = 0.0
    due_at: float = 0.0
    past: tuple[Past, ...] = ()

    @classmethod
    def begin(cls, now: float) -> Attempts:
        """Return the state of a job whose first attempt begins *now*, in seconds since 1970."""
        return cls(attempt=1, first_at=now)

    def elapsed(self, now: float) -> float:
        """
        Return the seconds since the first attempt began.

        Never less than what was waited in between: the clock of this worker may be behind
        that of the first.
        """
        return max(self.waited, now - self.first_at)

    def following(self, outcome: Outcome, now: float, wait: float) -> Attempts:
        """
        Return the state of the next attempt.

        Args:
            outcome: How this attempt ended.
            now: When it ended, in seconds since 1970.
            wait: Seconds until the next, as they were decided.
        """
        past = (*self.past, Past(outcome.kind, self.elapsed(now)))
        return replace(
            self,
            attempt=self.attempt + 1,
            waited=self.waited + wait,
            due_at=now + wait,
            past=past[-MAX_PAST:],
        )

    def account(self, decorator: str, outcome: Outcome, now: float, reason: Reason) -> list[str]:
        """
        Describe all attempts and why there is no other, a line each, for an error's notes.

        Args:
            decorator: Whose attempts they are; each line begins with it.
            outcome: How the last attempt ended.
            now: When it ended, in seconds since 1970.
            reason: From `Stop`.
        """
        ended = (*self.past, Past(outcome.kind, self.elapsed(now)))
        first = self.attempt - len(self.past)
        lines = [
            f"attempt {number} ended after {each.after:.1f} s: {each.kind or 'an unwanted result'}"
            for number, each in enumerate(ended, first)
        ]
        lines.append(f"not tried again: {_EXPLAINED[reason]}")
        return [f"{decorator}: {line}" for line in lines]

    def encode(self, task_id: str) -> list[Any]:
        """Give the list that goes into the message with the id *task_id*."""
        return [
            FORMAT,
            task_id,
            self.attempt,
            self.first_at,
            self.waited,
            self.due_at,
            [[each.kind, each.after] for each in self.past],
        ]

    @classmethod
    def parse(cls, value: Any, task_id: str) -> Attempts | None:
        """
        Read the state from a message; never raises on what a stranger sends.

        Fields that a newer release adds at the end are ignored.

        Args:
            value: What stands under `NAME` in the message's headers, or None.
            task_id: The message's own id: users forward headers to other tasks.

        Returns:
            None if it is absent, malformed, of a format that this release does not know, or of
            another message: this is the first attempt.
        """
        if not isinstance(value, list | tuple) or len(value) < _FIELDS:
            return None
        number, named, attempt, first_at, waited, due_at = value[:_FIELDS]
        if type(number) is not int or number != FORMAT or named != task_id:
            return None
        if type(attempt) is not int or not 1 <= attempt <= MAX_NUMBER:
            return None
        if not all(map(_is_time, (first_at, waited, due_at))):
            return None
        return cls(
            attempt=attempt,
            first_at=float(first_at),
            waited=float(waited),
            due_at=float(due_at),
            past=_past(value[_FIELDS:])[-(attempt - 1) :] if attempt > 1 else (),
        )


_EXPLAINED = {
    Reason.UNRETRYABLE: "neither `on` nor `retry` names this",
    Reason.REFUSED: "the server said not to",
    Reason.ATTEMPTS: "that was the last attempt",
    Reason.STOP: "`stop` ends it, with the wait that would come next",
    Reason.UNPUBLISHED: "the next attempt could not be published",
}


def _past(further: Any) -> tuple[Past, ...]:
    """Return the attempts that the first of the *further* fields names, or none."""
    named = further[0] if further else ()
    if not isinstance(named, list | tuple) or len(named) > MAX_PAST:
        return ()
    return tuple(Past(*each) for each in named) if all(map(_is_past, named)) else ()


def _is_past(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    kind, after = value
    is_kind = kind is None or (isinstance(kind, str) and len(kind) <= MAX_KIND_LENGTH)
    return is_kind and _is_time(after)


def _is_time(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= MAX_NUMBER
