"""Sentinel and Redis Cluster: the contract on real groups of servers, and failovers at work."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult

from reliable_tasks.core.records import Granted
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.stores.redis import RedisStore
from reliable_tasks.testing import (
    Cluster,
    Ledger,
    LimiterContract,
    Sentinels,
    Server,
    StoreContract,
    close_app,
    eventually,
    redis_binary,
    valkey_binary,
)
from reliable_tasks.testing.contract import Plant
from reliable_tasks.testing.fixtures import StartWorker
from tests.integration.apps.places import SETTINGS_VARIABLE
from tests.integration.places import claim, closing, key_of, one_life, settle

JOBS = 100
SECONDS = 0.05  # of work in each job


@pytest.fixture(scope="module", params=["valkey", "redis_server"])
def binary(request: pytest.FixtureRequest) -> Any:
    """Valkey, then Redis; the session's own servers tell whether they are there."""
    request.getfixturevalue(request.param)
    return valkey_binary() if request.param == "valkey" else redis_binary()


@pytest.fixture(scope="module")
def steady_cluster(binary: Any) -> Iterator[Cluster]:
    """Three masters that nobody disturbs."""
    with Cluster(binary) as group:
        yield group


@pytest.fixture
def cluster(binary: Any) -> Iterator[Cluster]:
    """Three masters of a test's own."""
    with Cluster(binary) as group:
        yield group


@pytest.fixture
def sentinels(binary: Any) -> Iterator[Sentinels]:
    """A primary, a replica and three sentinels of a test's own."""
    with Sentinels(binary) as group:
        yield group


def in_cluster(cluster: Cluster) -> str:
    return cluster.url.replace("redis:", "redis+cluster:")


class TestCluster(StoreContract, LimiterContract):
    """A cluster of three masters keeps the contract."""

    @pytest.fixture
    def store(self, steady_cluster: Cluster) -> Iterator[RedisStore]:
        with closing(RedisStore.from_url(in_cluster(steady_cluster), timeout=10)) as store:
            yield store

    @pytest.fixture
    def plant(self, steady_cluster: Cluster) -> Iterator[Plant]:
        with steady_cluster.client() as client:
            yield lambda key, state: client.hset(key, "s", state)


# --- failovers at work --------------------------------------------------------------------


class Work:
    """Jobs on a real worker whose store is elsewhere than its broker."""

    def __init__(
        self, broker: Server, ledger: Ledger, start: StartWorker, store: dict[str, Any]
    ) -> None:
        url = broker.new_database().url
        self.settings = {"broker_url": url, "result_backend": url, **store}
        self.ledger = ledger
        self.worker = start(
            "tests.integration.apps.places",
            concurrency=2,
            env={SETTINGS_VARIABLE: json.dumps(self.settings)},
        )
        self.app = Celery("publisher", set_as_current=False)
        self.app.conf.update(self.settings)
        self.jobs = [f"job-{number}" for number in range(JOBS)]
        self.results: list[AsyncResult[Any]] = []

    def publish(self) -> None:
        """Publish all jobs."""
        for job in self.jobs:
            self.results.append(self.app.send_task("places.work", (job, SECONDS), task_id=job))

    def wait_for(self, effects: int) -> None:
        """Wait until so many jobs have taken effect."""
        eventually(lambda: sum(self.ledger.counts().values()) >= effects, timeout=90)

    def wait_for_all(self) -> None:
        """Wait until each job has its result: nothing hangs, nothing is lost."""
        left = eventually(lambda: self._ready() == JOBS, timeout=150, message=self._missing)
        assert left
        assert [result.get(timeout=10) for result in self.results] == self.jobs

    def _ready(self) -> int:
        return sum(result.ready() for result in self.results)

    def _missing(self) -> str:
        return f"without result: {[each.id for each in self.results if not each.ready()]}"

    def lost(self) -> list[str]:
        """Return the jobs that took no effect."""
        return [job for job in self.jobs if not self.ledger.counts()[job]]

    def doubled(self) -> list[str]:
        """Return the jobs that took effect more than once."""
        return [job for job in self.jobs if self.ledger.counts()[job] > 1]


@pytest.fixture
def working(
    valkey: Server, ledger: Ledger, worker: StartWorker
) -> Iterator[Callable[[dict[str, Any]], Work]]:
    """Start a worker whose store is given by settings."""
    started: list[Work] = []

    def start(store: dict[str, Any]) -> Work:
        started.append(Work(valkey, ledger, worker, store))
        started[-1].publish()
        return started[-1]

    yield start
    for work in started:
        close_app(work.app)


def through(sentinels: Sentinels) -> dict[str, Any]:
    return {"reliable_tasks_store_url": f"{sentinels.url}/1?master_name={sentinels.name}"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_sentinel_failover_amid_jobs(fault, sentinels, working):
    """The primary dies or freezes among 100 jobs: none is lost, none hangs, none runs twice."""
    work = working(through(sentinels))
    work.wait_for(JOBS // 4)
    former = sentinels.primary
    getattr(former, fault)()
    eventually(lambda: sentinels.primary_port() == sentinels.replica.port, timeout=60)
    former.ensure_running()
    work.wait_for_all()

    assert work.lost() == []
    # No copy of a job was about, and a lease outlives the failover: what it may forget is not met.
    assert work.doubled() == []


@pytest.mark.timeout(300)
def test_a_master_of_the_cluster_dies_amid_jobs(cluster, working):
    """A node is killed and comes back with its file: its jobs wait, and all take effect once."""
    work = working({"reliable_tasks_store_url": in_cluster(cluster)})
    work.wait_for(JOBS // 4)
    cluster.nodes[0].kill()
    eventually(lambda: "did not answer" in work.worker.log or work._ready() == JOBS, timeout=60)
    cluster.nodes[0].start()
    work.wait_for_all()

    assert work.lost() == []
    assert work.doubled() == []


# --- what the store does ------------------------------------------------------------------


def test_all_threads_follow_a_failover(sentinels):
    """Once the former primary knows that it is a replica, nobody keeps talking to it."""
    store = RedisStore.from_url(sentinels.url, master_name=sentinels.name, timeout=1)
    with closing(store):
        former = sentinels.primary
        crowd(store, "before")
        former.pause()
        eventually(lambda: sentinels.primary_port() == sentinels.replica.port, timeout=60)
        former.resume()
        # Until a sentinel tells it, it takes writes that are lost then: Sentinel's own window.
        eventually(lambda: former.client().role()[0] in {b"slave", "slave"}, timeout=60)
        eventually(lambda: answers(lambda: claim(store, "follow")), timeout=60)
        crowd(store, "after")

        assert store._channel._address == ("127.0.0.1", sentinels.replica.port)
        for connection in store._channel._idle:
            assert connection.port == sentinels.replica.port
        one_life(store, "later")


def crowd(store: RedisStore, name: str) -> None:
    """Ask from eight threads at once, so that eight connections are at hand."""
    threads = [
        threading.Thread(target=lambda n=n: answers(lambda: claim(store, f"{name}-{n}")))
        for n in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def answers(ask: Callable[[], object]) -> bool:
    """Whether the store answers; how long it takes to say that it does not is bounded."""
    began = time.monotonic()
    try:
        ask()
    except StoreUnavailable:
        assert time.monotonic() - began < 5
        return False
    return True


def test_a_replica_is_never_asked_during_a_failover(sentinels):
    """Between two primaries the store says that there is none, in time, and then finds it."""
    store = RedisStore.from_url(sentinels.url, master_name=sentinels.name, timeout=1)
    with closing(store):
        granted = claim(store, "held")
        eventually(lambda: sentinels.replica.client().exists(key_of("held")), timeout=30)
        sentinels.primary.kill()
        assert not answers(lambda: claim(store, "held"))
        eventually(lambda: answers(lambda: claim(store, "held")), timeout=60)

        assert claim(store, "held") == granted


def test_slots_that_move(cluster):
    """While a slot moves between masters, and after it, each record is found where it is."""
    with closing(RedisStore.from_url(in_cluster(cluster))) as store:
        source, target = cluster.nodes[0], cluster.nodes[1]
        here = [name for name in map(str, range(400)) if slot_of(cluster, name) <= 5_000][:2]
        moving, slot = here[0], slot_of(cluster, here[0])
        before = claim(store, moving)
        ids = [node.client().execute_command("CLUSTER", "MYID").decode() for node in cluster.nodes]
        target.client().execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        source.client().execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])

        assert claim(store, moving) == before  # it is still at the source
        source.client().migrate("127.0.0.1", target.port, key_of(moving), 0, 5_000)
        assert claim(store, moving) == before  # the source sends us on, for this once
        leases = [(key_of(moving), before.token)]
        assert store.renew(leases, lease_ms=20_000, horizon_ms=60_000) == [True]
        for node in reversed(cluster.nodes):
            node.client().execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        assert claim(store, moving) == before  # the source sends us on, for good
        assert store.renew(leases, lease_ms=20_000, horizon_ms=60_000) == [True]
        assert isinstance(claim(store, here[1]), Granted)
        settle(store, moving, before.token)
        assert source.client().dbsize() + target.client().dbsize() == 2


def slot_of(cluster: Cluster, name: str) -> int:
    return int(cluster.nodes[0].client().execute_command("CLUSTER", "KEYSLOT", key_of(name)))


def record_of(cluster: Cluster, name: str) -> bytes | None:
    """Return the end of a lease as the nodes that answer hold it."""
    for node in cluster.nodes[:2]:
        with node.client() as client:
            if slot_is_at(cluster, node, name):
                return client.hget(key_of(name), "u")
    return None


def slot_is_at(cluster: Cluster, node: Server, name: str) -> bool:
    share = -(-Cluster.SLOTS // len(cluster.nodes))
    return slot_of(cluster, name) // share == cluster.nodes.index(node)


@pytest.mark.parametrize("kind", ["url", "client"])
def test_a_silent_master(kind, cluster):
    """A frozen node delays what it holds by one time-out; the others answer as ever."""
    for node in cluster.nodes:  # they answer until the frozen one counts as failed
        node.client().config_set("cluster-node-timeout", 60_000)
    with cluster.client(socket_timeout=60) as client:
        store = RedisStore(client, timeout=0.5)
    if kind == "url":
        store = RedisStore.from_url(in_cluster(cluster), timeout=0.5)
    with closing(store):
        names = [f"n{number}" for number in range(30)]
        tokens = {name: claim(store, name).token for name in names}
        cluster.nodes[2].pause()
        began = time.monotonic()
        held = {name: answers(lambda name=name: settle(store, name, tokens[name]))
                for name in names[:6]}  # fmt: skip
        took = time.monotonic() - began
        until = {name: record_of(cluster, name) for name in names[6:]}
        leases = [(key_of(name), tokens[name]) for name in names[6:]]
        assert not answers(lambda: store.renew(leases, lease_ms=90_000, horizon_ms=60_000))
        renewed = [name for name in names[6:] if record_of(cluster, name) != until[name]]
        cluster.nodes[2].resume()

        assert True in held.values()
        assert False in held.values()
        assert took < 0.5 * 2 * len(held) + 3
        assert renewed == [name for name in names[6:] if until[name] is not None]
        eventually(lambda: all(answers(lambda n=n: claim(store, n)) for n in names), timeout=60)
