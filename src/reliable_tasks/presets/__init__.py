"""Settings for Celery, derived from what a team needs, each with its reason."""

from __future__ import annotations

from reliable_tasks.presets.preset import Preset
from reliable_tasks.presets.redis_broker import redis

__all__ = ("Preset", "redis")
