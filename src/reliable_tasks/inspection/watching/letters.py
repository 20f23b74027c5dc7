"""How many dead letters there are."""

from __future__ import annotations

from typing import Any

from reliable_tasks.errors import ConfigurationError
from reliable_tasks.storage import place_of, shelf_of

__all__ = ("letters_kept",)


def letters_kept(app: Any) -> int | None:
    """
    Return how many letters are on the shelf of the app's own store; None for an app without one.

    Raises:
        StoreUnavailable: The store did not answer.
    """
    try:
        store = place_of(app.conf).open()
    except ConfigurationError:  # nobody needs one: a worker with guarded tasks would not have begun
        return None
    return store.letter_count(shelf_of(app.conf).name)
