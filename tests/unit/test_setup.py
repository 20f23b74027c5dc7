"""`setup` puts settings beneath the app's own, once, whenever it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from reliable_tasks import ConfigurationError, IdempotentTask, presets, setup
from reliable_tasks.presets.steps import SettingsStep, conflicts
from reliable_tasks.testing import close_app

PRESET = presets.redis("redis://localhost:1/0")


class Own:
    """What an app says itself."""

    task_time_limit = 9
    worker_prefetch_multiplier = 3


@pytest.fixture
def app() -> Iterator[Celery]:
    """Make an app that has not read its settings."""
    app = Celery("settings", set_as_current=False)
    yield app
    close_app(app)


def before(app: Celery) -> None:
    setup(app, PRESET)
    app.config_from_object(Own)
    app.conf.task_soft_time_limit = 5


def after(app: Celery) -> None:
    app.conf.task_soft_time_limit = 5
    app.config_from_object(Own)
    setup(app, PRESET)


def after_they_were_read(app: Celery) -> None:
    after(app)
    assert app.conf.task_acks_late
    app.config_from_object(Own)
    setup(app, PRESET)


@pytest.mark.hooks
@pytest.mark.parametrize("order", [before, after, after_they_were_read])
def test_the_apps_own_word_wins(app: Celery, order: Callable[[Celery], None]) -> None:
    """What an app says itself goes before a preset, whichever comes first; the rest is there."""
    order(app)

    own = (app.conf.task_time_limit, app.conf.worker_prefetch_multiplier)
    assert own == (9, 3)
    assert app.conf.task_soft_time_limit == 5
    assert app.conf.broker_url == PRESET["broker_url"]
    assert app.conf.task_acks_late is True
    assert app.conf.broker_transport_options == PRESET["broker_transport_options"]


@pytest.mark.hooks
def test_settings_behind_a_namespace_win_too(app: Celery) -> None:
    """A Django project's settings are the app's own word."""
    setup(app, PRESET)
    app.config_from_object({"CELERY_TASK_TIME_LIMIT": 9}, namespace="CELERY")

    assert (app.conf.task_time_limit, app.conf.task_soft_time_limit) == (9, 600)


@pytest.mark.parametrize("take", ["config_from_object", "update"])
def test_celery_takes_a_preset_by_itself(app: Celery, take: str) -> None:
    """Without setup, a preset is settings like any other."""
    if take == "update":
        app.conf.update(PRESET)
    else:
        app.config_from_object(PRESET)

    assert {name: app.conf[name] for name in PRESET} == dict(PRESET)


def test_a_later_setup_replaces_an_earlier_one(app: Celery) -> None:
    """Of two calls the later one is heard; the same again changes nothing."""
    setup(app, PRESET)
    setup(app, {"task_time_limit": 7})
    setup(app, {"task_time_limit": 7})

    assert (app.conf.task_time_limit, app.conf.task_soft_time_limit) == (7, 600)
    assert len(app.conf.maps) == 4


def test_tasks_hear_of_settings_that_come_after_them(app: Celery) -> None:
    """Options of a guarded task that was declared first are those of the preset."""

    @app.task(base=IdempotentTask, name="early", shared=False)
    def early() -> None: ...

    setup(app, {**PRESET, "reliable_tasks_lease_seconds": 11})

    assert app.tasks["early"].guard_options.lease_ms == 11_000


CONFLICTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "more prefetched": (
        {"worker_prefetch_multiplier": 4},
        "worker_prefetch_multiplier = 4, the preset says 1.",
    ),
    "no time limit": ({"task_time_limit": None}, "task_time_limit = None, the preset says 630."),
    "a longer one": ({"task_time_limit": 900}, "task_time_limit = 900, the preset says 630."),
    "a shorter one": ({"task_time_limit": 60}, None),
    "a short visibility timeout": (
        {"broker_transport_options": {"visibility_timeout": 300}},
        "broker_transport_options.visibility_timeout = 300, the preset says 4920.",
    ),
    "none": (
        {"broker_transport_options": {}},
        "broker_transport_options.visibility_timeout = None, the preset says 4920.",
    ),
    "a longer one, though the rest is lost": (
        {"broker_transport_options": {"visibility_timeout": 9000}},
        None,
    ),
    "another broker": ({"broker_url": "redis://elsewhere:1/0"}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize(("own", "line"), CONFLICTS.values(), ids=CONFLICTS)
def test_what_breaks_a_promise_is_said(app: Celery, own: dict[str, Any], line: str | None) -> None:
    """A worker says at its start which of the app's own settings a promise does not survive."""
    setup(app, PRESET)
    app.conf.update(own)
    found = list(conflicts(PRESET, app.conf))

    assert len(found) == (line is not None)
    if line:
        assert line in found[0]
        assert "Without it: " in found[0]


def test_a_backend_that_gets_no_results_is_said(app: Celery) -> None:
    """An app with a result backend and a preset without results is told that none are stored."""
    setup(app, PRESET)
    app.conf.result_backend = "redis://:hush@localhost:1/1"
    (line,) = conflicts(PRESET, app.conf)
    app.conf.task_ignore_result = False

    assert "'redis://:***@localhost:1/1', but its preset was made without results" in line
    assert list(conflicts(PRESET, app.conf)) == []


def test_a_preset_with_heartbeat_needs_one(app: Celery) -> None:
    """A short visibility timeout without the heartbeat is refused at once."""
    with pytest.raises(ConfigurationError, match=r"heartbeat: expected True in setup .* got False"):
        setup(app, presets.redis("redis://localhost:1/0", heartbeat=True), heartbeat=False)

    setup(app, presets.redis("redis://localhost:1/0", heartbeat=True))


def test_the_worker_step_says_it(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """The step that setup adds to workers logs a warning for each."""
    setup(app, {"task_time_limit": 10})
    setup(app, PRESET)
    app.conf.task_time_limit = 900

    class Worker:
        pass

    worker = Worker()
    worker.app = app  # type: ignore[attr-defined]
    SettingsStep(worker)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "task_time_limit = 900" in caplog.text
