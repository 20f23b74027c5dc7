"""
The flight recorder: what happened to each job, a line for each event, in the store of records.

Off unless the app's setting ``reliable_tasks_flight_recorder`` turns it on. It never stands in the
way of a job: lines are written by a thread, and are dropped when the store cannot take them.
"""

from __future__ import annotations

from typing import Any

from reliable_tasks.flight.option import SETTING, keep_ms_of

__all__ = ("SETTING", "begin", "keep_ms_of")


def begin(app: Any) -> None:
    """
    Record what this process does for *app*, if its settings say so; once, however often called.

    Raises:
        ConfigurationError: The setting is none of those that mean something, or there is no store.
    """
    keep_ms = keep_ms_of(app.conf)
    if keep_ms is not None:
        from reliable_tasks.flight.listening import listen  # noqa: PLC0415 - off in most processes

        listen(app, keep_ms)
