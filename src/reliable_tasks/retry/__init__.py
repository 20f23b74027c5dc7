"""Retry and backoff: tenacity's vocabulary, Celery's queue."""

from __future__ import annotations

from reliable_tasks.retry.budget import CircuitBreaker, RetryBudget
from reliable_tasks.retry.gaveup import GaveUp
from reliable_tasks.retry.inline import retry_inline
from reliable_tasks.retry.task import retry_task

__all__ = ("CircuitBreaker", "GaveUp", "RetryBudget", "retry_inline", "retry_task")
