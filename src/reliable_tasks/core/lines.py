"""The order of a job's messages: first by retries, then by hop (pure)."""

from __future__ import annotations

__all__ = ("HOPS_PER_RETRY", "line_of", "retries_of")

HOPS_PER_RETRY = 1_000_000


def line_of(retries: int, hop: int) -> int:
    """Return one number for the place of a message among those of its job."""
    return retries * HOPS_PER_RETRY + min(hop, HOPS_PER_RETRY - 1)


def retries_of(line: int) -> int:
    """Return the number of retries of the message at *line*."""
    return line // HOPS_PER_RETRY
