"""The flight recorder notes what happens, and never stands in the way."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery import signals as celery_signals

from reliable_tasks import (
    ConfigurationError,
    IdempotentTask,
    StoreUnavailable,
    UniqueTask,
    retry_task,
    setup,
)
from reliable_tasks.core.keys import flight_key
from reliable_tasks.flight import SETTING, begin, keep_ms_of, listening, tape
from reliable_tasks.flight.listening import HEARD, uid_of
from reliable_tasks.flight.tape import LINES_PER_JOB, Tape
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing import close_app, eventually
from reliable_tasks.worker import check


class Broken(MemoryStore):
    """A store that is down."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def jot_each(self, *args: Any, **options: Any) -> None:
        self.asked += 1
        raise StoreUnavailable("jot", "refused")


Make = Callable[..., Celery]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make apps whose recorders end with the test."""
    apps = []

    def new(**settings: Any) -> Celery:
        app = Celery(f"flight-{len(apps)}", set_as_current=False)
        app.conf.update({"broker_url": f"memory://localhost/{uuid4()}", **settings})
        apps.append(app)
        return app

    yield new
    for app in apps:
        for signal, _ in HEARD:
            signal.disconnect(dispatch_uid=uid_of(app))
        celery_signals.worker_process_shutdown.disconnect(dispatch_uid=uid_of(app))
        close_app(app)


@pytest.fixture
def recorded(make: Make) -> Celery:
    """Make an app whose flights are recorded in a memory store."""
    app = make(**{SETTING: True, "reliable_tasks_store": MemoryStore()})
    setup(app)
    app.conf.task_always_eager  # noqa: B018 - settings are read now
    return app


def lines(app: Celery, task_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Return what was noted of a job: events with their details."""
    store = app.conf.reliable_tasks_store
    parsed = [json.loads(line) for line in store.jottings(flight_key("", task_id))]
    return [(event, details) for _, event, _, details in parsed]


def noted(app: Celery, task_id: str, *events: str) -> list[dict[str, Any]]:
    """Wait for these events of a job, and return their details."""
    eventually(lambda: [event for event, _ in lines(app, task_id)] == list(events))
    return [details for _, details in lines(app, task_id)]


@pytest.mark.parametrize(
    ("value", "keep_ms"),
    [
        (None, None),
        (False, None),
        (True, 86_400_000),
        (60, 60_000),
        (timedelta(hours=2), 7_200_000),
    ],
)
def test_setting_says_how_long_lines_are_kept(value: Any, keep_ms: int | None) -> None:
    """On is a day; a number is seconds; off is off."""
    assert keep_ms_of({SETTING: value}) == keep_ms


@pytest.mark.parametrize("value", ["yes", "", 0, 59, -1, [], float("nan")])
def test_other_values_are_refused(make: Make, value: Any) -> None:
    """A worker with a value that means nothing does not start."""
    app = make(**{SETTING: value, "reliable_tasks_store": MemoryStore()})

    with pytest.raises(ConfigurationError, match=SETTING):
        check(app)


def test_recorder_without_a_store_is_refused(make: Make) -> None:
    """Without a Redis anywhere there is no place for the lines, though no task is guarded."""
    app = make(**{SETTING: True})

    with pytest.raises(ConfigurationError, match="reliable_tasks_store_url"):
        check(app)


def test_nothing_is_connected_unless_it_is_on(make: Make) -> None:
    """An app without the setting pays nothing."""
    app = make(reliable_tasks_store=MemoryStore())
    before = [len(signal.receivers or ()) for signal, _ in HEARD]
    setup(app)
    begin(app)

    assert [len(signal.receivers or ()) for signal, _ in HEARD] == before


@pytest.mark.parametrize("times", [1, 3])
def test_published_message_has_one_line(make: Make, times: int) -> None:
    """A publish is noted with its queue and time, however often the app was set up."""
    app = make(reliable_tasks_store=MemoryStore())
    for _ in range(times):
        setup(app, {SETTING: True})

    @app.task(name="plain")
    def plain(secret: str) -> None: ...

    plain.apply_async(("4711",), task_id="one", queue="slow", countdown=60)

    (details,) = noted(app, "one", "published")
    assert (details["task"], details["queue"]) == ("plain", "slow")
    assert details.keys() == {"task", "queue", "eta"}


def test_run_of_a_guarded_task(recorded: Celery) -> None:
    """A claim and its outcome are noted, with the name of a record that others share."""

    @recorded.task(name="keyed", base=IdempotentTask, idempotency_key=("a",))
    def keyed(a: str) -> str:
        return "secret result"

    keyed.apply(("secret",), task_id="one")
    keyed.apply(("secret",), task_id="two")

    claimed, settled = noted(recorded, "one", "claimed", "settled")
    assert claimed["attempt"] == 1
    assert claimed["key"].startswith("rt1::keyed:")
    assert settled["state"] == "done"
    assert noted(recorded, "two", "replayed")[0]["state"] == "done"
    assert "secret" not in str(lines(recorded, "one"))


def test_run_of_a_plain_task(recorded: Celery) -> None:
    """A task that nothing guards is noted when it begins and ends; a failure without its text."""

    @recorded.task(name="plain")
    def plain() -> None:
        raise ValueError("secret")

    plain.apply(task_id="one")

    assert noted(recorded, "one", "started", "ended")[1] == {"state": "FAILURE"}


def test_retries_and_giving_up(recorded: Celery) -> None:
    """An attempt that is tried again is noted with its wait and the class of its error."""

    @recorded.task(name="shaky", bind=True)
    @retry_task(on=ValueError, attempts=2)
    def shaky(self: Any) -> None:
        raise ValueError("secret")

    shaky.apply(task_id="one")

    eventually(lambda: [event for event, _ in lines(recorded, "one")].count("ended") >= 1)
    retrying = next(each for event, each in lines(recorded, "one") if event == "retrying")
    given_up = next(each for event, each in lines(recorded, "one") if event == "given-up")
    assert (retrying["attempt"], retrying["error"]) == (1, "ValueError")
    assert retrying["wait"] >= 0
    assert (given_up["attempt"], given_up["reason"]) == (2, "attempts")
    assert "secret" not in str(lines(recorded, "one"))


def test_suppressed_call_is_noted_at_the_job_that_was_there(recorded: Celery) -> None:
    """A call of a unique task that published nothing is a line of the other job."""

    @recorded.task(name="unique", base=UniqueTask)
    def unique(a: int) -> None: ...

    first = unique.delay(1)
    assert unique.delay(1).id == first.id

    noted(recorded, first.id, "published", "suppressed")


def test_other_apps_runs_are_not_recorded(recorded: Celery, make: Make) -> None:
    """What a task of another app does in the same process is none of this app's flights."""
    other = make()

    @other.task(name="plain")
    def plain() -> None: ...

    @recorded.task(name="plain")
    def own() -> None: ...

    plain.apply(task_id="theirs")
    own.apply(task_id="ours")

    noted(recorded, "ours", "started", "ended")
    assert lines(recorded, "theirs") == []


def test_lines_of_a_job_are_bounded() -> None:
    """Of a job with many events the last are kept."""
    store = MemoryStore()
    recorder = Tape(lambda: store, "", 60_000)
    for number in range(LINES_PER_JOB + 10):
        recorder.note("one", "published", "here", {"number": number})
    recorder.finish()

    kept = store.jottings(flight_key("", "one"))
    assert len(kept) == LINES_PER_JOB
    assert json.loads(kept[-1])[3] == {"number": LINES_PER_JOB + 9}


def test_store_that_is_down_costs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Lines that cannot be written are dropped, which is said once in a process."""
    store = Broken()
    recorder = Tape(lambda: store, "", 60_000)
    with caplog.at_level(logging.WARNING, "reliable_tasks"):
        for number in range(3):
            recorder.note(f"job-{number}", "published", "", {})
            eventually(lambda number=number: store.asked > number)

    assert [record.getMessage() for record in caplog.records] == [
        "the flight recorder drops lines, said once: " + str(StoreUnavailable("jot", "refused"))
    ]


def test_slow_store_holds_nobody_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is slow, lines wait up to a bound; what is more is dropped at once."""
    monkeypatch.setattr(tape, "MOST_WAITING", 5)
    recorder = Tape(lambda: time.sleep(1) or MemoryStore(), "", 60_000)  # type: ignore[func-returns-value]
    begun = time.monotonic()
    with caplog.at_level(logging.WARNING, "reliable_tasks"):
        for number in range(100):
            recorder.note("one", "published", "", {"number": number})

    assert time.monotonic() - begun < 0.5
    assert len(caplog.records) == 1
    assert "5 lines wait" in caplog.text


def test_fault_of_the_recorder_reaches_nobody(
    recorded: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in the recorder itself leaves the job alone, and is said once."""

    @recorded.task(name="plain")
    def plain() -> str:
        return "done"

    monkeypatch.setattr(listening.Recorder, "_note", lambda *_args, **_details: 1 / 0)
    with caplog.at_level(logging.WARNING):
        assert plain.apply().get() == "done"
        assert plain.apply().get() == "done"

    assert [record.name for record in caplog.records] == ["reliable_tasks"]


def test_forked_child_writes_its_own_lines() -> None:
    """What waits in the parent is written by the parent, once; the child begins empty."""
    store = MemoryStore()
    recorder = Tape(lambda: store, "", 60_000)
    recorder._waiting.append((0.0, "one", "published", "", {}))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        os.write(writer, b"0" if recorder._waiting else b"1")
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reader, 1) == b"1"
    assert len(recorder._waiting) == 1
    os.close(reader)
    os.close(writer)
