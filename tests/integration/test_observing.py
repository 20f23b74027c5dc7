"""What a worker says to Prometheus, to `watch`, and to those who listen to Celery's events."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery.result import AsyncResult
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from reliable_tasks.contrib.prometheus.endpoint import DIRECTORY
from reliable_tasks.contrib.prometheus.metrics import PUBLISHED
from reliable_tasks.testing import Database, Server, WorkerProcess, close_app, eventually
from reliable_tasks.testing.daemons import free_port
from tests.integration.apps import watched
from tests.integration.apps.watched import PORT_VARIABLE, add, charge, die, fetch

APP = "tests.integration.apps.watched"
GRAFANA = Path(__file__).parents[2] / "docs" / "grafana"
SETTINGS = {"reliable_tasks_dead_letter_limit", "reliable_tasks_dead_letter_age"}
TIMEOUT = 30.0
ENDS = {"task-succeeded", "task-failed"}


@dataclass
class Site:
    """A worker that is measured."""

    database: Database
    worker: WorkerProcess
    port: int
    env: dict[str, str]

    def scrape(self) -> list[Sample]:
        """Ask the worker as Prometheus does."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return [each for family in text_string_to_metric_families(text) for each in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Sum up the samples *name* that have these *labels*."""
        return sum(
            each.value
            for each in self.scrape()
            if each.name == f"reliable_tasks_{name}" and labels.items() <= each.labels.items()
        )

    def celery(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Begin a command of Celery's."""
        return subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", APP, *words],
            env={**os.environ, **self.env, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )


@pytest.fixture(scope="module")
def site(valkey: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One worker with two children and events, for all tests of this file."""
    database, port = valkey.new_database(), free_port()
    env = {
        **database.celery_env,
        PORT_VARIABLE: str(port),
        DIRECTORY: str(tmp_path_factory.mktemp("metrics")),
    }
    watched.app.conf.update(broker_url=database.url, result_backend=database.url)
    with WorkerProcess(APP, env=env, arguments=["--task-events"]) as worker:
        yield Site(database, worker, port, env)
        print(worker.log[-20_000:])
    close_app(watched.app)


@pytest.mark.hooks
def test_jobs_are_counted_over_all_children(site: Site) -> None:
    """Claims by answer, outcomes by state: the sums over two children."""
    for number in range(10):
        charge.delay(f"counted {number}").get(timeout=TIMEOUT)

    task = charge.name

    assert site.value("claims_total", task=task, answer="granted") == 10
    assert site.value("outcomes_total", task=task, state="done") == 10
    assert site.value("guard_seconds_count", question="claim") >= 10
    assert site.value("guard_seconds_count", question="settle") >= 10
    assert 0 < site.value("guard_seconds_sum") < 10


def test_duplicates_are_counted(site: Site) -> None:
    """A duplicate waits, then gets the outcome; a third copy of the same job is dropped."""
    first = charge.delay("twice", seconds=1.0)
    eventually(lambda: site.value("running_leases", task=charge.name) == 1)

    charge.delay("twice").get(timeout=TIMEOUT)

    first.get(timeout=TIMEOUT)
    assert site.value("deferrals_total", task=charge.name, reason="turn") >= 1
    assert site.value("claims_total", task=charge.name, answer="busy") >= 1
    assert site.value("replays_total", task=charge.name, state="done") == 1
    charge.apply_async(("twice",), task_id=first.id)
    eventually(lambda: site.value("replays_total", task=charge.name) == 2)
    charge.apply_async(("twice",), task_id=first.id)
    eventually(lambda: site.value("duplicates_total", task=charge.name, reason="closed") == 1)
    eventually(lambda: site.value("running_leases") == 0)


def test_retries_and_dead_letters_are_counted(site: Site) -> None:
    """A retry is one that follows; a job that is given up is none, and its letter is counted."""
    assert fetch.delay(works_at=2).get(timeout=TIMEOUT) == 2
    fetch.delay(works_at=3).get(timeout=TIMEOUT, propagate=False)

    assert site.value("retries_total", task=fetch.name) == 2
    assert site.value("given_up_total", task=fetch.name, reason="attempts") == 1
    assert site.value("dead_letters_total", task=fetch.name, reason="attempts") == 1


def test_children_that_die_hold_no_lease(site: Site) -> None:
    """What a dead child has counted stays; what it held is over, and its job is quarantined."""
    before = site.value("claims_total", answer="granted")
    die.delay().get(timeout=TIMEOUT, propagate=False)

    assert site.value("claims_total", task=die.name, answer="granted") == 1
    assert site.value("quarantines_total", task=die.name) == 1
    assert site.value("claims_total", answer="granted") == before + 1
    assert site.value("running_leases", task=die.name) == 0


def test_servers_are_asked_when_prometheus_asks(site: Site) -> None:
    """Depths and letters are those of the moment of the scrape."""
    assert site.value("broker_up") == 1
    assert site.value("queue_depth", queue="celery") == 0
    assert site.value("dead_letters_kept") == 2  # of the job that was given up, and of the poison


def test_waits_are_measured_from_the_publication(site: Site) -> None:
    """What an instrumented process publishes has the time in it; an ETA is no wait."""
    before = site.value("queue_wait_seconds_count", task=add.name)
    add.apply_async((1, 2), headers={PUBLISHED: time.time() - 20}).get(timeout=TIMEOUT)
    later = {PUBLISHED: time.time() - 20}
    add.apply_async((1, 2), headers=later, countdown=0.2).get(timeout=TIMEOUT)
    add.delay(1, 2).get(timeout=TIMEOUT)

    assert site.value("queue_wait_seconds_count", task=add.name) == before + 2
    assert 20 < site.value("queue_wait_seconds_sum", task=add.name) < 35
    assert site.value("queue_wait_seconds_count", task=fetch.name) == 2  # retries: by the worker


def test_labels_are_bounded(site: Site) -> None:
    """No label has a key, an id or an argument."""
    labels = {
        value
        for each in site.scrape()
        if each.name.startswith("reliable_tasks_")
        for label, value in each.labels.items()
        if label != "le"
    }

    assert labels <= {
        *(task.name for task in (add, charge, die, fetch)),
        *("granted", "busy", "finished", "superseded", "early", "poisoned"),
        *("done", "failed", "retrying", "released", "turn", "attempts", "closed"),
        *("stop", "refused", "unpublished", "store_down", "claim", "settle", "celery"),
    }


def events_of(jobs: Callable[[], list[AsyncResult]]) -> list[list[tuple[str, set[str]]]]:
    """What Flower and the like hear of each job until it ends: kinds of events and their fields."""
    heard: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with watched.app.connection_for_read() as connection:
        receiver = watched.app.events.Receiver(
            connection, handlers={"*": lambda event: heard[event.get("uuid")].append(event)}
        )
        with receiver.consumer_context() as (own, _, _):
            with suppress(TimeoutError):
                own.drain_events(timeout=0.2)  # only now is it subscribed
            ids = [job.id for job in jobs()]
            until = time.monotonic() + TIMEOUT
            while not all(any(each["type"] in ENDS for each in heard[job]) for job in ids):
                assert time.monotonic() < until, heard
                own.drain_events(timeout=TIMEOUT)
    in_order = (sorted(heard[job], key=lambda event: event["timestamp"]) for job in ids)
    return [[(event["type"], set(event)) for event in events] for events in in_order]


@pytest.mark.hooks
def test_flower_hears_of_a_guarded_task_what_it_hears_of_any(site: Site) -> None:
    """The events of a guarded job are those of a plain one, field by field."""
    plain, guarded = events_of(lambda: [add.delay(1, 2), charge.delay("heard")])

    assert [kind for kind, _ in plain] == ["task-received", "task-started", "task-succeeded"]
    assert guarded == plain


def test_flower_hears_of_a_deferral_as_of_any_ignored_task(site: Site) -> None:
    """A duplicate that waits is received and started again, and ends once."""
    jobs = events_of(lambda: [charge.delay("shared", 0.7), charge.delay("shared")])

    once, again = sorted(([kind for kind, _ in events] for events in jobs), key=len)
    assert once == ["task-received", "task-started", "task-succeeded"]
    starts = len(again) // 2
    assert again == [*(["task-received", "task-started"] * starts), "task-succeeded"]
    assert starts >= 2


BY_RABBITMQ_ONLY = {"reliable_tasks_queue_consumers", "reliable_tasks_queue_unacked"}


@pytest.mark.parametrize("file", ["reliable-tasks.json", "alerts.yml"])
def test_what_grafana_shows_is_there(site: Site, file: str) -> None:
    """Each metric of the dashboard and of the alerts is in a real scrape."""
    text = (GRAFANA / file).read_text()
    named = set(re.findall(r"\breliable_tasks_\w+", text)) - SETTINGS
    scraped = {each.name for each in site.scrape()}

    assert len(named) > 8
    assert named <= scraped | BY_RABBITMQ_ONLY


@pytest.mark.hooks
def test_watch_shows_what_happens(site: Site) -> None:
    """One document, from a worker that nothing was switched on for."""
    for _ in range(2):
        charge.delay("watched").get(timeout=TIMEOUT)
    program = site.celery("reliable", "watch", "--json", "--interval", "0.5")

    document = json.loads(program.communicate(timeout=60)[0])

    [row] = document["workers"]
    assert (row["name"], row["slots"], row["running"]) == (site.worker.name, 2, 0)
    assert {row["name"]: row["total"] for row in document["tasks"]}[charge.name] >= 2
    assert {row["name"]: row["total"] for row in document["events"]}["replays"] >= 1
    assert [row["name"] for row in document["queues"]] == ["celery"]
    assert document["letters"] == site.value("dead_letters_kept")
    assert document["notes"] == []
    assert program.returncode == 0


def test_watch_ends_at_ctrl_c(site: Site) -> None:
    """Screens follow each other until Ctrl-C, and end without a word of their own."""
    live = site.celery("reliable", "watch", "--interval", "0.5")
    assert live.stdout is not None
    first = live.stdout.readline()

    live.send_signal(signal.SIGINT)

    _, trouble = live.communicate(timeout=30)
    assert first.startswith("1 worker, ")
    assert (live.returncode, trouble) == (0, "")
