"""
The one header that the library adds to a message.

On the wire it is a list: ``[format, task id, key digest, payload digest, hop, store id]``. In a
successor that was published while the store was silent follows a list of abandoned deliveries, and
after that list, which may be empty, in the message of a unique task its turn.
It is made once, at publish, and trusted only for the task id that it names: users forward
``self.request.headers`` to other tasks, and another message's key must not come along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

__all__ = (
    "FORMAT",
    "MAX_ABANDONED",
    "MAX_HOP",
    "MAX_STORE_ID_LENGTH",
    "NAME",
    "Header",
    "Identity",
)

NAME: Final = "reliable_tasks"
FORMAT: Final = 1
MAX_HOP: Final = 2**53 - 1  # what Lua and JSON parsers elsewhere count exactly
MAX_STORE_ID_LENGTH: Final = 256  # characters
MAX_DELIVERY_LENGTH: Final = 64  # characters
MAX_ABANDONED: Final = 16  # those of some ten minutes without a store

_FIELDS = 6
_DIGEST_LENGTH = 22
_DIGEST_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass(frozen=True, slots=True)
class Header:
    """
    What a message says about its own identity.

    Args:
        task_id: The message that the header belongs to.
        key_digest: From `keys.key_of`; None: derive it, or the message is its own identity.
        payload_digest: From `keys.payload_digest`; None: nothing to compare.
        hop: How many successors of the message came before it with the same retries. In a message
            that replaced another, whose own retries begin at 0, the other's `lines.line_of` too.
        store_id: Where the producer expects the record; None: unknown.
        format: Version of the layout.
        abandoned: Deliveries of the message's forerunners that are over, though the store may not
            have heard of it.
        turn: Place among the calls of a unique task; see `Store.claim`. 0: none.
    """

    task_id: str
    key_digest: str | None = None
    payload_digest: str | None = None
    hop: int = 0
    store_id: str | None = None
    format: int = FORMAT
    abandoned: tuple[str, ...] = ()
    turn: int = 0

    def encode(self) -> list[int | str | list[str] | None]:
        """Give the list that goes into the message."""
        fields: list[int | str | list[str] | None] = [
            self.format,
            self.task_id,
            self.key_digest,
            self.payload_digest,
            self.hop,
            self.store_id,
        ]
        if self.turn:
            return [*fields, list(self.abandoned), self.turn]
        return [*fields, list(self.abandoned)] if self.abandoned else fields

    def next_hop(self, abandoned: Sequence[str] = ()) -> Header:
        """Give the header of a successor of this message, which names the last of *abandoned*."""
        return replace(self, hop=self.hop + 1, abandoned=tuple(abandoned[-MAX_ABANDONED:]))

    @classmethod
    def parse(cls, value: Any, task_id: str) -> Header | None:
        """
        Read a header from a message; never raises on what a stranger sends.

        Fields that a newer release adds at the end are ignored.

        Args:
            value: What stands under `NAME` in the message's headers, or None.
            task_id: The message's own id.

        Returns:
            None if the header is absent, malformed, of a format that this release does not
            know, or of another message: the key is to be derived anew.
        """
        if not isinstance(value, list | tuple) or len(value) < _FIELDS:
            return None
        number, named, key, payload, hop, store = value[:_FIELDS]
        if type(number) is not int or number != FORMAT:
            return None
        if not isinstance(named, str) or named != task_id:
            return None
        if type(hop) is not int or not 0 <= hop <= MAX_HOP:
            return None
        if not (_is_digest(key) and _is_digest(payload) and _is_store_id(store)):
            return None
        abandoned, turn = _abandoned(value[_FIELDS:]), _turn(value[_FIELDS + 1 :])
        return cls(named, key, payload, hop, store, abandoned=abandoned, turn=turn)


class Identity(NamedTuple):
    """Which record a delivery belongs to, and its header."""

    key: str
    header: Header


def _abandoned(further: Sequence[Any]) -> tuple[str, ...]:
    """Return the deliveries that the first of the *further* fields names, or none."""
    named = further[0] if further else ()
    is_list = isinstance(named, list | tuple) and len(named) <= MAX_ABANDONED
    return tuple(named) if is_list and all(map(_is_delivery, named)) else ()


def _turn(further: Sequence[Any]) -> int:
    """Return the first of the *further* fields, or 0 if it is no turn."""
    turn = further[0] if further else 0
    return turn if type(turn) is int and abs(turn) <= MAX_HOP else 0


def _is_delivery(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_DELIVERY_LENGTH


def _is_digest(value: object) -> bool:
    return value is None or (
        isinstance(value, str)
        and len(value) == _DIGEST_LENGTH
        and not value.strip(_DIGEST_ALPHABET)
    )


def _is_store_id(value: object) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= MAX_STORE_ID_LENGTH)
