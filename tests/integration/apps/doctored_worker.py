"""The worker of the doctor's tests: healthy, until it is told to be otherwise."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery.exceptions import Reject
from celery.worker.control import control_command

from reliable_tasks import inspectable
from tests.integration.apps.doctored import shop

app = shop(
    os.environ["DOCTOR_BROKER"],
    results=os.environ["DOCTOR_RESULTS"],
    **({"heartbeat": True} if "DOCTOR_HEARTBEAT" in os.environ else {}),
)

FUSE = Path(os.environ["DOCTOR_FUSE"])


@app.task(name="shop.wait", shared=False)
def wait(seconds: float) -> None:
    """Hold a slot."""
    time.sleep(seconds)


@app.task(name="shop.haunt", acks_late=True, shared=False)
def haunt() -> None:
    """Come back at once, as long as the fuse burns."""
    if FUSE.exists():
        raise Reject(requeue=True)


def other_greeting(customer: str) -> str:
    """Be what another release of the shop has under the name of a task."""
    return f"Dear {customer}"


def _clock(state: Any) -> Any:
    inspectable.time = lambda: time.time() + 90
    return lambda: setattr(inspectable, "time", time.time)


def _code(state: Any) -> Any:
    task = state.app.tasks["shop.greet"]
    before, task.run = task.run, other_greeting
    return lambda: setattr(task, "run", before)


def _task(state: Any) -> Any:
    forgotten = state.app.tasks.pop("shop.greet")
    return lambda: state.app.tasks.register(forgotten)


def _settings(state: Any) -> Any:
    state.app.conf.task_acks_late = False
    return lambda: setattr(state.app.conf, "task_acks_late", True)


def _visibility(state: Any) -> Any:
    options = state.consumer.connection.transport_options
    before, options["visibility_timeout"] = options["visibility_timeout"], 9_000
    return lambda: options.update(visibility_timeout=before)


def _heartbeat(state: Any) -> Any:
    steps = state.consumer.steps
    [step] = [each for each in steps if type(each).__name__ == "HeartbeatStep"]
    steps.remove(step)
    return lambda: steps.append(step)


ODDITIES = {
    "clock": _clock,
    "code": _code,
    "task": _task,
    "settings": _settings,
    "visibility": _visibility,
    "heartbeat": _heartbeat,
}
undo: list[Any] = []


@control_command(name="become")
def become(state: Any, what: str | None = None) -> dict[str, str]:
    """Be odd in one way, or healthy again."""
    while undo:
        undo.pop()()
    if what is not None:
        undo.append(ODDITIES[what](state))
    return {"ok": str(what)}
