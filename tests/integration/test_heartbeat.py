"""Jobs longer than the visibility timeout on real workers, in short; `tests/chaos` has the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from reliable_tasks.testing import Ledger, eventually
from tests.integration.apps.holding import QUEUES
from tests.integration.holders import SWEEP, Holders, holders

TIMEOUT = 2  # seconds
LONG = 7.0
MARGIN = 20.0  # for a busy machine


@pytest.fixture(scope="module")
def pair(valkey, tmp_path_factory) -> Iterator[Holders]:
    """A prefork and a threads worker with the heartbeat, for all tests here."""
    valkey.ensure_running()
    ledger = Ledger(tmp_path_factory.mktemp("pair") / "ledger")
    with holders(valkey.new_database(), ledger, ["prefork", "threads"], timeout=TIMEOUT) as pair:
        yield pair


def test_each_runs_once(pair, valkey, ledger):
    """Four queues, a job and a countdown longer than the timeout in each; plain Celery repeats."""
    given = {"timeout": TIMEOUT, "heartbeat": False}
    with holders(valkey.new_database(), ledger, ["threads"], **given) as plain:
        for each in (plain, pair):
            each.send_to_all("work", 0.1, name="later", countdown=LONG)
            each.send_to_all("work", LONG, name="job")
        for name in ("job", "later"):
            plain.wait_repeated(name)
        pair.wait_done(2 * len(QUEUES), "job", "later")

    eventually(lambda: pair.silences() == [], message="all is acknowledged")
    assert set(pair.begins("job", "later").values()) == {1}


def test_the_jobs_of_a_killed_worker_run_elsewhere(pair):
    """After the timeout and the next look into the index, and no later."""
    pair.send("work", "orphan", LONG)
    holder = pair.holder_of(pair.wait_begun("orphan"))
    holder.kill()
    killed_at = time.time()

    second = pair.wait_begun("orphan", 2)

    assert pair.holder_of(second) is not holder
    assert second.at - killed_at < TIMEOUT + SWEEP + MARGIN
    holder.restart()


def test_a_paused_worker_does_not_repeat_a_guarded_job(pair):
    """Its main process stands still past the timeout: another gets the job, and waits for it."""
    prefork, threads = pair.workers
    with pair.only(prefork, QUEUES[1]):
        pair.send("guarded_work", "paused", LONG, queue=QUEUES[1])
        pair.wait_begun("paused")
    prefork.pause(prefork.pid)
    try:
        eventually(lambda: "[paused] received" in threads.log, timeout=TIMEOUT + SWEEP + MARGIN)
    finally:
        prefork.resume(prefork.pid)
    pair.wait_done(1, "paused")

    eventually(lambda: pair.silences() == [], message="all is acknowledged")
    assert pair.begins("paused") == pair.effects("paused") == {"paused": 1}


@pytest.mark.hooks
def test_what_is_held_stays_young(valkey, ledger):
    """What runs, what was fetched ahead and what waits, under the prefix of this team's keys."""
    valkey.ensure_running()
    given = {"timeout": TIMEOUT, "keyprefix": "team:", "prefetch": 2}
    with holders(valkey.new_database(), ledger, ["solo"], **given) as alone:
        alone.send("work", "later", 0.1, countdown=2 * TIMEOUT)
        alone.send("work", "running", 2 * TIMEOUT)
        alone.wait_begun("running")
        alone.send("work", "ahead", 0.1)
        longest = 0.0
        while not alone.effects("running"):
            longest = max(longest, *alone.silences())
            time.sleep(0.05)
        alone.wait_done(3, "later", "running", "ahead")
        with alone.database.client() as client:
            assert client.keys("unacked*") == []

    assert 0 < longest < TIMEOUT
