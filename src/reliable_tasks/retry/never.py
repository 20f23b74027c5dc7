"""Errors that are no failures of what was called, so that calling it again mends nothing."""

from __future__ import annotations

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from reliable_tasks.errors import LeaseLost

__all__ = ("NEVER",)

NEVER: tuple[type[Exception], ...] = (Ignore, Reject, Retry, SoftTimeLimitExceeded, LeaseLost)
"""Celery's own way out of a task, the end of its time, and the word that another has taken over."""
