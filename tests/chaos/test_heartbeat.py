"""Jobs far longer than the visibility timeout, in every pool, under faults."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from celery import Celery

from reliable_tasks.broker.unacked import UnackedIndex
from reliable_tasks.testing import Ledger, Sentinels, eventually, valkey_binary, valkey_server
from tests.integration.apps.holding import QUEUES
from tests.integration.holders import SWEEP, holders

TIMEOUT = 5  # seconds
LONG = 20.0
MARGIN = 15.0  # for a busy machine


def test_each_runs_once(database, server, ledger, tmp_path):
    """Jobs and countdowns of 20 s over a timeout of 5 s in four queues; plain Celery repeats."""
    given = {"timeout": TIMEOUT}
    without = {"heartbeat": False, **given}
    plain_ledger = Ledger(tmp_path / "plain")
    with (
        holders(database, ledger, ["prefork", "threads"], **given) as pair,
        holders(server.new_database(), plain_ledger, ["threads"] * 2, **without) as plain,
    ):
        for each in (plain, pair):
            each.send_to_all("work", 0.1, name="later", countdown=LONG)
            each.send_to_all("work", LONG, name="job")
        pair.wait_done(2 * len(QUEUES), "job", "later")
        eventually(lambda: pair.silences() == [], message="all is acknowledged")
        time.sleep(TIMEOUT + SWEEP)  # a copy would begin now

        assert set(pair.begins("job", "later").values()) == {1}
        assert min(plain.begins("job").values()) >= 3
        assert min(plain.begins("later").values()) >= 3


def test_thousands_wait(valkey, ledger):
    """5,000 countdowns in one worker stay young for 2 % of a core, all told, and run once."""
    valkey.ensure_running()
    count, begun = 5_000, time.time()
    with holders(valkey.new_database(), ledger, ["threads"], timeout=TIMEOUT) as alone:
        for number in range(count):
            left = 45 - (time.time() - begun)
            alone.send("work", f"later {number}", 0.0, countdown=left)
        with alone.database.client() as client:
            eventually(lambda: client.hlen("unacked") == count, timeout=60)
        [worker] = alone.workers
        spent, since = seconds_of(worker.pid), time.monotonic()
        longest = 0.0
        while time.monotonic() - since < 2 * TIMEOUT:
            longest = max(longest, *alone.silences())
            time.sleep(0.5)
        share = (seconds_of(worker.pid) - spent) / (time.monotonic() - since)
        alone.wait_done(count, "later")

    assert longest < TIMEOUT
    assert share < 0.02
    assert set(alone.begins("later").values()) == {1}


def seconds_of(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("pool", ["solo", "gevent", "eventlet"])
def test_every_pool_holds(valkey, ledger, pool):
    """A job and a countdown longer than the timeout, beside a worker that would take them."""
    valkey.ensure_running()
    with holders(valkey.new_database(), ledger, [pool, "threads"], timeout=2) as pair:
        with pair.only(pair.workers[0], QUEUES[0]):
            pair.send("work", "later", 0.1, countdown=10)
            pair.send("work", "job", 8)
            pair.wait_begun("job")
        pair.wait_done(2, "later", "job")

        eventually(lambda: pair.silences() == [], message="all is acknowledged")
        assert pair.begins("later", "job") == {"later": 1, "job": 1}


def test_the_jobs_of_killed_workers_run_elsewhere(database, ledger):
    """What ran, and what waited for its time, comes back after the timeout and one look."""
    with holders(database, ledger, ["prefork", "threads"], timeout=TIMEOUT) as pair:
        for holder in pair.workers:
            name = f"orphan {holder.pid}"
            with pair.only(holder, QUEUES[0]):
                pair.send("work", f"{name} later", 0.1, countdown=12)
                pair.send("work", name, LONG)
                pair.wait_begun(name)
                eventually(lambda: f"[{name} later] received" in holder.log)  # noqa: B023
            holder.kill()
            killed_at = time.time()
            second = pair.wait_begun(name, 2)
            assert pair.holder_of(second) is not holder
            assert second.at - killed_at < TIMEOUT + SWEEP + MARGIN
            pair.wait_done(2, name)
            assert pair.begins(f"{name} later") == {f"{name} later": 1}
            holder.restart()


def test_a_warm_shutdown_keeps_what_it_waits_for(valkey, ledger):
    """The loop has ended, the job has not: nobody else gets it, and its worker ends after it."""
    valkey.ensure_running()
    with holders(valkey.new_database(), ledger, ["prefork", "threads"], timeout=2) as pair:
        pair.send("work", "last", 10)
        holder = pair.holder_of(pair.wait_begun("last"))

        holder.terminate()

        assert pair.begins("last") == pair.effects("last") == {"last": 1}
        assert "[last] succeeded" in holder.log


def test_a_job_is_held_until_its_time_is_over(valkey, ledger):
    """One that hangs goes to another worker after its max_run, and takes effect there."""
    valkey.ensure_running()
    with holders(valkey.new_database(), ledger, ["prefork", "threads"], timeout=2) as pair:
        pair.send("hung_work", "hung", 60)
        first = pair.wait_begun("hung")

        second = pair.wait_begun("hung", 2)

        assert second.at - first.at > 3
        assert "[hung] runs past its time limit" in pair.holder_of(first).log
        pair.wait_done(1, "hung")


def test_a_wedged_worker_holds_nothing(valkey, ledger):
    """Its main loop stands still, though not its thread: its jobs go to others."""
    valkey.ensure_running()
    given = {"timeout": 2, "patience": 3}
    with holders(valkey.new_database(), ledger, ["prefork", "threads"], **given) as pair:
        prefork, threads = pair.workers
        with pair.only(prefork, QUEUES[0]):
            pair.send("work", "running", 30)
            pair.send("work", "later", 0.1, countdown=1)
            pair.wait_begun("running")
            pair.app.control.broadcast("wedge", {"seconds": 60}, destination=[prefork.name])

        assert pair.holder_of(pair.wait_begun("running", 2)) is threads
        assert "has not turned" in prefork.log
        pair.wait_done(1, "later")


@pytest.mark.parametrize("pools", [["prefork", "threads"], ["gevent", "solo"]])
def test_a_broker_restart_in_the_middle(ledger, pools):
    """Jobs that run through it take effect once, leave nothing behind, and end no worker."""
    with (
        valkey_server(appendonly=True) as server,
        holders(server.new_database(), ledger, pools, timeout=TIMEOUT) as pair,
    ):
        for number in range(4):
            pair.send("guarded_work", f"job {number}", LONG, queue=QUEUES[number])
            pair.send("guarded_work", f"later {number}", 0.1, countdown=LONG)
        with pair.database.client() as client:  # what kombu has not noted is lost with the server
            eventually(lambda: client.hlen("unacked") == 8, message="all is noted as taken")
        eventually(lambda: pair.begins("job"))
        server.kill()
        server.restart()

        pair.wait_done(8, "job", "later")
        eventually(lambda: pair.silences() == [], timeout=60, message="all is acknowledged")
        assert set(pair.effects("job", "later").values()) == {1}
        assert all(each.is_running for each in pair.workers)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_job_that_ends_while_the_broker_is_away(ledger, pool):
    """It is acknowledged when the broker is back, by the worker's new connection."""
    with (
        valkey_server(appendonly=True) as server,
        holders(server.new_database(), ledger, [pool], timeout=60) as alone,
    ):
        alone.send("work", "job", 3)
        alone.wait_begun("job")
        server.kill()
        alone.wait_done(1, "job")
        server.restart()

        eventually(lambda: alone.silences() == [], message="it is acknowledged")
        assert alone.begins("job") == {"job": 1}
        assert alone.workers[0].is_running


def test_the_index_follows_a_failover():
    """Behind Sentinel the primary changes; within a few tries the beat reaches the new one."""
    with Sentinels(valkey_binary()) as group:
        app = Celery("index", broker=group.url, set_as_current=False)
        app.conf.broker_transport_options = {"master_name": group.name}
        index = UnackedIndex(app)
        index.refresh(["tag"])
        group.primary.kill()
        eventually(lambda: group.primary_port() == group.replica.port)
        group.replica.client().zadd("unacked_index", {"tag": 1.0})

        def is_refreshed() -> bool:
            try:
                index.refresh(["tag"])
            except Exception:
                index.close()
            return group.replica.client().zscore("unacked_index", "tag") > 1.0

        eventually(is_refreshed)
        index.close()
