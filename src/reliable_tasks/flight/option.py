"""The setting that turns the recorder on (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from reliable_tasks.core.durations import to_ms
from reliable_tasks.errors import ConfigurationError

__all__ = ("SETTING", "keep_ms_of")

SETTING = "reliable_tasks_flight_recorder"
DEFAULT_KEEP_MS = 86_400_000
LEAST = 60.0  # seconds


def keep_ms_of(conf: Mapping[str, Any]) -> int | None:
    """
    Return for how long a job's lines are kept after the last of them; None: nothing is recorded.

    Args:
        conf: The app's settings.

    Raises:
        ConfigurationError: The value means nothing.
    """
    value = conf.get(SETTING)
    if value is None or value is False:
        return None
    if value is True:
        return DEFAULT_KEEP_MS
    if not isinstance(value, int | float | timedelta):
        raise ConfigurationError(
            f"{SETTING}: expected True, False, or seconds (a number or a timedelta) to keep a "
            f"job's lines, got {value!r}"
        )
    return to_ms(SETTING, value, least=LEAST)
