"""Which settings the installed Celery and Kombu know."""

from __future__ import annotations

import inspect

import celery
import kombu
from celery.app.defaults import SETTING_KEYS

__all__ = ("is_known", "releases")

OURS = "reliable_tasks_"
BROKER_OPTIONS = "broker_transport_options"


def releases() -> str:
    """Name the releases that are installed."""
    return f"Celery {celery.__version__} with Kombu {kombu.__version__}"


def is_known(name: str, *, broker: str) -> bool:
    """
    Whether a setting, or an option of the transport, means something here.

    Args:
        name: Celery's or ours; behind a dot the option.
        broker: Whose transport it is for, ``"Redis"`` or ``"RabbitMQ"``.
    """
    setting, _, option = name.partition(".")
    if setting.startswith(OURS):
        return True
    if setting == BROKER_OPTIONS:
        return option in (_redis_options() if broker == "Redis" else _amqp_options())
    return setting in SETTING_KEYS


def _redis_options() -> frozenset[str]:
    from kombu.transport.redis import Channel, SentinelChannel  # noqa: PLC0415 - imports redis

    return frozenset({*Channel.from_transport_options, *SentinelChannel.from_transport_options})


def _amqp_options() -> frozenset[str]:
    from amqp import Connection  # noqa: PLC0415 - Redis needs none of it

    return frozenset(inspect.signature(Connection).parameters)
