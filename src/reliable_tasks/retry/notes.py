"""What an error says of the attempts that it ended."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

__all__ = ("write_notes",)


def write_notes(error: BaseException, decorator: str, notes: Sequence[str]) -> None:
    """
    Note something on an error, unless it takes no notes.

    Args:
        error: The last attempt's.
        decorator: Whose notes they are. Those that it has written before go: an error that is
            made once and raised by many jobs tells of the last of them.
        notes: A line each.
    """
    with suppress(Exception):  # a frozen one, for example; it must not be hidden by another
        before = getattr(error, "__notes__", [])
        before[:] = [note for note in before if not str(note).startswith(f"{decorator}: ")]
        for note in notes:
            error.add_note(note)
