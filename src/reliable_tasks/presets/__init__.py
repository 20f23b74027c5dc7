"""Settings for Celery, derived from what a team needs, each with its reason."""

from __future__ import annotations

from reliable_tasks.presets.preset import Preset, explain
from reliable_tasks.presets.rabbitmq_broker import rabbitmq
from reliable_tasks.presets.redis_broker import redis

__all__ = ("Preset", "explain", "rabbitmq", "redis")
