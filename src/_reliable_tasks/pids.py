"""Which process ids are taken."""

from __future__ import annotations

import os

__all__ = ("is_taken",)


def is_taken(pid: int) -> bool:
    """Whether there is a process *pid* on this machine, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
