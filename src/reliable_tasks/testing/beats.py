"""Real `celery beat` processes for tests."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from reliable_tasks.testing.programs import CeleryProcess, ProgramFailed

__all__ = ("BeatFailed", "BeatProcess")


class BeatFailed(ProgramFailed):
    """A beat ended before it was ready; its log is in the message."""


class BeatProcess(CeleryProcess):
    """
    ``celery -A app beat`` in a process group of its own.

    A context manager that starts the beat, waits until it ticks, and in the end
    kills whatever is left of it. Its schedule file is its own, and is there
    again when it is started again.

    Args:
        app: What ``-A`` takes, for example ``shop.tasks`` or ``shop.tasks:app``.
        arguments: Further arguments for beat's command line.
        env: Added to this process's environment. Paths that only this process
            knows (`sys.path`) are handed on as ``PYTHONPATH``.
        cwd: Directory to start in.
        name: What errors call it; a random name if left out.
        log_level: Must be ``INFO`` or ``DEBUG`` for `wait_ready`.
    """

    kind = "beat"
    failure = BeatFailed

    def __init__(
        self,
        app: str,
        *,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str | None = None,
        log_level: str = "INFO",
    ) -> None:
        name = name or f"beat-{secrets.token_hex(4)}"
        super().__init__(app, name=name, env=env, cwd=cwd)
        self.schedule_file = self.directory / "schedule"
        self.arguments = [
            *("beat", "--schedule", str(self.schedule_file), "--loglevel", log_level),
            *arguments,
        ]

    @property
    def ready_line(self) -> str:
        """Its first tick follows."""
        return "beat: Starting..."
