"""Retry and backoff: tenacity's vocabulary, Celery's queue."""

from __future__ import annotations

from reliable_tasks.retry.inline import retry_inline

__all__ = ("retry_inline",)
