"""What users test with: real servers and workers, faults on demand, and effects counted apart."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reliable_tasks.testing.apps import close_app, connected_app
from reliable_tasks.testing.beats import BeatFailed, BeatProcess
from reliable_tasks.testing.clock import ManualClock
from reliable_tasks.testing.daemons import ServerFailed, ServerNotFound
from reliable_tasks.testing.eventually import eventually
from reliable_tasks.testing.groups import Cluster, Sentinels
from reliable_tasks.testing.ledger import Entry, Ledger
from reliable_tasks.testing.postgres import PostgresDatabase, PostgresServer, postgres_server
from reliable_tasks.testing.rabbitmq import (
    QueueState,
    RabbitMQServer,
    VirtualHost,
    rabbitmq_server,
)
from reliable_tasks.testing.retries import retries
from reliable_tasks.testing.servers import (
    Database,
    Server,
    redis_binary,
    redis_server,
    silent_server,
    valkey_binary,
    valkey_server,
)
from reliable_tasks.testing.workers import WorkerFailed, WorkerProcess

if TYPE_CHECKING:
    from reliable_tasks.testing.contract import LimiterContract, StoreContract
    from reliable_tasks.testing.machine import StoreMachine

__all__ = (
    "BeatFailed",
    "BeatProcess",
    "Cluster",
    "Database",
    "Entry",
    "Ledger",
    "LimiterContract",
    "ManualClock",
    "PostgresDatabase",
    "PostgresServer",
    "QueueState",
    "RabbitMQServer",
    "Sentinels",
    "Server",
    "ServerFailed",
    "ServerNotFound",
    "StoreContract",
    "StoreMachine",
    "VirtualHost",
    "WorkerFailed",
    "WorkerProcess",
    "close_app",
    "connected_app",
    "eventually",
    "postgres_server",
    "rabbitmq_server",
    "redis_binary",
    "redis_server",
    "retries",
    "silent_server",
    "valkey_binary",
    "valkey_server",
)

_NEED_TEST_TOOLS = {
    "LimiterContract": "contract",
    "StoreContract": "contract",
    "StoreMachine": "machine",
}


def __getattr__(name: str) -> Any:
    """Import what needs pytest or Hypothesis when it is asked for."""
    if name not in _NEED_TEST_TOOLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest  # noqa: PLC0415

    place = f"{__name__}.{_NEED_TEST_TOOLS[name]}"
    pytest.register_assert_rewrite(place)
    return getattr(import_module(place), name)
