"""`once`: the guard's protocol for a block of code outside Celery."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from reliable_tasks.core.durations import Seconds, to_ms
from reliable_tasks.core.keys import digest, record_key
from reliable_tasks.core.records import Busy, Finished, Granted, Outcome, Stale, State
from reliable_tasks.core.store import Store
from reliable_tasks.errors import (
    AlreadyDone,
    AlreadyRunning,
    ConfigurationError,
    LeaseLost,
    StoreUnavailable,
)
from reliable_tasks.leases import Lease, keeper
from reliable_tasks.stores.opening import open_store

__all__ = ("once",)

logger = logging.getLogger("reliable_tasks")

_fresh = random.SystemRandom()  # never repeats itself, though the caller may call random.seed()

MAX_RUN_MS = 86_400_000
NEVER_QUARANTINED = 2**31


@contextmanager
def once(
    key: str,
    *,
    store: Any,
    lease_seconds: Seconds = 30.0,
    retention: Seconds = 86_400.0,
    prefix: str = "",
) -> Iterator[Lease]:
    """
    Run a block at most once for *key*; never waits.

    ``with once("webhook:42", store="redis://localhost") as lease: ...``. The
    block is done when it ends without an error; what it assigns to
    ``lease.result`` (JSON) is what later callers get. An error frees the key.

    Args:
        key: Names what must happen once; any string that is not empty.
        store: URL of the Redis server, a `redis.Redis`, or a store.
        lease_seconds: A dead process is taken over after at most this; renewed
            while the block runs. At least 0.1.
        retention: How long a finished key answers `AlreadyDone`; 0: not at all.
        prefix: First part of the record's name, as ``reliable_tasks_prefix``.

    Raises:
        AlreadyRunning: Another process is in the block, at entry.
        AlreadyDone: The key is done; ``.result`` is what was stored, at entry.
        LeaseLost: The lease ran out before the block ended, at exit.
        StoreUnavailable: The store did not answer.
        ConfigurationError: An argument cannot work.
    """
    if not key:
        raise ConfigurationError(f"key: expected a string that is not empty, got {key!r}")
    records = open_store(store)
    lease_ms = to_ms("lease_seconds", lease_seconds, least=0.1)
    retention_ms = to_ms("retention", retention, least=0)
    name = record_key(prefix, "once", digest(key))
    job = f"{_fresh.getrandbits(62):x}"
    horizon_ms = max(retention_ms, lease_ms)
    asked_at = monotonic()
    answer = records.claim(
        name,
        delivery=job,
        job=job,
        line=0,
        lease_ms=lease_ms,
        max_crashes=NEVER_QUARANTINED,
        horizon_ms=horizon_ms,
    )
    if isinstance(answer, Finished):
        raise AlreadyDone(key, json.loads(answer.outcome) if answer.outcome else None)
    if not isinstance(answer, Granted):
        remaining_ms = answer.remaining_ms if isinstance(answer, Busy) else lease_ms
        raise AlreadyRunning(key, remaining_ms / 1_000)
    lease = Lease(
        records,
        name,
        answer.token,
        lease_ms=lease_ms,
        max_run_ms=MAX_RUN_MS,
        asked_at=asked_at,
        crashes=answer.crashes,
        horizon_ms=horizon_ms,
    )
    try:
        keeper.hold(lease)
        yield lease
    except BaseException:
        keeper.let_go(lease)
        _free(records, lease, job, horizon_ms)
        raise
    keeper.let_go(lease)
    outcome = Outcome(State.DONE, _stored_form(lease), retention_ms)
    settled = records.settle(
        name, token=lease.token, job=job, line=0, outcome=outcome, horizon_ms=horizon_ms
    )
    if isinstance(settled, Stale):
        raise LeaseLost(key, lease_ms / 1_000, lease_ms / 1_000 - lease.remaining)


def _stored_form(lease: Lease) -> bytes | None:
    try:
        return json.dumps(lease.result).encode()
    except (TypeError, ValueError, RecursionError) as error:
        logger.warning("%s is done, but its result is not kept: %s", lease.key, error)
        return None


def _free(records: Store, lease: Lease, job: str, horizon_ms: int) -> None:
    """Give the key back after an error, which must not be hidden by another."""
    try:
        records.settle(
            lease.key,
            token=lease.token,
            job=job,
            line=0,
            outcome=Outcome(State.IDLE),
            horizon_ms=horizon_ms,
        )
    except StoreUnavailable as error:
        logger.warning("%s stays taken until its lease ends: %s", lease.key, error)
