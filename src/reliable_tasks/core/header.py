"""
The one header that the library adds to a message.

On the wire it is a list: ``[format, task id, key digest, payload digest, hop, store id]``.
It is made once, at publish, and trusted only for the task id that it names: users forward
``self.request.headers`` to other tasks, and another message's key must not come along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

__all__ = ("FORMAT", "MAX_HOP", "MAX_STORE_ID_LENGTH", "NAME", "Header")

NAME: Final = "reliable_tasks"
FORMAT: Final = 1
MAX_HOP: Final = 2**53 - 1  # what Lua and JSON parsers elsewhere count exactly
MAX_STORE_ID_LENGTH: Final = 256  # characters

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
            that replaced another, whose own retries begin at 0, the other's `records.line_of` too.
        store_id: Where the producer expects the record; None: unknown.
        format: Version of the layout.
    """

    task_id: str
    key_digest: str | None = None
    payload_digest: str | None = None
    hop: int = 0
    store_id: str | None = None
    format: int = FORMAT

    def encode(self) -> list[int | str | None]:
        """Give the list that goes into the message."""
        return [
            self.format,
            self.task_id,
            self.key_digest,
            self.payload_digest,
            self.hop,
            self.store_id,
        ]

    def next_hop(self) -> Header:
        """Give the header of a successor of this message."""
        return Header(
            self.task_id, self.key_digest, self.payload_digest, self.hop + 1, self.store_id
        )

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
        return cls(named, key, payload, hop, store)


def _is_digest(value: object) -> bool:
    return value is None or (
        isinstance(value, str)
        and len(value) == _DIGEST_LENGTH
        and not value.strip(_DIGEST_ALPHABET)
    )


def _is_store_id(value: object) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= MAX_STORE_ID_LENGTH)
