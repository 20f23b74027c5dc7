"""What importing the package brings along."""

from __future__ import annotations

import subprocess
import sys

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


def test_a_declared_task_needs_no_client() -> None:
    """Until the first claim or publish, neither redis nor another dependency is imported."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )

    assert "reliable_tasks" in run.stdout.split()
    assert not {"redis", "tenacity", "rich"} & set(run.stdout.split())
