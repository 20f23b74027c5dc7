"""What users test with: real servers and workers, faults on demand, and effects counted apart."""

from __future__ import annotations

from reliable_tasks.testing.apps import close_app, connected_app
from reliable_tasks.testing.clock import ManualClock
from reliable_tasks.testing.eventually import eventually
from reliable_tasks.testing.groups import Cluster, Sentinels
from reliable_tasks.testing.ledger import Entry, Ledger
from reliable_tasks.testing.servers import (
    Database,
    Server,
    ServerFailed,
    ServerNotFound,
    redis_binary,
    redis_server,
    silent_server,
    valkey_binary,
    valkey_server,
)
from reliable_tasks.testing.workers import WorkerFailed, WorkerProcess

__all__ = (
    "Cluster",
    "Database",
    "Entry",
    "Ledger",
    "ManualClock",
    "Sentinels",
    "Server",
    "ServerFailed",
    "ServerNotFound",
    "WorkerFailed",
    "WorkerProcess",
    "close_app",
    "connected_app",
    "eventually",
    "redis_binary",
    "redis_server",
    "silent_server",
    "valkey_binary",
    "valkey_server",
)
