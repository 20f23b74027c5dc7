"""Kombu's messages as they lie in Redis (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ("belongs_to", "eta_of", "headers_of", "is_due", "mark_of", "queue_in", "was_redelivered")

Message = Mapping[str, Any]


def mark_of(task_id: str) -> bytes:
    """Return bytes that stand in every message of the job, and in few others."""
    return json.dumps(task_id)[1:-1].encode()


def belongs_to(message: Message, task_id: str) -> bool:
    """Whether it is a message of the job, and not one that only names it."""
    named = headers_of(message).get("id") or _properties(message).get("correlation_id")
    return bool(named == task_id)


def headers_of(message: Message) -> Mapping[str, Any]:
    """Return its headers."""
    found = message.get("headers")
    return found if isinstance(found, Mapping) else {}


def was_redelivered(message: Message) -> bool:
    """Whether it went back to its queue once."""
    return bool(_delivery_info(message).get("redelivered"))


def queue_in(message: Message) -> str:
    """Return the routing key, which is the queue's name unless the app routes otherwise."""
    return str(_delivery_info(message).get("routing_key") or "")


def eta_of(message: Message) -> str | None:
    """Return when it may begin, as it stands in the message."""
    eta = headers_of(message).get("eta")
    return eta if isinstance(eta, str) else None


def is_due(eta: str | None, now: float) -> bool:
    """Whether a message with this *eta* may begin at *now*, seconds since 1970."""
    if eta is None:
        return True
    try:
        when = datetime.fromisoformat(eta)
    except ValueError:
        return True
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return aware.timestamp() <= now


def _delivery_info(message: Message) -> Mapping[str, Any]:
    found = _properties(message).get("delivery_info")
    return found if isinstance(found, Mapping) else {}


def _properties(message: Message) -> Mapping[str, Any]:
    found = message.get("properties")
    return found if isinstance(found, Mapping) else {}
