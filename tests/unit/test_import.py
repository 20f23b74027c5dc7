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
print(*{name.partition(".")[0] for name in sys.modules})
"""


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
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )

    assert "reliable_tasks" in run.stdout.split()
    assert not {"redis", "tenacity", "rich"} & set(run.stdout.split())
