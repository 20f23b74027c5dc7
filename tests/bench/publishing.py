"""What publishing costs: `publish_many` against a loop of `apply_async`, unique against plain."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import count
from random import getrandbits
from statistics import median
from time import perf_counter
from typing import Any

from celery import Celery, Task

from reliable_tasks import IdempotentTask, UniqueTask, publish_many
from reliable_tasks.testing import Database, close_app
from tests.bench.report import Figure

__all__ = ("publishing",)

ROUNDS, JOBS = 11, 1_000
BASES = {"plain": Task, "guarded": IdempotentTask, "unique": UniqueTask}


def publishing(database: Database, where: str) -> Iterator[Figure]:
    """Yield how much faster a batch is, and what a unique call leaves of a plain one's rate."""
    app = Celery("bench", broker=database.url, set_as_current=False)
    tasks = {name: _declare(app, name, base) for name, base in BASES.items()}
    with database.client() as client:
        rounds = [_round(tasks, client) for _ in range(ROUNDS + 1)][1:]  # the first one connects
    close_app(app)
    for name in BASES:
        ratio = median(loops[name] / batches[name] for loops, batches in rounds)
        what = f"publish_many of 1,000: a loop of apply_async, {name}"
        yield Figure(what, where, ratio, at_least=5)
    for name in BASES:
        loop = median(loops[name] for loops, _ in rounds) / JOBS
        batch = median(batches[name] for _, batches in rounds) / JOBS
        yield Figure(f"apply_async itself, {name}", where, loop * 1e6, "µs")
        yield Figure(f"publish_many itself, {name}", where, batch * 1e6, "µs")
    rate = median(loops["plain"] / loops["unique"] for loops, _ in rounds)
    yield Figure("throughput of apply_async, unique: plain", where, rate, at_least=0.65, aim=0.75)


def _declare(app: Celery, name: str, base: type[Any]) -> Any:
    @app.task(name=f"bench.{name}", base=base, shared=False)
    def task(order: int) -> None:
        """Do nothing."""

    return task


def _round(tasks: dict[str, Any], client: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds that a thousand jobs of each task take, one by one and together."""
    numbers = count(getrandbits(48))  # arguments that no earlier call had
    loops: dict[str, float] = {}
    batches: dict[str, float] = {}
    for name, task in tasks.items():
        loops[name] = _seconds(_one_by_one, task, [(next(numbers),) for _ in range(JOBS)])
        batches[name] = _seconds(_together, task, [(next(numbers),) for _ in range(JOBS)])
        assert client.llen("celery") == 2 * JOBS
        client.delete("celery")
    return loops, batches


def _one_by_one(task: Any, calls: list[tuple[int]]) -> None:
    for each in calls:
        task.apply_async(each)


def _together(task: Any, calls: list[tuple[int]]) -> None:
    publish_many(task.s(*each) for each in calls)


def _seconds(
    publish: Callable[[Any, list[tuple[int]]], None], task: Any, calls: list[tuple[int]]
) -> float:
    gc.collect()
    gc.disable()
    try:
        started = perf_counter()
        publish(task, calls)
        return perf_counter() - started
    finally:
        gc.enable()
