"""Copies of what other threads change meanwhile (pure)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

__all__ = ("snapshot",)

T = TypeVar("T")


def snapshot(changing: Collection[T]) -> list[T]:
    """Return what is in *changing*, as it was at one moment of the call."""
    while True:
        try:
            return list(changing)
        except RuntimeError:  # something came or went between two others
            continue
