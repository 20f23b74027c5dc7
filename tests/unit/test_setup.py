"""`setup` puts settings beneath the app's own, once, whenever it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, _state

from reliable_tasks import ConfigurationError, IdempotentTask, presets, setup
from reliable_tasks.broker import HEARTBEAT_STEP
from reliable_tasks.presets.conflicts import conflicts, task_conflicts
from reliable_tasks.presets.steps import SettingsStep
from reliable_tasks.setup import SETTINGS
from reliable_tasks.testing import close_app

PRESET = presets.redis("redis://localhost:1/0")
OPTIONS = PRESET["broker_transport_options"]


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


@pytest.mark.hooks
@pytest.mark.parametrize("take", ["setup", "file"])
def test_each_host_is_asked_for_its_own_name(app: Celery, take: str) -> None:
    """Kombu would ask all hosts for a certificate with the name of the first."""
    preset = presets.rabbitmq("amqps://a//;amqps://b//", ca_certs="/ca.pem")
    if take == "setup":
        setup(app, preset)
    else:
        app.config_from_object(preset)
        setup(app)
    asked = []

    class Refused:
        def __init__(self, **options: Any) -> None:
            asked.append({**options["ssl"]})

        def connect(self) -> None:
            raise ConnectionRefusedError

    with app.connection_for_write() as connection:
        for each in ("amqps://a//", "amqps://b//"):
            connection.switch(each)
            connection.transport.Connection = Refused
            with pytest.raises(ConnectionRefusedError):
                connection.transport.establish_connection()

    assert [each["server_hostname"] for each in asked] == ["a", "b"]
    assert {each["ca_certs"] for each in asked} == {"/ca.pem"}
    assert app.conf.broker_use_ssl["server_hostname"] is None


CONFLICTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "more prefetched": (
        {"worker_prefetch_multiplier": 4},
        "worker_prefetch_multiplier = 4, the preset says 1.",
    ),
    "no time limit": ({"task_time_limit": None}, "task_time_limit = None, the preset says 630."),
    "a longer one": ({"task_time_limit": 900}, "task_time_limit = 900, the preset says 630."),
    "a shorter one": ({"task_time_limit": 60}, None),
    "a longer one of the environment": (
        {"task_time_limit": "600"},
        "task_time_limit = '600', the preset says 630.",
    ),
    "a short visibility timeout": (
        {"broker_transport_options": {**OPTIONS, "visibility_timeout": 300}},
        "broker_transport_options.visibility_timeout = 300, the preset says 4920.",
    ),
    "a longer visibility timeout": (
        {"broker_transport_options": {**OPTIONS, "visibility_timeout": 9000}},
        None,
    ),
    "none": (
        {"broker_transport_options": {}},
        "broker_transport_options have no visibility_timeout, ",
    ),
    "a password": (
        {"broker_transport_options": {**OPTIONS, "socket_timeout": {"password": "hush"}}},
        "socket_timeout = {'password': '***'}, the preset says 1.5.",
    ),
    "another broker": (
        {"broker_url": "redis://:hush@elsewhere:1/0"},
        "broker_read_url = 'redis://:***@elsewhere:1/0', the preset was made for 'redis://local",
    ),
    "another one to read from": (
        {"broker_read_url": ["redis://a", "redis://b"]},
        "broker_read_url = 'redis://a;redis://b', the preset was made for",
    ),
    "acknowledged early": ({"task_acks_late": False}, "task_acks_late = False, the preset says T"),
    "given back for ever": (
        {"task_reject_on_worker_lost": True},
        "task_reject_on_worker_lost = True, the preset says False.",
    ),
    "pickle": (
        {"accept_content": ["json", "pickle"]},
        "accept_content = ['json', 'pickle'], the preset says ['json'].",
    ),
    "JSON by its long name": ({"accept_content": {"application/json"}}, None),
    "sent as pickle": ({"task_serializer": "pickle"}, "task_serializer = 'pickle', the preset"),
    "any queue": (
        {"task_create_missing_queues": True},
        "task_create_missing_queues = True, the preset says False.",
    ),
    "patience": (
        {"task_publish_retry_policy": {**PRESET["task_publish_retry_policy"], "max_retries": 9}},
        "task_publish_retry_policy = {'max_retries': 9, ",
    ),
    "nothing": ({}, None),
}


@pytest.mark.parametrize(("own", "line"), CONFLICTS.values(), ids=CONFLICTS)
def test_what_breaks_a_promise_is_said(app: Celery, own: dict[str, Any], line: str | None) -> None:
    """A worker says at its start which of the app's own settings a promise does not survive."""
    setup(app, PRESET)
    app.conf.update(own)
    found = list(conflicts(PRESET, app.conf))

    assert bool(found) == (line is not None)
    if line:
        assert line in found[0]
        assert "hush" not in str(found)


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


def test_queues_beside_those_of_a_preset_break_nothing(app: Celery) -> None:
    """A queue more is not said; one that is declared in another way is, in short."""
    preset = presets.rabbitmq("amqp://a//")
    setup(app, preset)
    app.conf.task_queues = {**preset["task_queues"], "more": {"exchange": "more"}}
    assert list(conflicts(preset, app.conf)) == []

    app.conf.task_queues = {"jobs": {"queue_arguments": {"x-max-priority": 9}}}
    (line,) = conflicts(preset, app.conf)
    assert "task_queues = {'jobs': {'queue_arguments': {'x-max-priority': 9}}}, the " in line
    assert "preset says {'jobs': {'exchange': 'jobs', " in line
    assert len(line) < 1_500


def test_the_environments_address_is_said(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes before everything, in Celery too, is another broker all the same."""
    setup(app, PRESET)
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://shop:hush@a//")

    read, write = conflicts(PRESET, app.conf)

    assert "broker_read_url = 'amqp://shop:***@a//'" in read
    assert "broker_write_url = " in write


def test_results_elsewhere_are_said(app: Celery) -> None:
    """A preset that has checked where results go does not see where the app sends them."""
    preset = presets.redis("redis://localhost:1/0", results="redis://localhost:1/1")
    setup(app, preset)
    app.conf.result_backend = "redis://shop:hush@a/1"

    (line,) = conflicts(preset, app.conf)

    assert "result_backend = 'redis://shop:***@a/1', the preset was made for 'redis" in line


def test_limits_of_a_task_are_said(app: Celery) -> None:
    """A task that may run longer than a preset was told, and one that is acknowledged early."""
    setup(app, PRESET)

    @app.task(name="long", time_limit=900, soft_time_limit=800, shared=False)
    def long() -> None: ...

    @app.task(name="early", acks_late=False, shared=False)
    def early() -> None: ...

    @app.task(name="short", time_limit=60, soft_time_limit=50, acks_late=True, shared=False)
    def short() -> None: ...

    @app.task(name="late", time_limit=60, shared=False)
    def late() -> None: ...

    found = "\n".join(task_conflicts(PRESET, app.tasks.values()))

    assert "long has time_limit=900, the preset says 630: " in found
    assert "long has soft_time_limit=800, the preset says 600: " in found
    assert "early has acks_late=False" in found
    assert "late has time_limit=60 below its soft limit, 600: Celery refuses" in found
    assert len(found.splitlines()) == 4  # and nothing of what the app's settings say
    assert list(task_conflicts(dict(PRESET), app.tasks.values())) == []


@pytest.mark.hooks
def test_the_worker_step_says_it(
    app: Celery, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps that setup adds to workers log a warning for each, also of the command line."""
    setup(app, {"task_time_limit": 10})
    setup(app, PRESET)
    setup(app, PRESET)
    app.conf.task_time_limit = 900
    monkeypatch.setattr(_state, "_task_join_will_block", False)  # a pool says so of its process
    controller = app.WorkController(pool="solo", prefetch_multiplier=4, soft_time_limit=60)

    caplog.clear()
    SettingsStep(controller)

    assert {record.levelname for record in caplog.records} == {"WARNING"}
    limit, prefetched, pool = (record.message for record in caplog.records)
    assert "the app's own settings say task_time_limit = 900" in limit
    assert "the worker's command line says worker_prefetch_multiplier = 4" in prefetched
    assert "the worker's pool is solo, the preset was made for processes" in pool


def test_a_later_preset_replaces_an_earlier_one(app: Celery, caplog: Any) -> None:
    """Nothing is left of what only the first one said, and it promises nothing any more."""
    setup(app, presets.rabbitmq("amqp://a//"))
    setup(app, PRESET)

    assert app.conf.task_default_queue_type == "classic"
    assert getattr(app, SETTINGS).sources == [PRESET]


@pytest.mark.parametrize("settings", ["redis://:hush@localhost", 5, ["redis://localhost"]])
def test_what_is_no_mapping_is_refused(app: Celery, settings: Any) -> None:
    """An address is not settings; the error does not show it."""
    with pytest.raises(ConfigurationError, match="settings: expected a preset or a map") as error:
        setup(app, settings)

    assert "hush" not in str(error.value)


@pytest.mark.parametrize("heartbeat", [60, None, "no"])
def test_the_heartbeat_takes_no_number(app: Celery, heartbeat: Any) -> None:
    """It is there or not; how often it beats is not said here."""
    with pytest.raises(ConfigurationError, match="heartbeat: expected True or False, got"):
        setup(app, heartbeat=heartbeat)


def test_the_later_word_on_the_heartbeat_is_heard(app: Celery) -> None:
    """It can be turned off and on, but not off beside a preset that relies on it."""
    setup(app)
    setup(app, heartbeat=False)
    assert HEARTBEAT_STEP not in app.steps["consumer"]

    setup(app, presets.redis("redis://localhost:1/0", heartbeat=True))
    with pytest.raises(ConfigurationError, match="heartbeat: expected True in setup"):
        setup(app, heartbeat=False)
    assert HEARTBEAT_STEP in app.steps["consumer"]
