"""The options of guarded and of unique tasks by name, each with its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ("GUARDED", "NAMES", "UNIQUE")

GUARDED: Mapping[str, Any] = {
    "idempotency_key": None,
    "same_payload": None,
    "lease_seconds": 30.0,
    "max_run": None,
    "retention": None,
    "redelivery_horizon": 21_600.0,
    "when_running": "defer",
    "when_done": "replay",
    "when_failed": "release",
    "max_crashes": 3,
    "max_result_bytes": 65_536,
    "when_store_down": "retry",
}

UNIQUE: Mapping[str, Any] = {
    "unique_for": 0.0,
    "on_duplicate": "return",
    "publish_grace": 30.0,
    "reserved_for": 3_600.0,
    "keep_last": False,
    "debounce": 0.0,
    "debounce_limit": 0.0,
    "throttle": 0.0,
    "periodic": False,
}

NAMES = (*GUARDED, *UNIQUE)
"""All options of a unique task, those of its guard included."""
