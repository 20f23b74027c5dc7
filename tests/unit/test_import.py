"""What importing the package brings along."""

from __future__ import annotations

import subprocess
import sys

import pytest

import reliable_tasks

PROGRAM = """
import sys
from celery import Celery
from reliable_tasks import IdempotentTask, setup

app = Celery("shop", broker="redis://localhost/0")
setup(app)

@app.task(base=IdempotentTask, idempotency_key=("order",))
def charge(order):
    pass

assert charge.guard_options
print(*sys.modules)
"""

EXECUTION = {
    f"reliable_tasks.{name}" for name in ("burial", "core.records", "delivery", "events", "guard")
}
"""What runs a job, and costs more to load than all the rest."""

OPT_IN = {
    f"reliable_tasks.{name}"
    for name in (
        "block",
        "core.limits",
        "core.uniqueness",
        "many",
        "retry.policy",
        "shortcut",
        "stores.memory",
        "stores.redis",
        "unique",
    )
}
"""What serves those who ask for it."""


@pytest.mark.parametrize("name", reliable_tasks.__all__)
def test_every_name_is_there(name: str) -> None:
    """A name that is loaded when it is asked for is listed, and stays the same object."""
    assert name in dir(reliable_tasks)
    assert getattr(reliable_tasks, name) is getattr(reliable_tasks, name)


def test_what_is_not_there() -> None:
    """A misspelt name is an error that says so."""
    with pytest.raises(AttributeError, match="'reliable_tasks' has no attribute 'IdempotentTusk'"):
        reliable_tasks.IdempotentTusk  # noqa: B018


def test_a_declared_task_needs_no_client() -> None:
    """Until the first claim or publish, neither redis nor another dependency is imported."""
    loaded = modules_after(PROGRAM)

    assert "reliable_tasks.task" in loaded
    assert not {"redis", "tenacity", "rich"} & loaded


def test_a_declared_task_needs_nothing_that_runs_jobs() -> None:
    """Import, declaration and `setup` load nothing that is only used later, or never."""
    loaded = modules_after(PROGRAM)

    assert not (EXECUTION | OPT_IN) & loaded


def test_plain_retries_need_no_budget() -> None:
    """Who retries without a budget and a breaker loads nothing of either."""
    loaded = modules_after(
        "import sys; from reliable_tasks import retry_task\n"
        "retry_task(on=OSError)(lambda: None)\n"
        "print(*sys.modules)"
    )

    assert not {"reliable_tasks.core.limits", "reliable_tasks.retry.budget"} & loaded


def test_a_worker_has_loaded_what_runs_jobs() -> None:
    """The worker loads it once, before its pool forks, and not again in each child."""
    loaded = modules_after("import sys, reliable_tasks.worker; print(*sys.modules)")

    assert loaded >= EXECUTION


def test_no_module_takes_the_place_of_a_name() -> None:
    """No name that is loaded later is a module's too, which Python would put in its place."""
    modules = modules_after("import sys; from reliable_tasks import *; print(*sys.modules)")

    assert not {f"reliable_tasks.{name}" for name in reliable_tasks._LATER} & modules


def modules_after(program: str) -> set[str]:
    """The names of the modules that a new process has loaded, as *program* prints them."""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())
