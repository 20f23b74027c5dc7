"""Celery tasks that take effect once, however often their messages are delivered."""

from __future__ import annotations

from reliable_tasks.calls import Publication
from reliable_tasks.errors import (
    AlreadyDone,
    AlreadyRunning,
    ConfigurationError,
    DuplicateJob,
    IdempotencyKeyReused,
    InheritedConnection,
    LeaseLost,
    Quarantined,
    ReliableTasksError,
    ResultNotKept,
    RetriesExhausted,
    StoreUnavailable,
    UnserializableArguments,
)
from reliable_tasks.leases import Lease
from reliable_tasks.many import publish_many
from reliable_tasks.once import once
from reliable_tasks.pools import close_on_shutdown
from reliable_tasks.retry import retry_inline
from reliable_tasks.setup import setup
from reliable_tasks.signals import (
    lease_lost,
    task_deduplicated,
    task_deferred,
    task_quarantined,
    task_replayed,
)
from reliable_tasks.task import IdempotentTask
from reliable_tasks.unique import UniqueResult, UniqueTask

__all__ = (
    "AlreadyDone",
    "AlreadyRunning",
    "ConfigurationError",
    "DuplicateJob",
    "IdempotencyKeyReused",
    "IdempotentTask",
    "InheritedConnection",
    "Lease",
    "LeaseLost",
    "Publication",
    "Quarantined",
    "ReliableTasksError",
    "ResultNotKept",
    "RetriesExhausted",
    "StoreUnavailable",
    "UniqueResult",
    "UniqueTask",
    "UnserializableArguments",
    "close_on_shutdown",
    "lease_lost",
    "once",
    "publish_many",
    "retry_inline",
    "setup",
    "task_deduplicated",
    "task_deferred",
    "task_quarantined",
    "task_replayed",
)
