"""Celery tasks that take effect once, however often their messages are delivered."""

from __future__ import annotations
