"""Retry and backoff: tenacity's vocabulary, Celery's queue."""

from __future__ import annotations
