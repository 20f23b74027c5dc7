"""
Where records may live: every kind of server and client, and what happens when one fails.

The tests marked `hooks` also meet the older redis-py that comes with each older Celery.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from reliable_tasks.core.keys import notes_key
from reliable_tasks.core.limits import BreakerTerms, BudgetTerms
from reliable_tasks.core.records import Busy, Granted, Settled, State
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.periodic import Ticket, fire
from reliable_tasks.stores.redis import RedisStore
from reliable_tasks.stores.scripts import load
from reliable_tasks.testing import (
    Cluster,
    Sentinels,
    Server,
    close_app,
    eventually,
    silent_server,
    valkey_binary,
    valkey_server,
)
from reliable_tasks.testing import redis_server as start_redis
from reliable_tasks.testing.processes import remove_directory, scratch_directory
from tests.integration.apps.places import SETTINGS_VARIABLE
from tests.integration.places import (
    HORIZON_MS,
    SHELF,
    claim,
    closing,
    key_of,
    one_life,
    scripted_server,
    settle,
)

SECRET = "s3cret/w0rd@:"
ENCODED = "s3cret%2Fw0rd%40%3A"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "acl.md"
PATIENCE = 0.5  # seconds, the store's time-out in tests of silence
MARGIN = 1.5  # seconds that a busy machine may add


# --- servers of every kind ----------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(redis_server: Server) -> Iterator[Server]:
    """A Redis that speaks TLS only, and wants a password."""
    with start_redis(tls=True, password=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A Valkey with a password."""
    with valkey_server(password=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def socket_path() -> Iterator[Path]:
    """The socket of a server that also listens on one."""
    folder = scratch_directory()
    path = folder / "store.sock"
    with valkey_server(config=[f"unixsocket {path}"]):
        yield path
    remove_directory(folder)


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    """A primary, a replica and three sentinels."""
    with Sentinels(valkey_binary()) as group:
        yield group


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three masters that share the slots."""
    with Cluster(valkey_binary()) as group:
        yield group


@pytest.fixture(scope="module")
def restricted() -> Iterator[Server]:
    """A server whose user has the rights that the page on ACL gives, and no others."""
    with valkey_server(acl=["user default off", *acl_lines(SECRET)]) as server:
        yield server


def acl_lines(password: str) -> list[str]:
    """Return the user of the page's first block, with *password*."""
    first = block_of_page("Workers and producers")
    assert first.startswith("user tasks on >PASSWORD ")
    return [first.replace("PASSWORD", password)]


def block_of_page(title: str) -> str:
    """Return the first block under a heading."""
    section = PAGE.read_text().partition(f"\n## {title}\n")[2]
    return section.partition("```text\n")[2].partition("```")[0].strip()


def stored_at(url: str) -> dict[str, Any]:
    return {"reliable_tasks_store_url": url}


def with_files(server: Server) -> dict[str, Any]:
    files = {"ssl_ca_certs": str(server.certificate)}
    return {"broker_url": server.url_for(2).partition("?")[0], "broker_use_ssl": files}


def watched(group: Sentinels) -> dict[str, Any]:
    return {"broker_url": group.url, "broker_transport_options": {"master_name": group.name}}


# A place's name, the fixture that is there, and Celery settings that lead to it.
PLACES: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "valkey": ("valkey", lambda it: stored_at(it.new_database().url)),
    "redis": ("redis_server", lambda it: stored_at(it.new_database().url)),
    "tls by url": ("tls", lambda it: stored_at(it.url_for(1))),
    "tls by broker_use_ssl": ("tls", with_files),
    "password": ("guarded", lambda it: stored_at(it.url_for(1))),
    "acl user": (
        "restricted",
        lambda it: stored_at(it.url_for(1, username="tasks", password=SECRET)),
    ),
    "unix": ("socket_path", lambda it: stored_at(f"unix://{it}?db=1")),
    "unix broker": (
        "socket_path",
        lambda it: {"broker_url": f"redis+socket://{it}?virtual_host=2"},
    ),
    "cluster": ("cluster", lambda it: stored_at(in_cluster(it))),
    "sentinel broker": ("sentinels", watched),
}


def in_cluster(cluster: Cluster) -> str:
    return cluster.url.replace("redis:", "redis+cluster:")


# Most tests are on a Valkey without a password; a TLS server that wants one is here twice.
COVERED = {"valkey", "password"}


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=[pytest.mark.chaos] if place in COVERED else [])
        for place in PLACES
    ],
)
@pytest.mark.hooks
def test_a_task_takes_effect_once_everywhere(place, request, worker, ledger, valkey):
    """A real worker with each kind of store runs a job once and answers its copies."""
    broker = valkey.new_database().url
    fixture, settings_at = PLACES[place]
    there = settings_at(request.getfixturevalue(fixture))
    settings = {"broker_url": broker, "result_backend": broker} | there
    process = worker(
        "tests.integration.apps.places",
        pool="solo",
        env={SETTINGS_VARIABLE: json.dumps(settings)},
    )
    app = Celery("publisher", set_as_current=False)
    app.conf.update(settings)
    if "broker_use_ssl" in settings:
        app.conf.broker_use_ssl = {**settings["broker_use_ssl"], "ssl_cert_reqs": 2}
    try:
        results = [app.send_task("places.pay", ("a",)) for _ in range(3)]
        answers = [result.get(timeout=60) for result in results]
    finally:
        close_app(app)

    assert answers[0] == answers[1] == answers[2]
    assert ledger.counts() == {"a": 1}
    assert SECRET not in process.log
    assert ENCODED not in process.log


def test_the_acl_page_names_every_right(restricted):
    """Each right on the page is needed, and together they are enough."""
    rights = re.findall(r"\+(\S+)", acl_lines("x")[0])
    admin = restricted.client()

    def works(*without: str) -> bool:
        granted = [f"+{right}" for right in rights if right not in without]
        name = f"user-{'-'.join(without)}"
        admin.execute_command("ACL", "SETUSER", name, "on", ">word", "~rt1:*", *granted)
        admin.script_flush()
        with closing(
            RedisStore.from_url(restricted.url_for(2, username=name, password="word"))
        ) as it:
            try:
                every_operation(it)
            except StoreUnavailable:
                return False
            finally:
                for key in admin_of(restricted).scan_iter("rt1:*"):
                    admin_of(restricted).delete(key)
        return True

    assert works()
    assert [right for right in rights if works(right)] == []


def admin_of(server: Server) -> redis.Redis:
    return server.client(2)


def every_operation(store: RedisStore) -> None:
    """Reach every command of every script."""
    granted = claim(store, "a")
    leases = [(key_of("a"), granted.token)]
    store.renew(leases, lease_ms=20_000, horizon_ms=HORIZON_MS)
    store.drain([(key_of("a"), "job")])
    settle(store, "a", granted.token)
    store.close(key_of("a"), job="job", horizon_ms=HORIZON_MS)
    for number in range(80):  # so many jobs on a key that the oldest are forgotten
        store.advance(key_of("a"), job=f"j{number}", line=1, horizon_ms=HORIZON_MS)
    for number in range(4):  # until quarantine
        claim(store, "b", delivery=str(number), lease_ms=1)
        time.sleep(0.003)
    store.end(key_of("c"), job="job", killed=True, horizon_ms=HORIZON_MS)
    store.bury(SHELF, "job", b"letter", at_ms=1, most=9, oldest_ms=9)
    store.unbury(SHELF, "job", at_ms=1)
    store.jot(notes_key("places", "job"), b"line", most=2, keep_ms=60_000)
    store.jottings(notes_key("places", "job"))
    for delivery, job in (("1", "x"), ("2", "y"), ("3", "x")):  # facts come and go
        claim(store, "d", delivery=delivery, job=job, lease_ms=1, max_crashes=99)
        store.advance(key_of("d"), job=job, line=1, horizon_ms=HORIZON_MS)
        time.sleep(0.003)
    terms = BudgetTerms(ratio=0.2, minimum_per_second=10.0)
    store.withdraw(key_of("e"), token="retry--1", wait_ms=0, calls=[(0, 1)], terms=terms)
    limits = BreakerTerms(failures=1, window_ms=1_000, open_for_ms=3, probes=1)
    successes = [(0, 1)]
    for failed in (True, False):  # opens, and closes after a probe
        store.admit(key_of("f"), token="run----1", successes=successes, terms=limits)
        told = {"failed": failed, "successes": [], "terms": limits}
        store.report(key_of("f"), token="run----1", **told)
        time.sleep(0.004)


def test_the_acl_page_names_what_beats_need(restricted):
    """With one right more than a worker, a second beat learns that a firing was published."""
    rights = re.findall(r"\+\S+", block_of_page("Workers and producers"))
    [besides] = re.findall(r"`periodic=True` needs `(\+\w+)` besides", PAGE.read_text())
    admin = restricted.client()
    admin.execute_command("ACL", "SETUSER", "beat", "on", ">word", "~rt1:*", *rights, besides)
    ticket = Ticket(key_of("firing"), "poll", None, keep_ms=60_000, grace_ms=60_000)

    url = restricted.url_for(4, username="beat", password="word")
    with closing(RedisStore.from_url(url)) as store:
        published: list[str] = []
        first, second = (fire(store, ticket, published.append) for _ in range(2))

    assert published == [first.job] == [second.job]
    assert (first.duplicate, second.duplicate) == (False, True)


def test_the_acl_page_names_the_operators_rights(restricted):
    """With some rights more than a worker an operator can look, walk and forget."""
    blocks = map(block_of_page, ("Workers and producers", "Operators"))
    rights = re.findall(r"\+\S+", " ".join(blocks))
    admin = restricted.client()
    admin.execute_command("ACL", "SETUSER", "operator", "on", ">word", "~rt1:*", *rights)

    url = restricted.url_for(3, username="operator", password="word")
    with closing(RedisStore.from_url(url)) as store:
        one_life(store, "operated")


def test_the_acl_page_names_what_a_cluster_needs(cluster):
    """With the page's rights a worker finds its way in a cluster."""
    blocks = map(block_of_page, ("Workers and producers", "Operators", "Cluster"))
    rights = re.findall(r"\+\S+", " ".join(blocks))
    for node in cluster.nodes:
        node.client().execute_command(
            *("ACL", "SETUSER", "tasks", "on", ">word", "~rt1:*"),
            *(right for right in rights if right != "+select"),
        )
    address = cluster.url.replace("redis://", "redis+cluster://tasks:word@")

    with closing(RedisStore.from_url(address)) as store:
        for number in range(10):
            one_life(store, f"restricted-{number}")


def test_the_acl_page_names_what_sentinels_need(sentinels):
    """A user with the one right on the sentinels is enough to find the primary."""
    right = block_of_page("Sentinel").partition("PASSWORD ")[2]
    for server in sentinels.sentinels:
        server.client().execute_command("ACL", "SETUSER", "tasks", "on", ">word", right)
    login = {"username": "tasks", "password": "word"}

    store = RedisStore.from_url(sentinels.url, master_name=sentinels.name, sentinel_kwargs=login)
    with closing(store):
        one_life(store, "found")


# --- clients of the user's own ------------------------------------------------------------


def clients(server: Server) -> dict[str, Callable[[], redis.Redis]]:
    url = server.url_for(5)
    pool = redis.BlockingConnectionPool.from_url(url, max_connections=1, timeout=0.1)
    return {
        "RESP2": lambda: redis.Redis.from_url(url, protocol=2),
        "RESP3": lambda: redis.Redis.from_url(url, protocol=3),
        "decoding": lambda: redis.Redis.from_url(url, decode_responses=True),
        "decoding RESP3": lambda: redis.Redis.from_url(url, decode_responses=True, protocol=3),
        "another encoding": lambda: redis.Redis.from_url(url, encoding="latin-1"),
        "blocking pool": lambda: redis.Redis(connection_pool=pool),
        "single connection": lambda: redis.Redis.from_url(url, single_connection_client=True),
        "named, checked": lambda: redis.Redis.from_url(
            url, client_name="mine", health_check_interval=1
        ),
        "without time-outs": lambda: redis.Redis.from_url(
            url, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 9)
        ),
        "python parser, RESP2": lambda: python_parser(url, 2),
        "python parser, RESP3": lambda: python_parser(url, 3),
    }


def python_parser(url: str, protocol: int) -> redis.Redis:
    from redis._parsers import _RESP2Parser, _RESP3Parser

    parser = {2: _RESP2Parser, 3: _RESP3Parser}[protocol]
    return redis.Redis.from_url(url, protocol=protocol, parser_class=parser)


@pytest.mark.hooks
@pytest.mark.parametrize("kind", [
    "RESP2", "RESP3", "decoding", "decoding RESP3", "another encoding", "blocking pool",
    "single connection", "named, checked", "without time-outs", "python parser, RESP2",
    "python parser, RESP3",
])  # fmt: skip
def test_every_client_of_the_users_own(kind, server):
    """However a client is set up, the store reads the same answers."""
    with clients(server)[kind]() as client, closing(RedisStore(client)) as store:
        one_life(store, f"life of {kind}")


@pytest.mark.hooks
def test_sentinel_client_of_the_users_own(sentinels):
    """The primary behind a client from `master_for` is found."""
    manager = Sentinel(sentinels.addresses, socket_timeout=None)
    with closing(RedisStore(manager.master_for(sentinels.name, decode_responses=True))) as store:
        one_life(store, "by sentinel")


@pytest.mark.hooks
def test_cluster_client_of_the_users_own(cluster):
    """The nodes behind a cluster client are found, and the records are spread over them."""
    with cluster.client(decode_responses=True) as client:
        store = RedisStore(client)
    with closing(store):
        for number in range(30):
            one_life(store, f"spread {number}")
            claim(store, f"left {number}")
    counts = [len(list(node.client().scan_iter("rt1:*"))) for node in cluster.nodes]
    assert min(counts) > 0


def test_a_users_client_keeps_its_own_connections(valkey):
    """The store opens connections of its own and leaves the client's pool alone."""
    with valkey.client(6) as client, closing(RedisStore(client)) as store:
        claim(store, "apart")
        pool = client.connection_pool
        assert not pool._available_connections
        assert not pool._in_use_connections


# --- silence ------------------------------------------------------------------------------


def operations(store: RedisStore) -> list[Callable[[], object]]:
    """Return one call of each operation, the main process's word among them."""
    key = key_of("silent")
    return [
        lambda: claim(store, "silent"),
        lambda: settle(store, "silent", 1),
        lambda: store.renew([(key, 1)] * 2_500, lease_ms=1_000, horizon_ms=HORIZON_MS),
        lambda: store.end(key, job="job", killed=True, horizon_ms=HORIZON_MS),
        lambda: store.drain([(key, "job")] * 50),
        lambda: store.close(key, job="job", horizon_ms=HORIZON_MS),
        lambda: store.advance(key, job="job", line=1, horizon_ms=HORIZON_MS),
        lambda: store.peek(key),
        lambda: list(store.scan("rt1:")),
    ]


def assert_bounded(call: Callable[[], object], longest: float = PATIENCE) -> StoreUnavailable:
    """The call must say within its time that the store does not answer."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        call()
    assert time.monotonic() - began < longest + MARGIN
    return caught.value


@pytest.mark.hooks
def test_a_server_that_never_answers():
    """Each operation ends within the time-out, also with a client that would wait for ever."""
    with silent_server() as url:
        patient = {"socket_timeout": None, "retry": Retry(NoBackoff(), 10)}
        for client in (
            redis.Redis.from_url(url),
            redis.Redis.from_url(url, **patient),
            redis.Redis.from_url(url, protocol=2),
            redis.Redis.from_url(url, password=SECRET),
        ):
            with client, closing(RedisStore(client, timeout=PATIENCE)) as store:
                error = assert_bounded(lambda store=store: claim(store, "silent"))
                assert "Timeout" in str(error)
        with closing(RedisStore.from_url(url, timeout=PATIENCE)) as store:
            for operation in operations(store):
                assert_bounded(operation)


@pytest.mark.hooks
def test_silent_sentinels_and_nodes():
    """All sentinels, or all nodes, may together take the time-out."""
    with ExitStack() as stack:
        urls = [stack.enter_context(silent_server()) for _ in range(3)]
        sentinel_urls = ";".join(url.replace("redis:", "sentinel:") for url in urls)
        addresses = [("127.0.0.1", int(re.findall(r":(\d+)/", url)[0])) for url in urls]
        stores = [
            RedisStore.from_url(sentinel_urls, master_name="x", timeout=PATIENCE),
            RedisStore(Sentinel(addresses, socket_timeout=None).master_for("x"), timeout=PATIENCE),
            RedisStore.from_url(
                ";".join(url.replace("redis:", "redis+cluster:") for url in urls), timeout=PATIENCE
            ),
        ]
        for store in stores:
            with closing(store):
                assert_bounded(lambda store=store: claim(store, "silent"))


def test_a_silent_server_behind_tls():
    """A handshake that is never answered is bounded too."""
    with silent_server() as url:
        tls = url.replace("redis:", "rediss:")
        with closing(RedisStore.from_url(tls, timeout=PATIENCE)) as store:
            assert_bounded(lambda: claim(store, "silent"))


@pytest.mark.hooks
def test_a_server_that_stalls_in_the_middle():
    """Half an answer is no answer, and the next operation does not read the other half."""
    half = b"*3\r\n:1\r\n:17"
    with scripted_server(half) as url, closing(RedisStore.from_url(url, timeout=PATIENCE)) as it:
        for _ in range(2):
            assert "Timeout" in str(assert_bounded(lambda: claim(it, "stalled")))


@pytest.mark.hooks
def test_a_paused_server_answers_nobody_else():
    """An answer that comes after the time-out is never taken for another question's."""
    with valkey_server() as server, closing(RedisStore.from_url(server.url, timeout=0.3)) as store:
        first = claim(store, "first")
        server.pause()
        assert_bounded(lambda: claim(store, "second", delivery="late"))
        server.resume()

        assert claim(store, "first") == first
        assert isinstance(claim(store, "second", delivery="late"), Granted)
        assert isinstance(claim(store, "second", delivery="other"), Busy)


def test_a_silent_store_in_a_worker(worker, ledger, valkey):
    """A worker whose store never answers neither runs a job nor hangs: it warns and defers."""
    with silent_server() as url:
        settings = {
            "broker_url": valkey.new_database().url,
            "reliable_tasks_store_url": url,
            "reliable_tasks_store_timeout": PATIENCE,
        }
        process = worker(
            "tests.integration.apps.places",
            pool="solo",
            env={SETTINGS_VARIABLE: json.dumps(settings)},
        )
        app = Celery("publisher", set_as_current=False)
        app.conf.update(settings)
        try:
            app.send_task("places.pay", ("a",))
            eventually(lambda: process.log.count("did not answer 'claim'") >= 2)
            began = time.monotonic()
            assert process.terminate() == 0
            assert time.monotonic() - began < 20
        finally:
            close_app(app)
    assert not ledger.counts()


# --- refusals -----------------------------------------------------------------------------


def assert_no_secret(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    shown = "".join(traceback.format_exception(error)) + repr(error) + caplog.text
    for secret in (SECRET, ENCODED):
        assert secret not in shown


REFUSED = {
    "wrong password": (lambda ask: ask("guarded").url_for(password=f"{SECRET}x"), "password|WRONG"),
    "no password": (lambda ask: ask("guarded").url_for(password=""), "Authentication"),
    "wrong user": (
        lambda ask: ask("restricted").url_for(username="nobody", password=SECRET),
        "password|WRONG",
    ),
    "no rights": (
        lambda ask: ask("restricted").url_for(username="powerless", password=SECRET),
        "permission",
    ),
    "refused port": (lambda ask: f"redis://:{ENCODED}@127.0.0.1:1/0", "refused"),
    "unknown host": (lambda ask: f"redis://:{ENCODED}@no-such-host.invalid/0", "no-such-host"),
    "no socket": (lambda ask: f"unix://:{ENCODED}@/no/such.sock", "such.sock"),
    "no TLS there": (
        lambda ask: ask("guarded").url_for().replace("redis:", "rediss:"),
        "timeout|SSL|closed|reset",
    ),
    "no plain text there": (
        lambda ask: ask("tls").url_for().partition("?")[0].replace("rediss:", "redis:"),
        "closed|reset|Protocol",
    ),
    "an unknown authority": (lambda ask: ask("tls").url_for().partition("?")[0], "certificate"),
    "database out of range": (lambda ask: ask("guarded").url_for(99_999), "DB index|invalid"),
}


REFUSED_BY_GROUPS = {
    "unknown master": (lambda ask: f"{ask('sentinels').url}/0?master_name=other", "No such master"),
    "wrong password behind sentinels": (
        lambda ask: (
            ask("sentinels").url.replace("://", f"://nobody:{ENCODED}@", 1)
            + f"?master_name={ask('sentinels').name}"
        ),
        "AUTH|password|WRONG",
    ),
    "no sentinel there": (
        lambda _: f"sentinel://:{ENCODED}@127.0.0.1:1?master_name=x",
        "sentinels.*refused",
    ),
    "wrong password in a cluster": (
        lambda ask: ask("cluster").url.replace("redis://", f"redis+cluster://nobody:{ENCODED}@"),
        "map of slots.*(AUTH|password|WRONG)",
    ),
    "no cluster there": (lambda _: f"redis+cluster://:{ENCODED}@127.0.0.1:1", "map.*refused"),
    "no cluster but a server": (
        lambda ask: ask("guarded").url_for().replace("redis:", "redis+cluster:"),
        "map of slots.*cluster",
    ),
}
REFUSED |= REFUSED_BY_GROUPS


@pytest.mark.hooks
@pytest.mark.parametrize("kind", REFUSED)
def test_refusals(kind, request, caplog):
    """Whatever keeps us out becomes one error with a reason, in time, without the password."""
    if kind == "no rights":
        request.getfixturevalue("restricted").client().execute_command(
            "ACL", "SETUSER", "powerless", "on", f">{SECRET}"
        )
    address, reason = REFUSED[kind]
    caplog.set_level(logging.DEBUG)
    with closing(RedisStore.from_url(address(request.getfixturevalue), timeout=2)) as store:
        error = assert_bounded(lambda: claim(store, "refused"), 2)

    assert error.operation == "claim"
    assert re.search(reason, str(error), re.IGNORECASE), str(error)
    assert_no_secret(error, caplog)


ANSWERS = {
    "loading": (b"-LOADING Redis is loading the dataset in memory\r\n", "loading"),
    "out of memory": (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "maxmemory"),
    "busy": (b"-BUSY Redis is busy running a script.\r\n", "busy"),
    "too few replicas": (b"-NOREPLICAS Not enough good replicas to write.\r\n", "replicas"),
    "disk": (b"-MISCONF Errors writing to the AOF file: No space left.\r\n", "space"),
    "nonsense": (b"HTTP/1.1 400 Bad Request\r\n", "Protocol|Invalid"),
}


@pytest.mark.hooks
@pytest.mark.parametrize("kind", ANSWERS)
def test_errors_that_a_server_answers(kind):
    """Each is an outage with the server's own words for a reason."""
    reply, reason = ANSWERS[kind]
    with scripted_server(reply) as url, closing(RedisStore.from_url(url, timeout=1)) as store:
        for _ in range(2):  # on a new connection, and on one that was kept
            error = assert_bounded(lambda: claim(store, "refused"), 1)
            assert re.search(reason, str(error), re.IGNORECASE), str(error)


def test_a_server_without_memory(valkey):
    """A real server that is full refuses a claim, and grants it when there is room again."""
    with valkey_server() as server, closing(RedisStore.from_url(server.url)) as store:
        server.client().config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable, match=r"OOM|memory"):
            claim(store, "full")
        server.client().config_set("maxmemory", 0)

        assert isinstance(claim(store, "full"), Granted)


@pytest.mark.hooks
def test_a_replica(sentinels):
    """A replica refuses with its reason, and no connection to it is kept."""
    with closing(RedisStore.from_url(sentinels.replica.url)) as store:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"READONLY|read only"):
                claim(store, "replica")
        assert not store._channel._idle


def test_a_primary_that_becomes_a_replica_behind_its_name():
    """When an address leads to another server, connections to the former primary are left."""
    store = RedisStore.from_url("redis://127.0.0.1")
    with valkey_server() as old, valkey_server() as new, closing(store):
        way = store._channel.way
        store._channel.way = way.to("127.0.0.1", old.port)
        claim(store, "before")
        old.client().execute_command("REPLICAOF", "127.0.0.1", new.port)
        store._channel.way = way.to("127.0.0.1", new.port)  # as if the name led there now

        assert isinstance(claim(store, "after"), Granted)


# --- restarts -----------------------------------------------------------------------------


@pytest.mark.hooks
def test_restart_goes_unnoticed(redis_server):
    """Connections that a restart cut are replaced, and forgotten scripts are sent again."""
    with start_redis(appendonly=True) as server, closing(RedisStore.from_url(server.url)) as store:
        granted = claim(store, "kept")
        leases = [(key_of("kept"), granted.token)] * 2_500
        threads = [threading.Thread(target=claim, args=(store, f"t{n}")) for n in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        server.restart()

        assert all(store.renew(leases, lease_ms=20_000, horizon_ms=HORIZON_MS))
        server.restart()
        assert settle(store, "kept", granted.token) == Settled()


@pytest.mark.hooks
def test_scripts_that_the_server_forgot(server):
    """After a flush of its scripts the server gets them again, one question or many."""
    with closing(RedisStore.from_url(server.url_for(7))) as store:
        granted = claim(store, "flushed")
        server.client().script_flush()
        assert claim(store, "flushed") == granted
        server.client().script_flush()
        leases = [(key_of("flushed"), granted.token)] * 2_500
        assert all(store.renew(leases, lease_ms=20_000, horizon_ms=HORIZON_MS))
        server.client().script_flush()
        assert settle(store, "flushed", granted.token) == Settled()
        assert server.client().script_exists(load("settle").digest) == [True]


# --- processes and threads ----------------------------------------------------------------

FORK = """
    import os, sys
    from tests.integration.places import claim, settle
    from reliable_tasks.core.records import Settled
    from reliable_tasks.testing import Sentinels, Cluster
    from reliable_tasks.stores.opening import open_store

    options = {"master_name": sys.argv[2]} if len(sys.argv) > 2 else {}
    store = open_store(sys.argv[1], **options)
    parents = [claim(store, f"parent-{n}").token for n in range(3)]
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                for round in range(200):
                    name = f"child-{number}-{round}"
                    granted = claim(store, name, job=name)
                    assert claim(store, name, job=name) == granted
                    assert settle(store, name, granted.token, job=name) == Settled()
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(1)
            os._exit(0)
        children.append(pid)
    for round in range(200):
        name = f"parent-{round}"
        granted = claim(store, name)
        assert settle(store, name, granted.token) == Settled(), name
    print([os.waitpid(pid, 0)[1] for pid in children])
"""


@pytest.mark.hooks
@pytest.mark.parametrize("kind", ["valkey", "cluster", "sentinels"])
def test_fork(kind, request, pytestconfig):
    """Children forked while the store is in use connect anew; nobody reads another's answers."""
    place = request.getfixturevalue(kind)
    arguments = [place.url]
    if kind == "valkey":
        arguments = [place.new_database().url]
    if kind == "cluster":
        arguments = [in_cluster(place)]
    if kind == "sentinels":
        arguments = [place.url, place.name]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORK), *arguments],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert (done.stdout.strip(), done.returncode) == ("[0, 0, 0, 0]", 0), done.stderr


@pytest.mark.hooks
@pytest.mark.parametrize("kind", ["valkey", "redis_server", "cluster"])
def test_eight_threads_on_one_store(kind, request):
    """Threads share a store, each gets its own answers, and connections are used again."""
    place = request.getfixturevalue(kind)
    url = in_cluster(place) if kind == "cluster" else place.url_for(8)
    wrong: list[object] = []
    with closing(RedisStore.from_url(url, timeout=10)) as store:

        def work(number: int) -> None:
            for turn in range(100):
                name = f"thread-{number}-{turn}"
                granted = claim(store, name, job=name)
                if settle(store, name, granted.token, job=name) != Settled():
                    wrong.append(name)
                record = store.peek(key_of(name))
                if record is None or (record.job, record.state) != (name, State.DONE):
                    wrong.append(record)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        if kind != "cluster":
            assert 1 <= len(store._channel._idle) <= 8

    assert wrong == []
