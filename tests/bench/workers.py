"""How many tasks that do nothing a real worker ends in a second: guarded, and plain late acks."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from celery.utils import uuid

from reliable_tasks.core.header import NAME, Header
from reliable_tasks.testing import Server, WorkerProcess, connected_app, eventually

__all__ = ("CONCURRENCY", "rate", "throughput")

QUEUES = ("plain", "guarded")
CONCURRENCY = {"solo": 1, "prefork": 2}


def throughput(server: Server, pool: str, *, rounds: int, messages: int) -> float:
    """Return the rate of guarded tasks as a part of the plain ones', the median of all rounds."""
    database = server.new_database()
    ratios: list[float] = []
    worker = WorkerProcess(
        "tests.bench.app",
        pool=pool,
        concurrency=CONCURRENCY[pool],
        queues=["idle"],
        arguments=["--without-gossip", "--without-heartbeat"],
        env=database.celery_env,
    )
    with worker, connected_app(database.url) as app, database.client() as client:
        for queue in QUEUES:  # connects, and loads the scripts
            rate(app, client, worker.name, queue, messages // 5)
        for turn in range(rounds):
            order = QUEUES if turn % 2 else QUEUES[::-1]  # whatever drifts meets both alike
            rates = {queue: rate(app, client, worker.name, queue, messages) for queue in order}
            ratios.append(rates["guarded"] / rates["plain"])
    return median(ratios)


def rate(app: Any, client: Any, worker: str, queue: str, messages: int) -> float:
    """Fill *queue*, let the worker empty it, and return how fast it did."""
    _publish(app, queue, messages)
    app.control.add_consumer(queue, destination=[worker])
    eventually(lambda: client.llen(queue) < messages, interval=0.001)  # the way to the worker
    started = time.perf_counter()
    eventually(lambda: _is_empty(client, queue), timeout=120, interval=0.02)
    rate = messages / (time.perf_counter() - started)
    app.control.cancel_consumer(queue, destination=[worker], reply=True, timeout=10, limit=1)
    return rate


def _publish(app: Any, queue: str, messages: int) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(messages):
            task_id = uuid()
            headers = {NAME: Header(task_id).encode()} if queue == "guarded" else {}
            app.send_task(
                f"tests.bench.app.{queue}",
                queue=queue,
                task_id=task_id,
                headers=headers,
                producer=producer,
            )


def _is_empty(client: Any, queue: str) -> bool:
    return not client.llen(queue) and not client.hlen("unacked")
