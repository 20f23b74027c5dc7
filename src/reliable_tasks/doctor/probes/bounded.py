"""A question that may never be answered, asked with an end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Generic, TypeVar, cast

__all__ = ("NoAnswer", "ask", "ask_all")

T = TypeVar("T")


class NoAnswer(Exception):
    """The question was given up; its thread goes on until the process ends."""


class _Asked(threading.Thread, Generic[T]):
    """One question in a thread that keeps no process alive."""

    def __init__(self, question: Callable[[], T]) -> None:
        super().__init__(name="reliable-tasks-doctor", daemon=True)
        self._question = question
        self.answer: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Keep what was answered, or raised."""
        try:
            self.answer = self._question()
        except BaseException as error:  # told to whoever asked
            self.error = error

    def answered(self, seconds: float) -> T | BaseException:
        """Return the answer, or what there is instead after so many seconds."""
        if self.is_alive():
            return NoAnswer(f"no answer in {seconds:g} s")
        return self.error if self.error is not None else cast("T", self.answer)


def ask(question: Callable[[], T], *, seconds: float) -> T:
    """
    Return what *question* answers.

    Raises:
        NoAnswer: Nothing, in so many seconds.
        Exception: What *question* raises.
    """
    [answer] = ask_all([question], seconds=seconds)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def ask_all(questions: Sequence[Callable[[], T]], *, seconds: float) -> list[T | BaseException]:
    """Ask all at once; in place of an answer that did not come stands the error."""
    threads: list[_Asked[T]] = [_Asked(question) for question in questions]
    for thread in threads:
        thread.start()
    end = monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - monotonic()))
    return [thread.answered(seconds) for thread in threads]
