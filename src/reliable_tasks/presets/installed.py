"""Which settings the installed Celery and Kombu know."""

from __future__ import annotations

import celery
import kombu
from celery.app.defaults import SETTING_KEYS

__all__ = ("is_known", "releases")

OURS = "reliable_tasks_"
BROKER_OPTIONS = "broker_transport_options"


def releases() -> str:
    """Name the releases that are installed."""
    return f"Celery {celery.__version__} with Kombu {kombu.__version__}"


def is_known(name: str) -> bool:
    """Whether a setting, or an option of the Redis transport, means something here."""
    setting, _, option = name.partition(".")
    if setting.startswith(OURS):
        return True
    if setting == BROKER_OPTIONS:
        return option in _redis_options()
    return setting in SETTING_KEYS


def _redis_options() -> frozenset[str]:
    from kombu.transport.redis import Channel, SentinelChannel  # noqa: PLC0415 - imports redis

    sentinel = getattr(SentinelChannel, "from_transport_options", ())
    return frozenset({*Channel.from_transport_options, *sentinel})
