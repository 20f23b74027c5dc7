"""What is wrong with a Celery system: facts -> checks -> findings -> a report."""

from __future__ import annotations

from reliable_tasks.doctor.examining import examine
from reliable_tasks.doctor.findings import Finding
from reliable_tasks.doctor.report.model import Report

__all__ = ("Finding", "Report", "examine")
