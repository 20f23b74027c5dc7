"""Jobs longer than the visibility timeout on real workers, in short; `tests/chaos` has the rest."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from reliable_tasks.broker import unacked
from reliable_tasks.broker.unacked import UnackedIndex
from reliable_tasks.testing import Ledger, eventually, silent_server, valkey_server
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


def test_a_connection_that_is_cut_repeats_nothing(pair):
    """What runs on stays with its worker, which acknowledges it by its new connection."""
    pair.send_to_all("work", LONG, name="cut")
    eventually(lambda: len(pair.begins("cut")) == len(QUEUES))
    with pair.database.client() as client:
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind)
    pair.wait_done(len(QUEUES), "cut")

    eventually(lambda: pair.silences() == [], message="all is acknowledged")
    assert set(pair.begins("cut").values()) == {1}
    assert all(each.is_running for each in pair.workers)


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


@pytest.mark.hooks
class TestIndex:
    """The connection of its own, through kombu's client."""

    def test_what_is_gone_stays_gone(self, valkey, opened):
        """Thousands of tags in one go; none is added, and other teams' keys are not touched."""
        valkey.ensure_running()
        database = valkey.new_database()
        index = opened(database.url, visibility_timeout=7, global_keyprefix="team:")
        held = {f"tag {number}": 1.0 for number in range(2_500)}
        with database.client() as client:
            client.zadd("team:unacked_index", held)
            client.zadd("unacked_index", held)
            index.refresh([*held, "gone"])
            found = dict(client.zrange("team:unacked_index", 0, -1, withscores=True))
            others = dict(client.zrange("unacked_index", 0, -1, withscores=True))

        assert index.visibility_timeout() == 7
        assert len(found) == len(held)
        assert min(found.values()) == pytest.approx(time.time(), abs=MARGIN)
        assert set(others.values()) == {1.0}

    def test_another_host(self, valkey, opened):
        """Where the broker is several hosts, the first that answers is taken."""
        valkey.ensure_running()

        index = opened(f"redis://127.0.0.1:1/0;{valkey.new_database().url}")

        assert index.visibility_timeout() == 3_600

    def test_a_server_that_was_restarted(self, opened):
        """A connection that was cut is opened anew, by redis-py or after `close`."""
        with valkey_server() as server:
            index = opened(server.url)
            index.refresh(["tag"])
            server.kill()
            with pytest.raises(Exception, match="refused"):
                index.refresh(["tag"])
            index.close()
            server.restart()

            index.refresh(["tag"])

    def test_the_acl_page_names_its_rights(self, opened):
        """They are enough, and kombu needs them anyway."""
        page = (Path(__file__).parents[2] / "docs" / "reference" / "acl.md").read_text()
        section = page.partition("## The visibility heartbeat")[2]
        [rights] = re.findall(r"```text\n(.*)\n```", section)[:1]
        with valkey_server(acl=["user default off", f"user beat on >secret {rights}"]) as server:
            index = opened(server.url_for(1, username="beat", password="secret"))

            index.refresh(["tag"])

    def test_a_silent_broker(self, opened, monkeypatch):
        """It holds the thread for a few seconds, not for ever."""
        monkeypatch.setattr(unacked, "SOCKET_TIMEOUT", 0.2)
        with silent_server() as url:
            index = opened(url)
            begun = time.monotonic()
            with pytest.raises(OperationalError):
                index.refresh(["tag"])

            assert time.monotonic() - begun < MARGIN

    @pytest.fixture
    def opened(self) -> Iterator[Callable[..., UnackedIndex]]:
        """Open indexes, and close them after the test."""
        with ExitStack() as stack:

            def opened(url: str, **options: Any) -> UnackedIndex:
                app = Celery("index", broker=url, set_as_current=False)
                app.conf.broker_transport_options = options
                index = UnackedIndex(app)
                stack.callback(index.close)
                return index

            yield opened
