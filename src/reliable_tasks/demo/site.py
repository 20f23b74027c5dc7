"""One side of the demo, as its workers and its publisher must both know it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from reliable_tasks.demo.journal import Journal
from reliable_tasks.demo.plan import Plan, draw

__all__ = ("LEASE_SECONDS", "QUEUE", "VISIBILITY_TIMEOUT", "Side", "Site")

VARIABLE = "RELIABLE_TASKS_DEMO"
QUEUE = "payments"
LEASE_SECONDS = 2.0
VISIBILITY_TIMEOUT = 3  # seconds; an hour by default, and nobody watches a demo for an hour


class Side(StrEnum):
    """Which task does the work."""

    PLAIN = "plain"
    GUARDED = "guarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """
    Where one side works.

    Attributes:
        side: Which one.
        url: The server.
        prefix: First part of every key that Celery writes there.
        folder: Where journal and signs are.
        jobs: Payments.
        seed: Of the plan.
    """

    side: Side
    url: str
    prefix: str
    folder: str
    jobs: int
    seed: int

    @property
    def env(self) -> dict[str, str]:
        """Return what a worker's environment needs; a command line would show the password."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Site:
        """Return the site of this worker."""
        known = json.loads(environ[VARIABLE])
        return cls(**{**known, "side": Side(known["side"])})

    @property
    def plan(self) -> Plan:
        """What happens here."""
        return draw(self.jobs, self.seed)

    @property
    def journal(self) -> Journal:
        """A new reader and writer of this side's journal."""
        return Journal(Path(self.folder) / f"{self.side}.journal")

    def sign(self, name: str, payment: int) -> Path:
        """Return the file whose presence means *name* for *payment*."""
        return Path(self.folder) / f"{self.side}.{payment}.{name}"

    @property
    def settings(self) -> dict[str, Any]:
        """Return Celery's settings, the same for both sides."""
        return {
            "broker_url": self.url,
            "broker_transport_options": {
                "global_keyprefix": self.prefix,
                "visibility_timeout": VISIBILITY_TIMEOUT,
                "unacked_restore_interval": 0.5,
                "unacked_restore_throttle": 1,
                "unacked_mutex_expire": 1,
                "socket_timeout": 5.0,
                "socket_connect_timeout": 5.0,
            },
            "broker_connection_retry_on_startup": True,
            "task_default_queue": QUEUE,
            "task_ignore_result": True,
            "worker_prefetch_multiplier": 1,
            "worker_enable_remote_control": False,
        }
