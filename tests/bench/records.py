"""What records cost the server: bytes of a done one, and time to renew very many leases."""

from __future__ import annotations

from collections.abc import Iterator
from random import getrandbits
from statistics import median
from time import perf_counter
from typing import Any
from uuid import uuid4

from reliable_tasks.core.keys import digest, message_key, record_key
from reliable_tasks.core.records import Granted, Outcome, State
from reliable_tasks.leases import Lease, LeaseKeeper
from reliable_tasks.testing import Database
from tests.bench.report import Figure
from tests.stores import redis_store

__all__ = ("memory", "renewal")

HOUR_MS = 3_600_000
HORIZON_MS = 6 * HOUR_MS
TASK = "shop.charge"
RESULT = b"x" * 32
LEASES = 10_000
ROUNDS = 11


def memory(database: Database, where: str) -> Iterator[Figure]:
    """Yield the bytes of a done record whose identity is its message, and of one with a key."""
    job = str(uuid4())
    keys = {
        "message": message_key("", TASK, job),
        "key": record_key("", TASK, digest("order 1")),
    }
    with redis_store(database) as store, database.client() as client:
        for identity, key in keys.items():
            token = _claim(store, key, job)
            outcome = Outcome(State.DONE, RESULT, 24 * HOUR_MS)
            store.settle(key, token=token, job=job, line=0, outcome=outcome, horizon_ms=HORIZON_MS)
            what = f"a done record with a result of 32 bytes, by {identity}"
            yield Figure(what, where, client.memory_usage(key), "bytes", at_most=250)


def renewal(database: Database, where: str) -> Iterator[Figure]:
    """Yield the time of one renewal of 10,000 leases, and of its longest command."""
    keeper = LeaseKeeper()
    with redis_store(database) as store, database.client() as client:
        for number in range(LEASES):
            key = message_key("", TASK, str(number))
            token = _claim(store, key, str(number))
            terms = {"lease_ms": HOUR_MS, "horizon_ms": HORIZON_MS, "max_run_ms": HOUR_MS}
            keeper.hold(Lease(store, key, token, **terms))
        client.config_set("slowlog-log-slower-than", 100)
        client.config_set("slowlog-max-len", 1_000)
        keeper.renew_all()  # loads the script
        rounds = [_renew(client, keeper) for _ in range(ROUNDS)]
    taken, longest = (median(each) for each in zip(*rounds, strict=True))
    yield Figure("10,000 leases renewed", where, taken, "ms", at_most=150)
    yield Figure("the longest command of that", where, longest, "ms", at_most=10)


def _renew(client: Any, keeper: LeaseKeeper) -> tuple[float, float]:
    client.slowlog_reset()
    started = perf_counter()
    if not keeper.renew_all():
        raise RuntimeError("the leases were not renewed")
    taken = (perf_counter() - started) * 1e3
    longest = max((entry["duration"] for entry in client.slowlog_get(1_000)), default=0)
    return taken, longest / 1e3


def _claim(store: Any, key: str, job: str) -> int:
    answer = store.claim(
        key,
        delivery=str(getrandbits(62)),
        job=job,
        line=0,
        lease_ms=HOUR_MS,
        horizon_ms=HORIZON_MS,
        max_crashes=3,
    )
    if not isinstance(answer, Granted):
        raise TypeError(f"expected a lease, got {answer!r}")
    return answer.token
