"""
What the guard costs: one run of `python -m tests.bench.guard URL [plain]` prints JSON.

Everything goes through Celery's own tracer, on an app whose broker is the server. Each figure is a
traced task less a traced task that does nothing. ``plain`` hides hiredis from redis-py.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from itertools import count
from random import getrandbits
from typing import Any
from uuid import uuid4

if __name__ == "__main__" and "plain" in sys.argv:
    sys.modules["hiredis"] = None  # type: ignore[assignment]

import redis
from celery import Celery
from celery.app.trace import build_tracer

from reliable_tasks import IdempotentTask
from tests.bench.rounds import Cost, Thing, measure

__all__ = ("run",)

ROUNDS, CALLS = 120, 60
LEASE = 30  # seconds; also how long the lock may be held


def run(url: str) -> dict[str, Cost]:
    """Return what the guard, a lock and a PING add to a task that does nothing."""
    app = Celery("bench", broker=url, backend=url, set_as_current=False)
    app.conf.task_ignore_result = True
    client = redis.Redis.from_url(url)

    @app.task(name="bench.nothing")
    def nothing(order: int) -> None:
        """Do nothing."""

    @app.task(name="bench.message", base=IdempotentTask, lease_seconds=LEASE)
    def message(order: int) -> None:
        """Do nothing, once a message."""

    @app.task(
        name="bench.key", base=IdempotentTask, lease_seconds=LEASE, idempotency_key=("order",)
    )
    def key(order: int) -> None:
        """Do nothing, once an order."""

    @app.task(name="bench.lock")
    def lock(order: int) -> None:
        """Do nothing, under redis-py's lock."""
        held = client.lock(f"lock:{order}", timeout=LEASE)
        held.acquire()
        held.release()

    @app.task(name="bench.ping")
    def ping(order: int) -> None:
        """Ask the server for nothing."""
        client.ping()

    app.finalize()
    numbers = count(getrandbits(48))  # keys that no earlier run has used
    things = {
        task.name.removeprefix("bench."): _delivery(app, task, numbers)
        for task in (nothing, message, key, lock, ping)
    }
    costs = measure(things, rounds=ROUNDS, calls=CALLS)
    nothing_at_all = costs.pop("nothing")
    return {name: cost - nothing_at_all for name, cost in costs.items()}


def _delivery(app: Celery, task: Any, numbers: count[int]) -> Thing:
    """Return what runs new messages of *task* as a worker's pool does."""
    trace = build_tracer(task.name, task, app=app, hostname="bench@here")
    is_guarded = isinstance(task, IdempotentTask)

    def prepare() -> tuple[str, list[int], dict[str, Any]]:
        task_id, args = str(uuid4()), [next(numbers)]
        # A message from a producer that does not know the task has no header: its key is derived
        # by the worker, which is the most that a key can cost there.
        headers = None if not is_guarded or task.guard_options.idempotency_key else task._stamped(
            args, {}, task_id, None, None, {}
        )  # fmt: skip
        return task_id, args, _request(task, task_id, args, headers)

    return Thing(prepare, lambda message: trace(message[0], message[1], {}, message[2]))


def _request(
    task: Any, task_id: str, args: list[int], headers: dict[str, Any] | None
) -> dict[str, Any]:
    """Return a request as the worker builds it from a message of protocol 2."""
    return {
        "lang": "py", "task": task.name, "id": task_id, "shadow": None, "eta": None,
        "expires": None, "group": None, "group_index": None, "retries": 0,
        "timelimit": [None, None], "root_id": task_id, "parent_id": None,
        "argsrepr": repr(args), "kwargsrepr": "{}", "origin": "gen1@here", "ignore_result": True,
        "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
        "properties": {"correlation_id": task_id, "delivery_tag": task_id, "reply_to": task_id},
        "reply_to": task_id, "correlation_id": task_id, "hostname": "bench@here",
        "delivery_info": {
            "exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False
        },
        "headers": headers, "args": args, "kwargs": {}, "callbacks": None, "errbacks": None,
        "chain": None, "chord": None, "is_eager": False, "called_directly": False,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({name: asdict(cost) for name, cost in run(sys.argv[1]).items()}))
