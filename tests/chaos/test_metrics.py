"""Metrics while the processes that count are killed."""

from __future__ import annotations

import random
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reliable_tasks.contrib.prometheus.endpoint import DIRECTORY
from reliable_tasks.testing import Server, WorkerProcess, close_app, eventually
from reliable_tasks.testing.daemons import free_port
from tests.integration.apps import watched
from tests.integration.apps.watched import PORT_VARIABLE, charge

pytestmark = [pytest.mark.chaos, pytest.mark.integration, pytest.mark.timeout(300)]

JOBS, KILLS = 300, 20


@pytest.fixture
def measured(valkey: Server, tmp_path: Path) -> Iterator[tuple[int, WorkerProcess]]:
    """A worker with four children, and the port where it is scraped."""
    database, port = valkey.new_database(), free_port()
    env = {**database.celery_env, PORT_VARIABLE: str(port), DIRECTORY: str(tmp_path)}
    watched.app.conf.update(broker_url=database.url, result_backend=database.url)
    with WorkerProcess("tests.integration.apps.watched", concurrency=4, env=env) as worker:
        yield port, worker
        print(worker.log[-20_000:])
    close_app(watched.app)


def scrape(port: int) -> dict[str, float]:
    """Sum up the samples of one scrape by name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def test_counts_only_rise_and_leases_of_the_dead_end(
    measured: tuple[int, WorkerProcess],
) -> None:
    """
    However many children are killed, counts never fall, and no dead child holds a lease for long.

    Each job is counted as done at least once less the kills: a child can die after the store has
    its outcome and before it has counted.
    """
    port, worker = measured
    fate = random.Random(7)
    jobs = [charge.delay(f"order {number}", 0.05) for number in range(JOBS)]
    seen = [scrape(port)]
    for _ in range(KILLS):
        time.sleep(fate.uniform(0.1, 0.4))
        eventually(lambda: len(worker.children()) > 1)
        worker.kill_child(fate.choice(worker.children()))
        seen.append(scrape(port))

    for job in jobs:
        job.get(timeout=120)

    eventually(lambda: scrape(port)["reliable_tasks_running_leases"] == 0, timeout=30)
    seen.append(scrape(port))
    for name in ("reliable_tasks_claims_total", "reliable_tasks_outcomes_total"):
        counts = [each.get(name, 0.0) for each in seen]
        assert counts == sorted(counts)
    assert JOBS - KILLS <= seen[-1]["reliable_tasks_outcomes_total"] <= JOBS
    assert max(each.get("reliable_tasks_running_leases", 0.0) for each in seen) <= 4
