"""A worker that cannot keep the promises does not start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, _state

from reliable_tasks import ConfigurationError, IdempotentTask, setup
from reliable_tasks.testing import close_app
from reliable_tasks.worker import WorkerStep, check


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """Make an app with Celery's own tasks, and none that another test module shares with all."""
    shared = _state._on_app_finalizers
    built_in = {each for each in shared if each.__module__ == "celery.app.builtins"}
    monkeypatch.setattr(_state, "_on_app_finalizers", built_in)
    app = Celery("worker-checks", broker="redis://localhost:1/0", set_as_current=False)
    yield app
    close_app(app)


def guarded(app: Celery, **options: Any) -> None:
    @app.task(base=IdempotentTask, name="guarded", shared=False, **options)
    def task() -> None: ...

    app.finalize()


def test_a_healthy_app_passes(app: Celery) -> None:
    """The broker is Redis and nothing contradicts: no word, and no connection."""
    guarded(app)

    check(app)


def test_answers_before_the_guard_are_refused(app: Celery) -> None:
    """Celery's own deduplication would answer a copy before the guard is asked."""
    guarded(app)
    app.conf.worker_deduplicate_successful_tasks = True

    with pytest.raises(ConfigurationError, match="worker_deduplicate_successful_tasks"):
        check(app)


def test_an_app_without_redis_is_refused(app: Celery) -> None:
    """Without a Redis anywhere the worker says what to set, instead of failing at each task."""
    app.conf.broker_url = "amqp://localhost"
    guarded(app)

    with pytest.raises(ConfigurationError, match="reliable_tasks_store_url"):
        check(app)


def test_an_app_without_guarded_tasks_needs_no_store(app: Celery) -> None:
    """Importing the library obliges to nothing."""
    app.conf.broker_url = "amqp://localhost"
    app.finalize()

    check(app)


def test_a_misspelt_setting_is_refused(app: Celery) -> None:
    """A setting that would silently do nothing is named, with the nearest one that exists."""
    guarded(app)
    app.conf.reliable_tasks_lease_second = 10

    with pytest.raises(ConfigurationError, match="Did you mean reliable_tasks_lease_seconds"):
        check(app)


@pytest.mark.parametrize(
    ("namespace", "name", "meant"),
    [
        ("CELERY", "CELERY_RELIABLE_TASKS_RETENSION", "CELERY_RELIABLE_TASKS_RETENTION"),
        ("CELERY", "reliable_tasks_retension", "CELERY_RELIABLE_TASKS_RETENTION"),
        ("CELERY", "RELIABLE_TASKS_RETENTION", "CELERY_RELIABLE_TASKS_RETENTION"),
        ("CELERY", "celery_reliable_tasks_retention", "CELERY_RELIABLE_TASKS_RETENTION"),
        ("shop_", "shop_reliable_tasks_retension", "shop_reliable_tasks_retention"),
        (None, "RELIABLE_TASKS_RETENTION", "reliable_tasks_retention"),
    ],
)
def test_a_setting_that_celery_would_not_read_is_refused(
    app: Celery, namespace: str | None, name: str, meant: str
) -> None:
    """In a settings file with a namespace, too: misspelt, or in capitals where Celery has none."""
    app.config_from_object({name: 5}, namespace=namespace)

    with pytest.raises(ConfigurationError, match=f"Did you mean {meant}?") as caught:
        check(app)
    assert str(caught.value).startswith(f"{name}: expected ")
    assert app.conf.get("reliable_tasks_retention") is None


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        ("CELERY", "CELERY_RELIABLE_TASKS_RETENTION"),
        ("CELERY", "reliable_tasks_retention"),
        ("shop", "shop_reliable_tasks_retention"),
        (None, "reliable_tasks_retention"),
    ],
)
def test_a_setting_that_celery_reads_passes(app: Celery, namespace: str | None, name: str) -> None:
    """What passes is what has an effect; other people's settings are no concern of ours."""
    app.config_from_object({name: 5, "SHOP_RELIABLE": 1, "RETENSION": 2}, namespace=namespace)

    check(app)
    assert app.conf.get("reliable_tasks_retention") == 5


def test_bad_options_of_the_app_are_refused(app: Celery) -> None:
    """An app-wide option is checked like a task's own."""
    guarded(app)
    app.conf.reliable_tasks_lease_seconds = -1

    with pytest.raises(ConfigurationError, match="lease_seconds: expected seconds"):
        check(app)


def test_setup_twice_changes_nothing(app: Celery) -> None:
    """Calling setup again leaves one worker step and the same settings."""
    setup(app, {"reliable_tasks_lease_seconds": 10})
    steps, lease = set(app.steps["worker"]), app.conf.reliable_tasks_lease_seconds
    setup(app, {"reliable_tasks_lease_seconds": 10})

    assert (set(app.steps["worker"]), app.conf.reliable_tasks_lease_seconds) == (steps, lease)


def test_a_guarded_task_brings_its_worker_step(app: Celery) -> None:
    """The base class alone is enough: the worker is checked without a call of setup."""
    guarded(app)

    assert f"{WorkerStep.__module__}:{WorkerStep.__name__}" in app.steps["worker"]
