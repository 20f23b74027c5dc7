"""Celery tasks that take effect once, however often their messages are delivered."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from reliable_tasks.pools import close_on_shutdown
from reliable_tasks.setup import setup
from reliable_tasks.signals import (
    lease_lost,
    task_dead_lettered,
    task_deduplicated,
    task_deferred,
    task_quarantined,
    task_replayed,
    task_retrying,
)
from reliable_tasks.task import IdempotentTask

if TYPE_CHECKING:
    from reliable_tasks.block import once
    from reliable_tasks.calls import Publication
    from reliable_tasks.many import publish_many
    from reliable_tasks.retry.budget import CircuitBreaker, RetryBudget
    from reliable_tasks.retry.gaveup import GaveUp
    from reliable_tasks.retry.inline import retry_inline
    from reliable_tasks.retry.task import retry_task
    from reliable_tasks.unique import UniqueResult, UniqueTask

__all__ = (
    "AlreadyDone",
    "AlreadyRunning",
    "CircuitBreaker",
    "ConfigurationError",
    "DuplicateJob",
    "GaveUp",
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
    "RetryBudget",
    "StoreUnavailable",
    "UniqueResult",
    "UniqueTask",
    "UnserializableArguments",
    "close_on_shutdown",
    "lease_lost",
    "once",
    "publish_many",
    "retry_inline",
    "retry_task",
    "setup",
    "task_dead_lettered",
    "task_deduplicated",
    "task_deferred",
    "task_quarantined",
    "task_replayed",
    "task_retrying",
)

_LATER = {
    "CircuitBreaker": "retry.budget",
    "GaveUp": "retry.gaveup",
    "Publication": "calls",
    "RetryBudget": "retry.budget",
    "UniqueResult": "unique",
    "UniqueTask": "unique",
    "once": "block",
    "publish_many": "many",
    "retry_inline": "retry.inline",
    "retry_task": "retry.task",
}
"""Names whose modules are loaded when they are first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
