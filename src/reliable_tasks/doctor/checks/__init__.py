"""All checks, in the order of the report (pure)."""

from __future__ import annotations

from reliable_tasks.doctor.checks import (
    broker,
    leases,
    queues,
    releases,
    results,
    servers,
    tasks,
    timing,
    workers,
)

__all__ = ("CHECKS",)

CHECKS = (
    *broker.CHECKS,
    *queues.CHECKS,
    *workers.CHECKS,
    *tasks.CHECKS,
    *timing.CHECKS,
    *leases.CHECKS,
    *results.CHECKS,
    *servers.CHECKS,
    *releases.CHECKS,
)
