"""Run the jobs on real workers, and note when the service was called."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from reliable_tasks.testing import Database, WorkerProcess, connected_app, eventually

__all__ = ("BATCH", "DOWN", "JOBS", "WAYS", "Storm", "in_slices", "storm")

WAYS = ("without_jitter", "autoretry", "full_jitter", "with_budget")
BATCH = 50  # jobs that are published together, at the beginning of each second
JOBS = 1_000
DOWN = (5.0, 15.0)  # seconds since the first batch
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Storm:
    """
    What the service saw, in seconds since the first batch.

    Attributes:
        calls: When it was called for the first attempts of jobs.
        retries: When it was called for later ones.
    """

    calls: list[float]
    retries: list[float]

    @property
    def while_down(self) -> int:
        """Retries that found it down."""
        return sum(moment < DOWN[1] for moment in self.retries)

    def highest(self, slice_s: float) -> int:
        """Return the most retries in any slice of so many seconds."""
        return max(in_slices(self.retries, slice_s).values())

    @property
    def over_after(self) -> float:
        """When the last job was done."""
        return max(self.retries)


def in_slices(moments: Iterable[float], slice_s: float) -> Counter[int]:
    """Return how many there are in each slice of so many seconds."""
    return Counter(int(moment / slice_s) for moment in moments)


def storm(database: Database, way: str, *, timeout: float = 120.0) -> Storm:
    """
    Publish the jobs batch by batch, let the service be down in between, and wait for all jobs.

    Args:
        database: Broker, budget and service; an empty one.
        way: How the jobs are retried; one of `WAYS`.
        timeout: Seconds within which all must be done after the last batch.
    """
    with ExitStack() as stack:
        client = stack.enter_context(database.client(decode_responses=True))
        app = stack.enter_context(connected_app(database.url))
        for _ in range(WORKERS):
            worker = WorkerProcess("tests.storm.app", env=database.celery_env)
            stack.enter_context(worker)
        began = int(time.time()) + 1  # seconds of the clock, as those of the budget
        client.mset({"down-from": began + DOWN[0], "down-until": began + DOWN[1]})
        _publish(app, way, began)
        eventually(lambda: client.scard(f"done:{way}") == JOBS, timeout=timeout, interval=0.1)
        return _seen(client.lrange(f"calls:{way}", 0, -1), began)


def _publish(app: Any, way: str, began: int) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(JOBS):
            if number % BATCH == 0:
                time.sleep(max(0.0, began + number // BATCH - time.time()))
            app.send_task(f"tests.storm.app.{way}", args=(number,), producer=producer)


def _seen(noted: list[str], began: int) -> Storm:
    moments: tuple[list[float], list[float]] = [], []
    for each in noted:
        moment, retries = each.split()
        moments[retries != "0"].append(float(moment) - began)
    return Storm(*moments)
