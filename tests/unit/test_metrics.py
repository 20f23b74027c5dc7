"""Metrics without a worker: what is refused, what is asked, what is measured."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.concurrency.thread import TaskPool as ThreadPool
from prometheus_client import CollectorRegistry, generate_latest, values

from reliable_tasks import IdempotentTask
from reliable_tasks.broker.view import QueueView
from reliable_tasks.contrib.prometheus import instrument
from reliable_tasks.contrib.prometheus.asking import Answers, AskingCollector, families
from reliable_tasks.contrib.prometheus.endpoint import (
    ATTRIBUTE,
    DIRECTORY,
    Endpoint,
    EndpointStep,
    dead_processes,
)
from reliable_tasks.contrib.prometheus.metrics import PUBLISHED, Metrics, seconds_waited, stamp
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.testing import close_app
from reliable_tasks.testing.daemons import free_port

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def metrics() -> Metrics:
    """Metrics that listen to nothing."""
    return Metrics(CollectorRegistry())


@pytest.fixture
def app(metrics: Metrics) -> Iterator[Celery]:
    """An app whose workers are scraped; its broker answers nobody."""
    app = Celery("measured", broker="redis://127.0.0.1:1/0", set_as_current=False)
    setattr(app, ATTRIBUTE, Endpoint(free_port(), "127.0.0.1", metrics))
    yield app
    close_app(app)


def parent_of(app: Celery, pool: type) -> Any:
    return SimpleNamespace(app=app, pool_cls=pool)


@pytest.mark.parametrize("port", [0, -1, 65_536, "9540", 1.5])
def test_impossible_port_is_refused(port: Any) -> None:
    """Expected this, got that, before anything is changed."""
    with pytest.raises(ConfigurationError, match="port: expected 1 to 65535 or None, got"):
        instrument(Celery("measured", set_as_current=False), port=port)


@pytest.mark.parametrize("value", [None, "/nowhere"], ids=["unset", "missing"])
def test_prefork_needs_the_directory(
    app: Celery, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose children nobody could ask does not start."""
    if value is None:
        monkeypatch.delenv(DIRECTORY, raising=False)
    else:
        monkeypatch.setenv(DIRECTORY, value)

    with pytest.raises(ConfigurationError, match=f"{DIRECTORY}: expected a directory"):
        EndpointStep(parent_of(app, PreforkPool))


def test_a_directory_that_came_too_late_is_refused(
    app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set after the import, the directory stays empty: the worker would show nothing, for ever."""
    monkeypatch.setenv(DIRECTORY, str(tmp_path))

    with pytest.raises(ConfigurationError, match="before prometheus_client is imported"):
        EndpointStep(parent_of(app, PreforkPool))


def test_an_unserved_worker_is_only_warned(
    app: Celery, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Who counts in a web process only can have workers that nobody asks."""
    monkeypatch.delenv(DIRECTORY, raising=False)
    setattr(app, ATTRIBUTE, Endpoint(None, "127.0.0.1", metrics))

    EndpointStep(parent_of(app, PreforkPool)).start(parent_of(app, PreforkPool))

    assert [each.levelname for each in caplog.records] == ["WARNING"]


def test_a_taken_port_is_refused(app: Celery) -> None:
    """A second worker of a machine learns at its start that it needs a port of its own."""
    parent = parent_of(app, ThreadPool)
    first, second = EndpointStep(parent), EndpointStep(parent)
    first.start(parent)

    with pytest.raises(ConfigurationError, match="port: expected one that is free at "):
        second.start(parent)

    first._close()
    second.start(parent)
    second._close()


def test_an_alert_sees_the_first_event(app: Celery, metrics: Metrics) -> None:
    """Series of what is rare begin at 0, before anything has happened."""

    @app.task(base=IdempotentTask, name="pay")
    def pay() -> None: ...

    app.finalize(auto=True)

    EndpointStep(parent_of(app, ThreadPool))

    text = generate_latest(metrics.registry).decode()
    assert 'reliable_tasks_quarantines_total{task="pay"} 0.0' in text
    assert 'reliable_tasks_deferrals_total{reason="store_down",task="pay"} 0.0' in text
    assert "celery." not in text


@pytest.fixture
def ended() -> int:
    """The id of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def directory(tmp_path: Path, ended: int) -> Path:
    """What this process and a dead one have left behind."""
    for name in ("gauge_livesum", "gauge_livemax", "gauge_sum", "counter"):
        for pid in (os.getpid(), ended):
            (tmp_path / f"{name}_{pid}.db").touch()
    return tmp_path


def test_gauges_of_dead_processes_are_found(directory: Path, ended: int) -> None:
    """However a process ended, it says nothing of the present any more."""
    assert dead_processes(directory) == {ended}


def test_a_worker_begins_without_the_gauges_of_the_dead(
    app: Celery, directory: Path, ended: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child with the id of a dead one does not go on with its leases; counts go on."""
    monkeypatch.setenv(DIRECTORY, str(directory))
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())

    EndpointStep(parent_of(app, PreforkPool))

    left = {file.stem for file in directory.iterdir() if file.stem.endswith(f"_{ended}")}
    assert left == {f"gauge_sum_{ended}", f"counter_{ended}"}
    assert (directory / f"gauge_livesum_{os.getpid()}.db").exists()


def test_a_silent_broker_fails_no_scrape(app: Celery, caplog: Any) -> None:
    """Prometheus is told that the broker has not answered, and gets all the rest."""
    begun = time.monotonic()

    text = generate_latest(_registry(AskingCollector(app))).decode()

    assert "reliable_tasks_broker_up 0.0" in text
    assert "reliable_tasks_queue_depth{" not in text
    assert "reliable_tasks_dead_letters_kept 0" not in text
    assert time.monotonic() - begun < 10
    assert {each.levelname for each in caplog.records} == {"WARNING"}


def _registry(collector: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def test_what_a_broker_cannot_say_is_left_out() -> None:
    """Redis does not know the readers of a list: that is no zero."""
    queues = [QueueView(name="a", depth=3, unacked=1), QueueView(name="b", depth=0, consumers=2)]

    samples = {
        (sample.name.removeprefix("reliable_tasks_"), sample.labels.get("queue")): sample.value
        for family in families(Answers(queues, letters=7))
        for sample in family.samples
    }

    assert samples == {
        ("broker_up", None): 1,
        ("dead_letters_kept", None): 7,
        ("queue_depth", "a"): 3,
        ("queue_depth", "b"): 0,
        ("queue_unacked", "a"): 1,
        ("queue_consumers", "b"): 2,
    }


@pytest.mark.parametrize(
    ("published", "eta", "waited"),
    [
        (None, None, None),
        ("yesterday", None, None),
        (990.0, None, 10.0),
        (1_001.0, None, 0.0),
        (900.0, "1970-01-01T00:16:35+00:00", 5.0),
        (900.0, "1970-01-01T00:00:01+00:00", 100.0),
    ],
    ids=["not said", "not a number", "waited", "its clock is ahead", "due later", "was due before"],
)
def test_waits(published: Any, eta: str | None, waited: float | None) -> None:
    """A wait begins with the publication or the ETA, and is never below 0."""
    request = SimpleNamespace(headers={PUBLISHED: published}, eta=eta)

    assert seconds_waited(request, now=1_000.0) == waited


def test_a_successor_is_stamped_anew() -> None:
    """The time of publication is that of this message, whatever its headers were copied from."""
    headers: dict[str, Any] = {PUBLISHED: 1.0}

    stamp(headers=headers)

    assert abs(headers[PUBLISHED] - time.time()) < 5


def test_dashboard_is_well_formed() -> None:
    """What Grafana imports: panels with ids of their own, each in a place of its own."""
    panels = json.loads((PROJECT / "docs/grafana/reliable-tasks.json").read_text())["panels"]
    places = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) == 23
    assert all(panel["type"] == "row" or panel["targets"] for panel in panels)


def test_every_alert_is_in_the_runbook() -> None:
    """Who is woken finds the alert's name, and what to do."""
    names = re.findall(r"alert: (\w+)", (PROJECT / "docs/grafana/alerts.yml").read_text())
    runbook = (PROJECT / "docs/how-to/runbook.md").read_text()

    assert len(names) > 10
    assert [name for name in names if f"`{name}`" not in runbook] == []
