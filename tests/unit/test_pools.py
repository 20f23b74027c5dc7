"""What is registered to be closed: which kinds, how often, for whom, and how long it may take."""

from __future__ import annotations

import gc
import io
import logging
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from functools import partial
from threading import Event, Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pymongo
import pytest
import redis
import redis.asyncio
import requests
from celery import signals
from celery.concurrency import prefork, solo, thread
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from reliable_tasks import ConfigurationError, close_on_shutdown
from reliable_tasks.pools import capacity, handlers, registry
from reliable_tasks.pools.capacity import _capacities as capacities
from reliable_tasks.pools.capacity import check, excess
from reliable_tasks.pools.kinds import Capacity, Kind
from reliable_tasks.testing import eventually
from tests.forked import in_child

URL = "postgresql+psycopg://nobody:secret@db.example:6000/shop"

pytestmark = pytest.mark.usefixtures("nothing_registered")


class Client:
    """A resource of no known kind."""

    def __init__(self, closing: Callable[[], object] = lambda: None) -> None:
        self.closed, self._closing = 0, closing

    def close(self) -> None:
        self._closing()
        self.closed += 1


def fail() -> None:
    raise OSError("the server is gone")


# --- what is accepted ----------------------------------------------------------------------


def known() -> dict[str, Callable[[], Any]]:
    """One of each kind that is recognised, by the title that messages use."""
    engine = create_engine(URL)
    return {
        "SQLAlchemy engine": lambda: engine,
        "SQLAlchemy async engine": lambda: create_async_engine(URL),
        "SQLAlchemy scoped_session": lambda: scoped_session(sessionmaker(engine)),
        "Redis client": redis.Redis,
        "Redis connection pool": redis.BlockingConnectionPool,
        "MongoDB client": partial(pymongo.MongoClient, connect=False),
        "httpx client": httpx.Client,
        "requests session": requests.Session,
        "Client": Client,
        "fail": lambda: fail,
    }


@pytest.mark.parametrize("title", known())
def test_a_kind_is_recognised(title: str) -> None:
    """Messages call a resource by its kind, and it is handed back."""
    resource = known()[title]()

    assert close_on_shutdown(resource) is resource
    assert [entry.name for entry in registry.entries()] == [title]


@pytest.mark.parametrize("way", ["close", "dispose", "disconnect"])
def test_any_object_that_can_be_closed_is(way: str) -> None:
    """The usual names of a method that closes are known, also of a class that nobody knows."""
    client = Client()
    resource = type("Gateway", (), {way: lambda _: client.close()})()

    close_on_shutdown(resource)
    registry.close_all()

    assert client.closed == 1


@pytest.mark.parametrize("unknown", ["flask", 3, Client, None, {}, b""])
def test_what_is_unknown_is_refused_with_what_is_accepted(unknown: object) -> None:
    """A mistake is found when it is made, and the error names the ways out."""
    with pytest.raises(ConfigurationError, match=r"expected a SQLAlchemy engine, .* got"):
        close_on_shutdown(unknown)


def test_no_password_stands_in_an_error() -> None:
    """What is refused is named by its type: a URL or settings may hold a secret."""
    for unknown in ("postgresql://shop:s3cret@db/shop", {"password": "s3cret"}):
        with pytest.raises(ConfigurationError, match=r"got a (str|dict)") as refused:
            close_on_shutdown(unknown)
        assert "s3cret" not in str(refused.value)


async def bye() -> None:
    """Do what nobody awaits."""


@pytest.mark.parametrize("function", [bye, lambda one: one, 5, "x"])
@pytest.mark.parametrize("option", ["reset", "close"])
def test_what_cannot_be_called_is_refused(option: str, function: Any) -> None:
    """A function that would fail, or do nothing, at the end is refused when it is given."""
    with pytest.raises(ConfigurationError, match=f"{option}: expected a"):
        close_on_shutdown(Client(), **{option: function})


def test_a_coroutine_function_is_no_goodbye() -> None:
    """Nor is one that is registered by itself."""
    with pytest.raises(ConfigurationError, match="got the coroutine function bye"):
        close_on_shutdown(bye)


def test_a_reset_that_ends_its_process_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """SystemExit in a reset is a failure like another: the worker's children live on."""
    client = Client()
    close_on_shutdown(client, name="search", reset=sys.exit)

    def child() -> str:
        registry.reset_all()
        return caplog.text

    assert "search was not reset after the fork" in in_child(child)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "beneath": (lambda: create_async_engine(URL).sync_engine, "Register the AsyncEngine"),
    "unbound": (lambda: scoped_session(sessionmaker()), "Register its engine instead"),
    "session": (lambda: Session(create_engine("sqlite://")), "Register the engine"),
    "pool": (lambda: create_engine("sqlite://").pool, "Register the engine"),
    "factory": (lambda: async_sessionmaker(create_async_engine(URL)), "Register its engine"),
    "psycopg": (partial(AsyncConnectionPool, open=False), "no event loop runs"),
    "redis": (redis.asyncio.Redis, "no event loop runs"),
    "httpx": (httpx.AsyncClient, "no event loop runs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_safe_is_refused(name: str) -> None:
    """What no child can reset, or nothing outside a loop can close, is refused with the way out."""
    make, way_out = REFUSED[name]
    with pytest.raises(ConfigurationError, match=way_out):
        close_on_shutdown(make())


def test_a_coroutine_cannot_close() -> None:
    """An unknown client whose close() needs an event loop is refused."""

    class Asynchronous:
        async def close(self) -> None: ...

    with pytest.raises(ConfigurationError, match="no coroutine"):
        close_on_shutdown(Asynchronous())


def test_two_functions_stand_for_an_unbound_session() -> None:
    """Whoever says how to reset and how to close it need not name its engine."""
    scoped = scoped_session(sessionmaker())

    close_on_shutdown(scoped, reset=lambda: None, close=lambda: None)

    assert [entry.name for entry in registry.entries()] == ["SQLAlchemy scoped_session"]


def test_two_functions_say_it_all() -> None:
    """With reset= and close= even what is refused otherwise can be registered."""
    told: list[str] = []
    client = redis.asyncio.Redis()
    close_on_shutdown(
        client, reset=partial(told.append, "reset"), close=partial(told.append, "close")
    )

    registry.close_all()

    assert told == ["close"]


@pytest.mark.parametrize("timeout", [0, -1, "2", None])
def test_a_time_limit_is_above_0(timeout: Any) -> None:
    """A limit that leaves no time to close is refused."""
    with pytest.raises(ConfigurationError, match="timeout: expected seconds"):
        close_on_shutdown(Client(), timeout=timeout)


def test_a_fork_guard_is_for_sqlalchemy() -> None:
    """Where connections cannot be watched, asking for it is refused."""
    with pytest.raises(ConfigurationError, match="fork_guard: expected a resource of SQLAlchemy"):
        close_on_shutdown(Client(), fork_guard=True)


# --- what is held --------------------------------------------------------------------------


def test_registering_twice_changes_nothing() -> None:
    """A resource, a method and a word are registered once, with their first name and limit."""
    client, buffer = Client(), io.StringIO()
    for name in ("first", "second"):
        close_on_shutdown(client, name=name)
        close_on_shutdown(buffer.flush, name=f"{name} flush")

    assert [entry.name for entry in registry.entries()] == ["first", "first flush"]


def test_equal_objects_are_not_the_same() -> None:
    """Two resources that compare as equal are both closed."""

    class Equal(Client):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    both = [Equal(), Equal()]
    for one in both:
        close_on_shutdown(one)
    registry.close_all()

    assert [one.closed for one in both] == [1, 1]


@pytest.mark.parametrize("is_guarded", [False, True])
def test_a_dead_resource_is_not_kept_alive(*, is_guarded: bool) -> None:
    """Registering keeps no engine in memory, not even with a method of its own or a guard."""
    engine = create_engine(URL)
    close_on_shutdown(engine, close=engine.dispose, fork_guard=is_guarded)
    alive = weakref.ref(engine)

    del engine
    gc.collect()

    assert alive() is None
    assert registry.entries() == []


def test_a_function_is_kept() -> None:
    """A function that nobody else holds is called all the same."""
    told: list[str] = []
    close_on_shutdown(lambda: told.append("flushed"))
    close_on_shutdown(partial(told.append, "partial"))
    gc.collect()

    registry.close_all()

    assert sorted(told) == ["flushed", "partial"]


# --- closing -------------------------------------------------------------------------------


def test_each_is_closed_once() -> None:
    """Whichever signal comes first closes; the next ones find nothing to do."""
    client = close_on_shutdown(Client())

    registry.close_all()
    registry.close_all()

    assert client.closed == 1


def test_what_fails_or_hangs_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """The log names what was not closed; the others are, and all wait no longer than the limit."""
    released = Event()
    broken, stuck, last = Client(fail), Client(released.wait), Client()
    close_on_shutdown(broken, name="billing")
    close_on_shutdown(stuck, name="search", timeout=0.2)
    close_on_shutdown(last)

    begin = time.monotonic()
    with caplog.at_level(logging.DEBUG, "reliable_tasks"):
        registry.close_all()
    took = time.monotonic() - begin
    released.set()

    assert last.closed == 1
    assert took < 2
    assert "billing was not closed: OSError('the server is gone')" in caplog.text
    assert "search was not closed: it took more than 0.2 s" in caplog.text
    assert "Client is closed" in caplog.text


def test_the_limits_run_side_by_side() -> None:
    """Three that hang take as long as the longest limit, not as long as all of them."""
    released = Event()
    stuck = [Client(released.wait) for _ in range(3)]
    for one in stuck:
        close_on_shutdown(one, timeout=0.4)

    begin = time.monotonic()
    registry.close_all()
    took = time.monotonic() - begin
    released.set()

    assert 0.4 <= took < 1.1


def test_what_is_quick_is_closed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hard time limit leaves 0.1 s: what only says goodbye goes before what waits for answers."""
    order: list[str] = []
    monkeypatch.setattr(registry, "_start", lambda entry: order.append(entry.name))
    mongo, client, pool = pymongo.MongoClient(connect=False), Client(), redis.ConnectionPool()
    for resource in (mongo, client, pool):
        close_on_shutdown(resource)

    registry.close_all()

    assert order == ["Redis connection pool", "Client", "MongoDB client"]


PROGRAM = """
import logging, sys, time
from reliable_tasks import close_on_shutdown

logging.basicConfig(level=logging.DEBUG)
close_on_shutdown(lambda: time.sleep(60), name="stuck", timeout=0.3)
close_on_shutdown(lambda: print("goodbye", flush=True), name="quick")
"""


def test_the_end_of_the_interpreter_closes() -> None:
    """Where no signal comes, at exit, all is closed, and what hangs does not hold up the exit."""
    begin = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=50
    )

    assert run.stdout == "goodbye\n"
    assert re.search(r"stuck was not closed: .*it took more than 0\.3 s", run.stderr)
    assert time.monotonic() - begin < 40


def test_without_threads_an_alarm_keeps_the_limit(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since Python 3.12 no thread starts at the interpreter's end; all is closed even so."""

    def refuse(_: Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(Thread, "start", refuse)
    stuck, last = Client(partial(time.sleep, 60)), Client()
    close_on_shutdown(stuck, name="search", timeout=0.1)
    close_on_shutdown(last)

    registry.close_all()

    assert last.closed == 1
    assert "search was not closed: TimeoutError('it took more than 0.1 s')" in caplog.text


# --- after a fork --------------------------------------------------------------------------


def test_nothing_is_reset_where_nothing_was_forked() -> None:
    """Solo sends worker_process_init in the worker itself, whose connections are its own."""
    told: list[str] = []
    client = Client()
    close_on_shutdown(client, reset=lambda: told.append("reset"))

    registry.reset_all()

    assert told == []


def test_a_child_resets_and_closes_its_own() -> None:
    """In a child: reset once, then closed; in the parent: still open."""
    told: list[str] = []
    client = Client(lambda: told.append("closed"))
    close_on_shutdown(client, reset=lambda: told.append("reset"))

    def child() -> list[str]:
        registry.reset_all()
        registry.reset_all()
        registry.close_all()
        return told

    assert in_child(child) == ["reset", "closed"]
    assert told == []


def test_what_was_not_reset_is_not_closed() -> None:
    """A fork without a signal, no reset, or one that failed: the parent's goodbye is not said."""
    known, unknown, broken = Client(), Client(), Client()
    close_on_shutdown(known, reset=int)
    close_on_shutdown(unknown)
    close_on_shutdown(broken, name="billing", reset=fail)

    def closed() -> list[int]:
        registry.close_all()
        return [client.closed for client in (known, unknown, broken)]

    def closed_after_reset() -> tuple[list[int], str]:
        log = io.StringIO()
        logging.getLogger("reliable_tasks").addHandler(logging.StreamHandler(log))
        registry.reset_all()
        return closed(), log.getvalue().splitlines()[0]

    assert in_child(closed) == [0, 0, 0]
    counts, line = in_child(closed_after_reset)
    assert counts == [1, 0, 0]
    assert line.startswith("billing was not reset after the fork")


def test_what_children_leave_alone_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A worker says at its start which resources have no reset; functions need none."""
    clients = [Client(), Client()]
    close_on_shutdown(clients[0], name="search")
    close_on_shutdown(clients[1], name="billing", reset=int)
    close_on_shutdown(fail)

    registry.warn_of_unknown()

    (record,) = caplog.records
    assert record.getMessage().startswith("search is neither reset nor closed")


def test_a_worker_that_was_forked_starts_anew() -> None:
    """A process that forks workers itself tells none of them: each asks when it starts."""
    told: list[str] = []
    client = close_on_shutdown(Client(), reset=lambda: told.append("reset"))

    def worker() -> tuple[list[str], int]:
        signals.worker_init.send(sender=None)
        signals.worker_shutdown.send(sender=None)
        return told, client.closed

    assert in_child(worker) == (["reset"], 1)


def test_a_worker_in_a_thread_leaves_its_process_alone() -> None:
    """A worker that a test runs in a thread ends, and what the process goes on with stays open."""
    client = close_on_shutdown(Client())

    ended = Thread(target=partial(signals.worker_shutdown.send, sender=None))
    ended.start()
    ended.join()
    assert client.closed == 0

    signals.worker_shutdown.send(sender=None)
    assert client.closed == 1


# --- how many connections ------------------------------------------------------------------


def pool(connections: int, allowed: int = 100, server: str = "postgresql on db:5432") -> Capacity:
    """A pool of a server that allows *allowed* connections."""
    return Capacity(connections, server, lambda: allowed)


@pytest.mark.parametrize(("processes", "is_too_many"), [(1, False), (5, False), (6, True)])
def test_pools_are_counted_for_each_process(processes: int, *, is_too_many: bool) -> None:
    """Two pools of 8 and 12 in five processes are 100 connections; a sixth process is too many."""
    found = excess([pool(8), pool(12)], processes, 100)

    assert (found is not None) is is_too_many
    if found:
        assert "can open 120 connections to postgresql on db:5432" in found
        assert "(6 processes with at most 20 each), and it allows 100" in found


def test_an_engine_has_a_capacity() -> None:
    """An engine opens pool_size + max_overflow connections; without a bound nothing is said."""
    engines = [
        create_engine(URL),
        create_engine(URL, pool_size=2, max_overflow=1),
        create_engine(URL, max_overflow=-1),
        create_engine("sqlite:///nowhere"),
    ]
    for engine in engines:
        close_on_shutdown(engine)
    found = [entry.kind.capacity(entry.find()) for entry in registry.entries()]

    assert [one and one.connections for one in found] == [15, 3, None, None]
    assert found[0].server == "postgresql on db.example:6000"


def test_an_engine_is_counted_once() -> None:
    """An engine and what makes sessions of it are one pool."""
    engine = create_engine(URL, pool_size=3, max_overflow=0)
    for resource in (engine, sessionmaker(engine), scoped_session(sessionmaker(engine))):
        close_on_shutdown(resource)

    assert [found.connections for found in capacities()] == [3]


def test_a_server_is_named_as_the_driver_finds_it() -> None:
    """A host among the options of the URL goes before the one in its place."""
    engine = create_engine("postgresql+psycopg://localhost/shop?host=/run/postgresql&port=6000")
    close_on_shutdown(engine)

    assert [found.server for found in capacities()] == ["postgresql on /run/postgresql:6000"]


def test_a_worker_warns_in_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server that allows too little is named once; one that does not answer is not."""
    kinds = [
        Kind(title="a", close=print, capacity=lambda _: pool(15)),
        Kind(title="b", close=print, capacity=lambda _: pool(15, server="postgresql on b:1")),
        Kind(title="c", close=print, capacity=lambda _: Capacity(99, "c", fail)),  # type: ignore[arg-type]
    ]
    clients = [Client() for _ in kinds]
    for client, kind in zip(clients, kinds, strict=True):
        registry.add(client, kind, name=kind.title, timeout=1)

    with caplog.at_level(logging.INFO, "reliable_tasks"):
        check(8)
        eventually(lambda: len(caplog.records) == 2)

    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert "postgresql on db:5432" in caplog.text
    assert "postgresql on b:1" in caplog.text


@pytest.mark.parametrize(
    ("pool", "autoscaled_to", "processes"),
    [(prefork, None, 8), (prefork, 12, 12), (thread, None, 1), (solo, None, 1)],
    ids=["prefork", "autoscale", "threads", "solo"],
)
def test_only_prefork_multiplies(
    pool: ModuleType, autoscaled_to: int | None, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads and greenlets share the pools of one process; each prefork child has its own."""
    asked: list[int] = []
    monkeypatch.setattr(capacity, "check", asked.append)
    worker = SimpleNamespace(concurrency=8, max_concurrency=autoscaled_to)

    handlers._ready(SimpleNamespace(controller=worker, pool=object.__new__(pool.TaskPool)))

    assert asked == [processes]


def test_greenlets_ask_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that blocks would hold up all that a gevent or eventlet worker does."""
    asked: list[int] = []
    monkeypatch.setattr(capacity, "check", asked.append)

    handlers._ready(SimpleNamespace(controller=None, pool=SimpleNamespace(is_green=True)))

    assert asked == []
