"""
What must answer at once, so nothing here imports more than the standard library.

A package beside `reliable_tasks`, whose import loads Celery. A liveness probe starts a process
every few seconds, often with a tenth of a core.
"""

from __future__ import annotations

import sys

__all__ = ("main",)


def main() -> int:
    """Run the command `reliable-tasks`; its exit status."""
    if sys.argv[1:2] == ["alive"]:
        from _reliable_tasks.probe import main as probe  # noqa: PLC0415 - each needs its own alone

        return probe(sys.argv[2:])
    from reliable_tasks.cli import main as others  # noqa: PLC0415

    return others()
