"""Unique tasks of every mode, and producers that die where a test tells them to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from celery import Celery
from kombu import Producer

from reliable_tasks import IdempotentTask, UniqueTask, setup
from reliable_tasks.stores.redis import RedisStore
from reliable_tasks.testing import Ledger

GRACE = 2.0
RESERVED = 3.0
WINDOW = 3.0
DIE_VARIABLE = "UNIQUE_DIES"

SETTINGS = {
    "broker_connection_retry_on_startup": True,
    "worker_prefetch_multiplier": 1,
    "broker_transport_options": {
        "visibility_timeout": 4,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 2,
    },
    "reliable_tasks_lease_seconds": 2,
    "reliable_tasks_publish_grace": GRACE,
}

app = Celery("unique", set_as_current=False)
setup(app, SETTINGS)


def begin(label: str, **details: Any) -> None:
    """Note that a body has begun."""
    Ledger.from_environment().write("begun", label, **details)


def end(label: str, **details: Any) -> None:
    """Take effect."""
    Ledger.from_environment().effect(label, **details)


@app.task(base=UniqueTask, shared=False, bind=True)
def work(self: Any, label: str, seconds: float = 0.0) -> str:
    begin(label, id=self.request.id)
    time.sleep(seconds)
    end(label, id=self.request.id)
    return str(self.request.id)


@app.task(base=UniqueTask, shared=False, reserved_for=RESERVED)
def bounded(label: str) -> None:
    end(label)


@app.task(base=UniqueTask, shared=False, unique_for=WINDOW)
def kept(label: str, seconds: float = 0.0) -> str:
    begin(label)
    time.sleep(seconds)
    end(label)
    return label


@app.task(base=UniqueTask, shared=False, throttle=WINDOW)
def throttled(label: str) -> None:
    end(label)


@app.task(base=UniqueTask, shared=False, on_duplicate="raise")
def loud(label: str) -> None:
    end(label)


@app.task(base=UniqueTask, shared=False, bind=True, default_retry_delay=1)
def retry_twice(self: Any, label: str) -> int:
    begin(label)
    if self.request.retries < 2:
        raise self.retry()
    end(label)
    return int(self.lease.attempt)


@app.task(
    base=UniqueTask,
    shared=False,
    bind=True,
    autoretry_for=(ValueError,),
    default_retry_delay=1,
)
def autoretry_twice(self: Any, label: str) -> int:
    begin(label)
    if self.request.retries < 2:
        raise ValueError(label)
    end(label)
    return int(self.lease.attempt)


@app.task(base=UniqueTask, shared=False, max_crashes=1)
def poison(label: str) -> None:
    begin(label)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(base=UniqueTask, shared=False, max_crashes=1_000)
def battered(label: str) -> None:
    begin(label)
    time.sleep(0.1)
    end(label)


@app.task(
    base=UniqueTask,
    shared=False,
    idempotency_key=("label",),
    keep_last=True,
    max_crashes=1_000,
)
def battered_last(label: str, version: int) -> None:
    begin(label, version=version)
    time.sleep(0.1)
    end(label, version=version)


@app.task(base=UniqueTask, shared=False, bind=True, idempotency_key=("label",), keep_last=True)
def keep_last(self: Any, label: str, version: int, seconds: float = 0.0, retry: int = 0) -> int:
    begin(label, version=version)
    time.sleep(seconds)
    if self.request.retries < retry:
        raise self.retry(countdown=1)
    end(label, version=version)
    return version


@app.task(
    base=UniqueTask,
    shared=False,
    idempotency_key=("label",),
    debounce=1.5,
    debounce_limit=3,
)
def debounced(label: str, version: int) -> int:
    end(label, version=version)
    return version


@app.task(base=IdempotentTask, shared=False)
def plain(*values: Any, label: str) -> str:
    end(label)
    return label


@app.task(base=IdempotentTask, shared=False)
def failing(*values: Any, label: str) -> None:
    end(label)
    raise KeyError(label)


@app.task(shared=False)
def collect(values: Any) -> list[Any]:
    """Return what came, as a plain task of Celery's."""
    return [values]


rpc_app = Celery("unique", set_as_current=False)  # its results are messages
setup(rpc_app, SETTINGS)
rpc_work = rpc_app.task(base=UniqueTask, shared=False, bind=True, name=work.name)(work.run.__func__)
rpc_app.task(base=IdempotentTask, shared=False, name=plain.name)(plain.run)


def die_before(owner: Any, name: str) -> None:
    """Let this process end where it would call something next."""

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, die)


_POINTS: dict[str, Callable[[], None]] = {
    "before publish": lambda: die_before(Producer, "publish"),
    "before confirm": lambda: die_before(RedisStore, "confirm"),
}

if DIE_VARIABLE in os.environ:
    _POINTS[os.environ[DIE_VARIABLE]]()
