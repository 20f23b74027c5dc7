"""What is wrong with a Celery system: facts -> checks -> findings -> a report."""

from __future__ import annotations
