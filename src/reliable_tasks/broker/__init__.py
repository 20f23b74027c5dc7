"""What a worker does at the broker besides taking messages: it keeps those that it holds."""

from __future__ import annotations

__all__ = ("HEARTBEAT_STEP",)

HEARTBEAT_STEP = "reliable_tasks.broker.step:HeartbeatStep"
"""Of the consumer's blueprint; a name, so that Celery's worker is imported only in workers."""
