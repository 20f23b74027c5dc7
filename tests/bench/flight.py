"""What the flight recorder costs a worker whose tasks do nothing, and Redis for each job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from reliable_tasks.core.keys import flight_key
from reliable_tasks.testing import Server, WorkerProcess, connected_app, eventually
from tests.bench import workers
from tests.bench.app import RECORDED
from tests.bench.report import Figure

__all__ = ("flight",)

ROUNDS = 5
MESSAGES = 1_000
LINES = 3  # received, claimed, settled: what publishes them here records nothing


def flight(server: Server, where: str) -> Iterator[Figure]:
    """Yield the CPU time of recorded jobs, as a multiple of that of others, and a job's bytes."""
    database = server.new_database()
    plain = _worker(database.celery_env)
    recorded = _worker({**database.celery_env, RECORDED: "1"})
    ratios: list[float] = []
    with plain, recorded, connected_app(database.url) as app, database.client() as client:
        for turn in range(ROUNDS + 1):
            spent = {}
            for node in (plain, recorded) if turn % 2 else (recorded, plain):
                before = _cpu_seconds(node)
                workers.rate(app, client, node.name, "guarded", MESSAGES)
                spent[node] = _cpu_seconds(node) - before
            if turn:  # the first round connects, and loads the scripts
                ratios.append(spent[recorded] / spent[plain])
        lists = list(client.scan_iter(match=flight_key("", "*"), count=1_000))
        eventually(lambda: all(client.llen(name) == LINES for name in lists))
        sizes = [int(client.memory_usage(name) or 0) for name in lists]
    yield Figure("CPU of a worker, recorded: not recorded", where, median(ratios), at_most=1.2)
    yield Figure(f"the {LINES} lines of a job", where, median(sizes), "bytes", at_most=500)


def _worker(env: dict[str, str]) -> WorkerProcess:
    return WorkerProcess(
        "tests.bench.app",
        concurrency=workers.CONCURRENCY["prefork"],
        queues=["idle"],
        arguments=["--without-gossip", "--without-heartbeat"],
        env=env,
    )


def _cpu_seconds(worker: WorkerProcess) -> float:
    """Return what a worker's processes have used of the CPU so far; Linux only."""
    ticks = 0
    for pid in (worker.pid, *worker.children()):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
