"""An app whose tasks make up flows, with faults that a test plans by label."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from celery import Celery, current_task
from celery.backends.redis import RedisBackend
from kombu.exceptions import OperationalError

from reliable_tasks import IdempotentTask, delivery, guard, setup
from reliable_tasks.stores.redis import RedisStore
from reliable_tasks.testing import Ledger

FAULTS_VARIABLE = "FLOWS_FAULTS"
SETTINGS_VARIABLE = "FLOWS_SETTINGS"

app = Celery("flows", set_as_current=False)
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={"visibility_timeout": 120},
    # Celery holds its claim on a chord for as long as publishing the body may take.
    broker_connection_timeout=1,
    task_publish_retry_policy={"max_retries": 1},
)
app.conf.update(json.loads(os.environ.get(SETTINGS_VARIABLE, "{}")))
setup(app, {"reliable_tasks_lease_seconds": 5})


@app.task(base=IdempotentTask, shared=False)
def step(*values: Any, label: str) -> str:
    """Take effect, and return which steps came before."""
    Ledger.from_environment().effect(label)
    name = label.rpartition(".")[2]
    return f"{name}({_listed(values)})" if values else name


def _listed(values: Any) -> str:
    parts = (_listed(value) if isinstance(value, list | tuple) else value for value in values)
    return ",".join(map(str, parts))


@app.task(base=IdempotentTask, shared=False)
def fail(*values: Any, label: str) -> None:
    """Take effect, then fail."""
    Ledger.from_environment().effect(label)
    raise KeyError(label)


@app.task(base=IdempotentTask, shared=False)
def note(failed_id: str, *, label: str) -> None:
    """Take effect as an error callback that is published."""
    Ledger.from_environment().effect(label, failed=failed_id)


@app.task(
    base=IdempotentTask,
    shared=False,
    idempotency_key=("order",),
    when_running="skip",
    when_done="skip",
)
def keyed(*values: Any, order: str, label: str, seconds: float = 0.0) -> str:
    """Take effect once for an order; copies by other jobs are skipped where nothing waits."""
    time.sleep(seconds)
    Ledger.from_environment().effect(order, label=label)
    return label.rpartition(".")[2]


class Faults:
    """
    Faults that are still to happen, each at a point of one labelled step.

    One file each: to take one is one `unlink`, so that it happens once, whichever process
    passes the point first.

    Points: ``record``: the outcome is recorded and nothing is sent yet; ``publish``: the step is
    about to be published; ``result``: about to be stored and counted in its chord; ``sent``: all
    is sent, the job is not closed. Actions: ``kill``, ``fail``, and ``copy`` or ``late`` at
    ``copies``: the step's message is published once more, at once or in a second.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)

    def plan(self, point: str, label: str, action: str, times: int = 1) -> None:
        """Let *action* happen when the step *label* passes *point* next."""
        for number in range(times):
            (self.directory / f"{point}@{label}@{action}@{number}").touch()

    def left(self) -> list[str]:
        """Those that have not happened."""
        return sorted(path.name for path in self.directory.iterdir())

    def take(self, point: str, label: str | None) -> str | None:
        """Take the next fault of a point away, and return its action."""
        for path in sorted(self.directory.glob(f"{point}@{label}@*")):
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            return path.name.split("@")[2]
        return None

    def strike(self, point: str, label: str | None) -> None:
        """Let happen what is planned here."""
        action = self.take(point, label)
        if action is not None:
            Ledger.from_environment().write(action, label, point=point)
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "fail":
            raise OperationalError(f"planned at {point} of {label}")


def copy_messages(app: Celery, faults: Faults) -> None:
    """Publish the messages of the steps that have it planned once more."""
    send = app.amqp.send_task_message

    def send_copies(producer: Any, name: str, message: Any, **options: Any) -> Any:
        sent = send(producer, name, message, **options)
        while action := faults.take("copies", message.body[1].get("label")):
            headers = dict(message.headers)
            if action == "late":
                headers["eta"] = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
            send(producer, name, message._replace(headers=headers), **options)
        return sent

    app.amqp.send_task_message = send_copies


def break_at_points(faults: Faults) -> None:
    """Patch this process so that it passes the points of the plan."""
    guard.SEND_PATIENCE = 0.6
    guard.PAUSE_BEFORE_REQUEUE = 0.2
    for name in ("send_attached", "send_failure"):
        _before(delivery, name, "record", lambda task, request, *_, **__: request.kwargs)
    for name in ("mark_as_done", "mark_as_failure"):
        _before(RedisBackend, name, "result", _arguments)
    _before(RedisStore, "close", "sent", _arguments)
    _before(
        IdempotentTask, "apply_async", "publish", lambda _, args=None, kwargs=None, **__: kwargs
    )


def _arguments(*_: Any, **__: Any) -> Any:
    """The arguments of the running task; the main process runs none."""
    return current_task.request.kwargs if current_task else None


def _before(owner: Any, name: str, point: str, arguments_of: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    def passing(*args: Any, **kwargs: Any) -> Any:
        arguments = arguments_of(*args, **kwargs) or {}
        Faults(os.environ[FAULTS_VARIABLE]).strike(point, arguments.get("label"))
        return original(*args, **kwargs)

    setattr(owner, name, passing)


if FAULTS_VARIABLE in os.environ:
    break_at_points(Faults(os.environ[FAULTS_VARIABLE]))
    copy_messages(app, Faults(os.environ[FAULTS_VARIABLE]))
