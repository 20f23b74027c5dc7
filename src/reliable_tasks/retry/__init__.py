"""Retry and backoff: tenacity's vocabulary, Celery's queue."""
