"""When this process was forked; heard of from the import of the package on."""

from __future__ import annotations

import os
from time import time

__all__ = ("forked_at",)

_forked_at = 0.0


def forked_at() -> float:
    """Return when this process was forked, in seconds since 1970; 0 if that is not known."""
    return _forked_at


def _note() -> None:
    global _forked_at
    _forked_at = time()


os.register_at_fork(after_in_child=_note)
