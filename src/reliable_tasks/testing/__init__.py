"""What users test with: real servers and workers, faults on demand, and effects counted apart."""

from __future__ import annotations

from reliable_tasks.testing.eventually import eventually
from reliable_tasks.testing.ledger import Entry, Ledger
from reliable_tasks.testing.servers import (
    Cluster,
    Database,
    Sentinels,
    Server,
    ServerFailed,
    ServerNotFound,
    redis_server,
    silent_server,
    valkey_server,
)
from reliable_tasks.testing.workers import WorkerFailed, WorkerProcess

__all__ = (
    "Cluster",
    "Database",
    "Entry",
    "Ledger",
    "Sentinels",
    "Server",
    "ServerFailed",
    "ServerNotFound",
    "WorkerFailed",
    "WorkerProcess",
    "eventually",
    "redis_server",
    "silent_server",
    "valkey_server",
)
