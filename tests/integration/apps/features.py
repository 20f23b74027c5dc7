"""The tasks of `flows`, and one for each feature of Celery that could get in the guard's way."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Task, chain, chord, group
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.signals import worker_ready
from pydantic import BaseModel

from reliable_tasks import IdempotentTask
from reliable_tasks.testing import Ledger
from tests.integration.apps.flows import app, step

app.conf.worker_soft_shutdown_timeout = float(os.environ.get("SOFT_SHUTDOWN", "0"))
if "FLOWS_STORE" in os.environ:
    app.conf.reliable_tasks_store_url = os.environ["FLOWS_STORE"]


@worker_ready.connect
def look_away(sender: Any, **_: Any) -> None:
    """Have the worker's loop hear nothing for a while after it has handed a job to a process."""
    seconds = float(os.environ.get("LOOK_AWAY", "0"))
    if not seconds:
        return
    hand, pool = sender.hub.consolidate_callback, sender.pool._pool

    def hand_and_look_away(descriptors: Any) -> None:
        before = pool.write_stats.total()
        hand(descriptors)
        if pool.write_stats.total() > before:
            time.sleep(seconds)

    sender.hub.consolidate_callback = hand_and_look_away


def begin(label: str, **details: Any) -> None:
    """Note that a body has begun."""
    Ledger.from_environment().write("begun", label, **details)


def effect(label: str, **details: Any) -> None:
    """Take effect."""
    Ledger.from_environment().effect(label, **details)


# --- retries ------------------------------------------------------------------------------


@app.task(base=IdempotentTask, shared=False, bind=True, default_retry_delay=0.1)
def retry_twice(self: Any, *, label: str) -> int:
    begin(label)
    if self.request.retries < 2:
        raise self.retry()
    effect(label)
    return int(self.lease.attempt)


@app.task(
    base=IdempotentTask,
    shared=False,
    bind=True,
    autoretry_for=(ValueError,),
    default_retry_delay=0.1,
)
def autoretry_twice(self: Any, *, label: str) -> int:
    begin(label)
    if self.request.retries < 2:
        raise ValueError(label)
    effect(label)
    return int(self.lease.attempt)


@app.task(base=IdempotentTask, shared=False, bind=True, default_retry_delay=0.1)
def retry_quietly(self: Any, *, label: str) -> str:
    begin(label)
    if self.request.retries == 0:
        self.retry(throw=False)
        return "what a job that goes on elsewhere returns"
    effect(label)
    return "the result"


@app.task(base=IdempotentTask, shared=False, bind=True, max_retries=1, default_retry_delay=0.1)
def retry_too_often(self: Any, *, label: str) -> None:
    begin(label)
    raise self.retry(exc=ValueError(label))


# --- ends of its own ----------------------------------------------------------------------


@app.task(base=IdempotentTask, shared=False)
def ignore(*, label: str) -> None:
    begin(label)
    raise Ignore


@app.task(base=IdempotentTask, shared=False)
def reject_once(*, label: str, requeue: bool) -> str:
    begin(label)
    if Ledger.from_environment().counts("begun")[label] == 1:
        raise Reject("not now", requeue=requeue)
    effect(label)
    return "later"


@app.task(base=IdempotentTask, shared=False, soft_time_limit=1)
def stop_softly(*, label: str) -> str:
    begin(label)
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        effect(label)
    return "stopped"


@app.task(base=IdempotentTask, shared=False, soft_time_limit=3)
def end_near_the_limit(*, label: str, order: str, seconds: float) -> str:
    begin(label)
    time.sleep(seconds)
    effect(label)
    return label


@app.task(base=IdempotentTask, shared=False, time_limit=1, idempotency_key=("order",))
def hang(*, label: str, order: str, seconds: float = 60) -> str:
    begin(label)
    time.sleep(seconds)
    effect(label)
    return label


@app.task(base=IdempotentTask, shared=False, idempotency_key=("order",), bind=True)
def work(self: Any, *, label: str, order: str, seconds: float = 0) -> str:
    begin(label)
    time.sleep(seconds)
    effect(label, crashes=self.lease.crashes)
    return label


@app.task(base=IdempotentTask, shared=False, lease_seconds=1)
def outlast_the_lease(*, label: str) -> str:
    begin(label)
    time.sleep(3)
    effect(label)
    return label


# --- ways to write a task -----------------------------------------------------------------


@app.task(base=IdempotentTask, shared=False, bind=True)
def call_itself(self: Any, *, label: str, depth: int = 3) -> list[int]:
    if depth:
        return [*self(label=label, depth=depth - 1), int(self.lease.token)]
    effect(label)
    return [int(self.lease.token)]


class Order(BaseModel):
    """What an order looks like."""

    number: str


class Receipt(BaseModel):
    """What is answered."""

    order: Order


@app.task(base=IdempotentTask, shared=False, pydantic=True, idempotency_key=("order",))
def pay(order: Order, *, label: str) -> dict[str, Any]:
    effect(label)
    return Receipt(order=order).model_dump()  # Celery 5.5 dumps no model that a text annotates


@app.task(base=IdempotentTask, shared=False, typing=False)
def untyped(*, label: str) -> None:
    effect(label)


@app.task(base=IdempotentTask, shared=False, ignore_result=True)
def forgetful(*, label: str) -> str:
    effect(label)
    return label


class Before:
    """A mixin that sees each delivery."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        begin(kwargs["label"], by="before")
        return super().__call__(*args, **kwargs)  # type: ignore[misc]


class After(Task):
    """A base that sees what the guard lets through."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        begin(kwargs["label"], by="after")
        return super().__call__(*args, **kwargs)


class Mixed(Before, IdempotentTask, After):
    """The guard between the two."""

    abstract = True


@app.task(base=Mixed, shared=False, bind=True)
def mixed(self: Any, *, label: str) -> int:
    effect(label)
    return int(self.lease.attempt)


class ByClass(IdempotentTask):
    """A task that is a class with `run`."""

    name = "by_class"
    idempotency_key = ("order",)

    def run(self, *, label: str, order: str) -> str:
        effect(label)
        return f"{order} {self.lease.attempt}"


class Inherited(ByClass):
    """A task that is a class of a class."""

    name = "inherited"


by_class = app.register_task(ByClass())
inherited = app.register_task(Inherited())


@app.task(base=IdempotentTask, shared=False, bind=True, default_retry_delay=0.1)
def replace(self: Any, *values: Any, label: str, how: str) -> str:
    """Take the place of this task in one of several ways."""
    begin(label, how=how)
    itself = self.s(label=label, how="itself")
    if how == "itself":
        effect(label)
        return f"itself({','.join(map(str, values))})"
    if how == "by itself after a retry" and self.request.retries == 0:
        raise self.retry()
    raise self.replace({
        "by itself": itself,
        "by itself after a retry": itself,
        "by another": step.s(label=label),
        "by a chain": chain(step.s(label=f"{label}.a"), step.s(label=label)),
        "by a chain that ends in itself": chain(step.s(label=f"{label}.a"), itself),
        "by a chord with itself": chord([step.s(label=f"{label}.a")], itself),
        "by a group": group(step.s(label=label)),
    }[how])  # fmt: skip
