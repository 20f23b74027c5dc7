"""What a request remembers while it is executed under a guard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reliable_tasks.leases import Lease

__all__ = ("SLOT", "Execution")

SLOT = "_reliable_tasks"
"""Where a request remembers that it is being executed under a guard."""


@dataclass(slots=True)
class Execution:
    """What a running body has been granted, and the `celery.exceptions.Retry` it published."""

    lease: Lease
    delivery: Any = None
    retry: Any = None
