"""What a worker does at the broker in its own way: it keeps what it holds, and acknowledges it."""

from __future__ import annotations

__all__ = ("ACKS_STEP", "HEARTBEAT_STEP")

ACKS_STEP = "reliable_tasks.broker.step:AcksStep"

HEARTBEAT_STEP = "reliable_tasks.broker.step:HeartbeatStep"
"""Of the consumer's blueprint; names, so that Celery's worker is imported only in workers."""
