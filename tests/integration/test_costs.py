"""What an execution costs the server, in commands, round trips and bytes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.app.trace import build_tracer

from reliable_tasks import IdempotentTask
from reliable_tasks.core.keys import digest, message_key, record_key
from reliable_tasks.core.records import (
    Confirmation,
    Duplicate,
    Granted,
    Outcome,
    Reservation,
    Reserved,
    State,
)
from reliable_tasks.leases import Lease, LeaseKeeper
from reliable_tasks.stores.redis import RedisStore
from reliable_tasks.testing import Database
from tests.integration.places import closing
from tests.stores import redis_store

HOUR_MS = 3_600_000


@pytest.fixture
def store(database: Database) -> Iterator[RedisStore]:
    with redis_store(database) as store:
        yield store


@pytest.fixture
def app(store: RedisStore) -> Iterator[Celery]:
    """An app whose records alone are on the server."""
    app = Celery("costs", broker="memory://", set_as_current=False)
    app.conf.update(reliable_tasks_store=store, task_ignore_result=True)
    yield app
    app.close()


@pytest.fixture
def commands(database: Database) -> Callable[..., Any]:
    """Return the names of the commands that clients send while something is done."""

    @contextmanager
    def watched() -> Iterator[list[str]]:
        names: list[str] = []
        with database.client() as herald:
            herald.ping()  # connects before anything is counted
            with database.client() as watcher, watcher.monitor() as monitor:
                yield names
                herald.echo("the end")
                for seen in monitor.listen():
                    if seen["db"] == database.number and seen["client_type"] != "lua":
                        names.append(seen["command"].split()[0].upper())
                    if names[-1:] == ["ECHO"]:
                        names.pop()
                        return

    return watched


def deliver(task: Any, **request: Any) -> None:
    """Run a new message of *task* as a worker's pool does."""
    task_id = str(uuid4())
    trace = build_tracer(task.name, task, app=task.app)
    outcome = trace(
        task_id,
        [],
        {},
        {"id": task_id, "task": task.name, "retries": 0, "delivery_info": {}, **request},
    )
    assert outcome.info is None


def test_an_execution_costs_two_commands(app: Celery, commands: Callable[..., Any]) -> None:
    """A message on which nothing hangs costs its claim and its settle."""

    @app.task(base=IdempotentTask)
    def add() -> int:
        return 1

    deliver(add)  # connects, and loads the scripts
    with commands() as names:
        deliver(add)

    assert names == ["EVALSHA", "EVALSHA"]


def test_a_message_that_carries_something_costs_three(
    app: Celery, commands: Callable[..., Any]
) -> None:
    """What hangs on a message costs one command more, which notes that it was sent."""

    @app.task(base=IdempotentTask)
    def add() -> int:
        return 1

    deliver(add, callbacks=[add.si()])
    with commands() as names:
        deliver(add, callbacks=[add.si()])

    assert names == ["EVALSHA", "EVALSHA", "EVALSHA"]


def test_an_execution_leaves_nothing_to_the_garbage_collector(app: Celery) -> None:
    """What an execution used is freed when it ends, as it is without a guard."""
    requests: list[weakref.ref[Any]] = []

    @app.task(base=IdempotentTask, bind=True)
    def add(self: Any) -> None:
        requests.append(weakref.ref(self.request))

    deliver(add)  # loads the scripts: the refusal that asks for them holds its frames
    del requests[:]
    gc.disable()
    try:
        deliver(add)
        assert [request() for request in requests] == [None]
    finally:
        gc.enable()


def claim(store: RedisStore, key: str, job: str) -> int:
    answer = store.claim(
        key, delivery=str(2**61 + 1), job=job, line=0, lease_ms=HOUR_MS, horizon_ms=6 * HOUR_MS,
        max_crashes=3,
    )  # fmt: skip
    assert isinstance(answer, Granted)
    return answer.token


def hold_leases(store: RedisStore, keeper: LeaseKeeper, count: int) -> None:
    terms = {"lease_ms": HOUR_MS, "horizon_ms": 6 * HOUR_MS, "max_run_ms": HOUR_MS}
    for number in range(count):
        key = f"rt1::costs:@{number}"
        keeper.hold(Lease(store, key, claim(store, key, str(number)), **terms))


@pytest.mark.parametrize("leases", [1, 1_200])
def test_all_renewals_are_one_round_trip(
    store: RedisStore, commands: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, leases: int
) -> None:
    """However many leases a process holds, it waits for the server once."""
    keeper = LeaseKeeper()
    hold_leases(store, keeper, leases)
    assert keeper.renew_all()  # loads the script
    steps = noted_steps(store, monkeypatch)

    with commands() as names:
        assert keeper.renew_all()

    batches = -(-leases // 500)
    assert names == ["EVALSHA"] * batches
    assert steps == ["send_packed_command"] + ["read_response"] * batches


def noted_steps(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what the store's one connection does from now on, as it does it."""
    [connection] = store._channel._idle
    steps: list[str] = []
    for name in ("send_packed_command", "read_response"):
        monkeypatch.setattr(connection, name, _noted(steps, name, getattr(connection, name)))
    return steps


def _noted(steps: list[str], name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        steps.append(name)
        return method(*args, **kwargs)

    return call


ASKS = [(f"rt1::costs:{number}", Reservation("job", HOUR_MS)) for number in range(1_000)]
WORDS = [(key, Confirmation("job", 2 * HOUR_MS)) for key, _ in ASKS]
OTHERS = [(key, Reservation("other", HOUR_MS)) for key, _ in ASKS]


def test_a_thousand_reservations_are_one_round_trip(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer waits for the server once for all that it reserves, and never for its word."""
    store.reserve(ASKS[:1])  # connects, and loads the scripts
    store.confirm(WORDS[:1])
    steps = noted_steps(store, monkeypatch)

    assert store.reserve(ASKS) == [Reserved()] * 1_000
    assert steps == ["send_packed_command"] + ["read_response"] * 1_000
    del steps[:]
    store.confirm(WORDS)
    assert steps == ["send_packed_command"]
    del steps[:]
    assert store.reserve(OTHERS[:1]) == [Duplicate("job", "queued")]
    assert steps == ["send_packed_command"] + ["read_response"] * 1_001
    for key, _ in ASKS[:: len(ASKS) - 1]:
        record = store.peek(key)
        assert record is not None
        assert record.waiting is not None
        assert record.waiting.until_ms - record.waiting.first_ms > HOUR_MS


def test_a_word_that_finds_no_script_is_lost_once(
    store: RedisStore, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Who flushes the scripts between question and word makes one word unknown, and it is said."""
    with database.client() as admin:
        for number in range(3):
            store.reserve(ASKS[number : number + 1])
            if number == 1:
                admin.script_flush()
            store.confirm(WORDS[number : number + 1])

    assert are_confirmed(store, 3) == [True, False, True]
    assert "1 of 1 jobs" in caplog.text
    assert "NoScriptError" in caplog.text


@pytest.mark.parametrize("cut", [False, True], ids=["flushed", "restarted"])
def test_scripts_that_the_server_forgot(store: RedisStore, database: Database, cut: bool) -> None:
    """A word after a question that found no script, or no connection, arrives."""
    store.reserve(ASKS[:1])
    store.confirm(WORDS[:1])
    with database.client() as admin, redis_store(database) as other:
        admin.script_flush()
        if cut:
            admin.client_kill_filter(_type="normal", skipme=True)
            other.reserve(OTHERS[:1])  # which loads the question, but not the word
        store.reserve(ASKS[1:2])
        store.confirm(WORDS[1:2])

    assert are_confirmed(store, 2) == [True, True]


def test_a_word_that_is_refused_is_logged(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Who may not say it learns so, in one line for all words."""
    url = database.url.replace("://", "://teller:any@")
    with database.client() as admin, closing(RedisStore.from_url(url, timeout=10)) as store:
        admin.execute_command("ACL", "SETUSER", "teller", "on", "nopass", "~*", "+@all")
        store.reserve(ASKS[:3])
        store.confirm(WORDS[:1])
        admin.execute_command("ACL", "SETUSER", "teller", "-evalsha")
        store.confirm(WORDS[:3])
        store.peek(ASKS[0][0])
        admin.execute_command("ACL", "DELUSER", "teller")

    [line] = [each for each in caplog.records if each.name == "reliable_tasks"]
    assert line.levelname == "WARNING"
    assert line.getMessage().startswith("3 of 3 jobs are reserved for the publish grace only: ")
    assert "NoPermissionError" in line.getMessage()


def are_confirmed(store: RedisStore, count: int) -> list[bool]:
    """Whether the store knows of each of the first *count* jobs that it was published."""
    records = [store.peek(key) for key, _ in ASKS[:count]]
    return [bool(record and record.latest) for record in records]


def test_a_word_to_a_connection_that_breaks_harms_nobody(
    store: RedisStore, database: Database
) -> None:
    """A question that comes after it is answered on a new connection."""
    store.reserve(ASKS[:1])
    for _ in range(2):
        store.confirm(WORDS[:1])
    with database.client() as admin:
        admin.client_kill_filter(_type="normal", skipme=True)

    assert store.reserve(OTHERS[:1]) == [Duplicate("job", "queued")]


JOB = str(uuid4())


@pytest.mark.parametrize(
    "key",
    [message_key("", "shop.charge", JOB), record_key("", "shop.charge", digest("order 1"))],
    ids=["message", "key"],
)
def test_a_done_record_is_small(store: RedisStore, database: Database, key: str) -> None:
    """A record that answers with 32 bytes takes at most 250 bytes of the server's memory."""
    token = claim(store, key, JOB)
    done = Outcome(State.DONE, b"x" * 32, keep_ms=24 * HOUR_MS)
    store.settle(key, token=token, job=JOB, line=0, outcome=done, horizon_ms=6 * HOUR_MS)

    record = store.peek(key)
    assert record is not None
    assert (record.job, record.outcome) == (JOB, done.data)
    with database.client() as client:
        assert client.memory_usage(key) <= 250
