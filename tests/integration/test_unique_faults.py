"""Unique tasks of many producers while pool children die: no call is lost, no two runs overlap."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise, repeat
from typing import Any

import pytest

from reliable_tasks.testing import WorkerFailed, WorkerProcess, eventually
from tests.integration.apps.unique import battered, battered_last, work
from tests.integration.uniting import APP, TIMEOUT, Unique, answer

KEYS = 2  # of each task


def storm(
    united: Unique, queue: str, keys: dict[str, Callable[[str, int], Any]], seconds: float
) -> dict[str, float]:
    """Call each key in its way without pause while children die; returns when each was last."""

    def produce(key: str, until: float) -> float:
        version = 0
        while time.monotonic() < until:
            called = time.time()
            keys[key](key, version)
            version += 1
            time.sleep(random.uniform(0, 0.1))
        return called

    with (
        WorkerProcess(APP, queues=[queue], concurrency=3, env=united.env) as worker,
        ThreadPoolExecutor(len(keys)) as pool,
    ):
        until = time.monotonic() + seconds
        last_calls = pool.map(produce, keys, repeat(until))
        while time.monotonic() < until:
            time.sleep(random.uniform(0.3, 0.9))
            with suppress(WorkerFailed):  # all are dead already
                worker.kill_child()
        called = dict(zip(keys, last_calls, strict=True))
        united.drained(queue)
    return called


def no_two_at_once(united: Unique, key: str) -> None:
    """Whatever took effect had begun right before, in the same process."""
    entries = [each for each in united.ledger.entries() if each.job == key]
    for before, entry in pairwise(entries):
        if entry.kind == "effect":
            assert (before.kind, before.pid) == ("begun", entry.pid)


@pytest.mark.parametrize("seconds", [5.0, pytest.param(20.0, marks=pytest.mark.chaos)])
def test_storm(united: Unique, label: str, seconds: float) -> None:
    """A run ended after the last call of each key, with its arguments where they count."""
    last: dict[str, int] = {}

    def call(key: str, version: int) -> None:
        battered.apply_async((key,), queue=label)

    def call_with_version(key: str, version: int) -> None:
        last[key] = version
        battered_last.apply_async((key, version), queue=label)

    keys = {
        **dict.fromkeys((f"{label}-any-{number}" for number in range(KEYS)), call),
        **dict.fromkeys((f"{label}-last-{number}" for number in range(KEYS)), call_with_version),
    }
    for key, called in storm(united, label, keys, seconds).items():
        effects = [each for each in united.ledger.entries("effect") if each.job == key]
        assert effects[-1].at > called
        no_two_at_once(united, key)
        if key in last:
            assert effects[-1].details["version"] == last[key]


def test_worker_is_killed(united: Unique, label: str) -> None:
    """After the lease of a dead worker a new call runs, and its job's copy beside it never."""
    with WorkerProcess(APP, queues=[label], concurrency=1, env=united.env) as other:
        first = work.apply_async((label, 3.0), queue=label)
        united.began(label)
        other.kill()
    killed = time.monotonic()

    result = eventually(lambda: _fresh(label), timeout=TIMEOUT)

    assert time.monotonic() - killed < 4
    united.began(label, 2)
    united.read(label)
    assert answer(result) == result.id
    answer(first)
    united.drained(label)
    kinds = [each.kind for each in united.ledger.entries() if each.job == label]
    assert kinds == ["begun", "begun", "effect"]


def _fresh(label: str) -> Any:
    """The result of a call that is no duplicate, or nothing."""
    result = work.delay(label, 3.0)
    return None if result.duplicate else result
