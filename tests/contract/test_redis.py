"""The Redis store keeps the contract, on Valkey and on Redis, in a layout that is a format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from reliable_tasks.core.limits import BreakerTerms, BudgetTerms
from reliable_tasks.core.lines import line_of
from reliable_tasks.core.records import Granted, State
from reliable_tasks.stores.redis import RedisStore
from reliable_tasks.testing import Database, LimiterContract, StoreContract, eventually
from reliable_tasks.testing.contract import OneKey, Plant
from reliable_tasks.testing.contract.support import Fixtures
from tests.stores import redis_store

RETRY = line_of(1, 0)
AHEAD = 8_000_000_000_000_000  # microseconds: the year 2223


@pytest.fixture
def store(database: Database) -> Iterator[RedisStore]:
    with redis_store(database) as store:
        yield store


@pytest.fixture
def client(database: Database) -> Iterator[redis.Redis]:
    with database.client(decode_responses=True) as client:
        yield client


class TestRedis(StoreContract, LimiterContract):
    """With the server's own clock."""

    @pytest.fixture
    def plant(self, client: redis.Redis) -> Plant:
        def overwrite(key: str, state: str) -> None:
            client.hset(key, "s", state)

        return overwrite


def test_other_peoples_keys_are_no_records(
    store: RedisStore, database: Database, client: redis.Redis
) -> None:
    """The records may share a database with the broker, and with names that are no text."""
    OneKey(store, elapse=lambda *, ms: None, key="rt1::task:@job").start()
    client.set("celery-task-meta-1", "{}")
    client.set(b"\xff\xfe", "binary")

    assert list(store.scan()) == ["rt1::task:@job"]


def test_a_disconnected_store_connects_anew(database: Database, client: redis.Redis) -> None:
    """What is not in use is closed at once, and nothing but the connections is given up."""

    def connections() -> int:
        return sum(each["db"] == str(database.number) for each in client.client_list())

    others = connections()
    with redis_store(database) as store:
        OneKey(store, elapse=lambda *, ms: None, key="k").start()
        assert connections() == others + 1
        for _ in range(2):
            store.disconnect()
        eventually(lambda: connections() == others)
        assert store.peek("k") is not None


class TestLayout(Fixtures):
    """What stands in Redis is shared with other releases."""

    def test_a_small_record(self, key: OneKey, client: redis.Redis) -> None:
        """A job that simply runs needs a handful of fields."""
        token = key.start("a", delivery="d")
        assert client.hgetall(key.key) == {
            "s": "R",
            "j": "a",
            "t": str(token),
            "d": "d",
            "u": str(key.record.until_ms),
        }

        key.settle(token, "a", data=b"result")
        assert client.hgetall(key.key) == {
            "s": "D",
            "j": "a",
            "t": str(token),
            "d": "d",
            "u": str(key.record.until_ms),
            "o": "result",
        }

    def test_a_key_that_names_its_job(self, key: OneKey, client: redis.Redis) -> None:
        """Where the message is the identity its id is not stored again."""
        key.key += ":@a"
        token = key.start("a")
        assert client.hkeys(key.key) == ["s", "t", "d", "u"]
        key.settle(token, "a", state=State.IDLE)
        key.start("b")
        assert client.hget(key.key, "j") == "b"
        key.end("b")
        key.start("a")
        assert "j" not in client.hkeys(key.key)

        for write in (key.advance, key.end):
            client.delete(key.key)
            write("a")
            assert "j" not in client.hkeys(key.key)
        client.delete(key.key)
        key.settle(token, "a")
        assert set(client.hkeys(key.key)) == {"s", "t", "d", "u"}

    def test_a_record_with_everything(self, key: OneKey, client: redis.Redis) -> None:
        """A field stands only where there is something to say."""
        dead = key.lapse("a", RETRY, payload="p")
        token = key.start("a", RETRY + 1, payload="q", delivery="d")
        key.drain("a")
        assert client.hgetall(key.key) == {
            "s": "R",
            "j": "a",
            "t": str(token),
            "d": "d",
            "u": str(key.record.until_ms),
            "b": str(RETRY + 1),
            "a": "1",
            "p": "q",
            "x": str(dead),
            "g": "1",
        }

        key.renew(dead)
        assert not client.hexists(key.key, "x")
        key.settle(token, "a", RETRY + 1, state=State.FAILED, data=b"error")
        key.claim("a", RETRY + 1, delivery="e")
        key.close("a")
        assert client.hgetall(key.key) == {
            "s": "F",
            "j": "a",
            "t": str(token),
            "d": "e",
            "u": str(key.record.until_ms),
            "b": str(RETRY + 1),
            "a": "1",
            "p": "q",
            "o": "error",
            "n": "1",
            "m": str(key.record.replayed_ms),
            "z": "1",
        }

    def test_what_the_next_execution_leaves(self, key: OneKey, client: redis.Redis) -> None:
        """A grant takes away whatever was said of the execution before it."""
        key.run("a", RETRY, data=b"result")
        key.claim("a", RETRY, delivery="d")
        first = key.record.token
        token = key.start("b", payload="p", delivery="e")
        at_ms = key.record.facts["a"].at_ms
        assert client.hgetall(key.key) == {
            "s": "R",
            "j": "b",
            "t": str(token),
            "d": "e",
            "u": str(key.record.until_ms),
            "p": "p",
            "f:a": f"{RETRY}|D|0|1|{at_ms}|{first}|d",
            "o:a": "result",
            "q": "1",
        }

        key.close("a")
        key.drain("b")
        key.settle(token, "b", state=State.IDLE)
        key.start("c", delivery="f")
        at_ms = key.record.facts["a"].at_ms
        assert client.hgetall(key.key) == {
            "s": "R",
            "j": "c",
            "t": str(key.record.token),
            "d": "f",
            "u": str(key.record.until_ms),
            "f:a": f"{RETRY}|D|1|1|{at_ms}|{first}|",
            "q": "1",
        }

    def test_what_an_overtaken_job_leaves(self, key: OneKey, client: redis.Redis) -> None:
        """Of a job that has not ended only its newest message is remembered."""
        key.lapse("a", RETRY)
        key.start("b")

        assert client.hget(key.key, "f:a") == f"{RETRY}||0|0|{key.record.facts['a'].at_ms}|0|"

    def test_what_a_job_closed_in_time_leaves(self, key: OneKey, client: redis.Redis) -> None:
        """The outcome of a job that nobody waits for is not kept for it."""
        key.run("a", data=b"result")
        key.close("a")
        token = key.record.token
        key.start("b")

        assert client.hget(key.key, "f:a") == f"0|D|1|0|{key.record.facts['a'].at_ms}|{token}|"
        assert not client.hexists(key.key, "o:a")

    @pytest.mark.parametrize("writes", ["advance", "close", "end"])
    def test_a_word_about_a_job_beside_the_record(
        self, key: OneKey, client: redis.Redis, writes: str
    ) -> None:
        """What nothing but one word is known of takes one field."""
        key.start("a")
        before = client.hgetall(key.key)
        getattr(key, writes)("b")
        at_ms = key.record.facts["b"].at_ms

        words = {"advance": "1||0|0", "close": "0||1|0", "end": "0|F|1|0"}
        fields = before | {"f:b": f"{words[writes]}|{at_ms}|0|", "q": "1"}
        assert client.hgetall(key.key) == fields

    def test_a_record_of_a_message_alone(self, key: OneKey, client: redis.Redis) -> None:
        """A message that was published before any claim leaves an idle record."""
        key.advance("a", RETRY)
        fields = {"s": "I", "j": "a", "t": "0", "d": "", "u": "0", "b": str(RETRY)}
        assert client.hgetall(key.key) == fields

    def test_a_record_of_an_end_alone(self, key: OneKey, client: redis.Redis) -> None:
        """A job that never started is failed, closed and over."""
        key.end("a")
        record = key.record
        fields = {"s": "F", "j": "a", "t": str(record.token), "u": str(record.until_ms), "z": "1"}
        assert client.hgetall(key.key) == fields

    def test_a_quarantined_record(self, key: OneKey, client: redis.Redis) -> None:
        """A quarantine changes the state and says who died; announcements are over."""
        dead = key.run("a", state=State.IDLE, died=True)
        key.start("a", max_crashes=9, delivery="d", lease_ms=1)
        key.drain("a")
        key.elapse(ms=3)
        before = client.hgetall(key.key)
        key.claim("b", max_crashes=1)

        assert before.pop("g") == "1"
        assert client.hgetall(key.key) == before | {"s": "Q", "x": str(dead)}
        assert client.pttl(key.key) == -1

    def test_a_reservation(self, key: OneKey, client: redis.Redis) -> None:
        """Who waits, the latest turn, and whose window holds others back take a field each."""
        terms = {"latest": True, "payload": "p", "delay_ms": 60_000}
        turn = key.publish("a", **terms)
        record = key.record
        assert record.waiting is not None
        first, until = record.waiting.first_ms, record.waiting.until_ms
        fields = {
            "s": "I",
            "j": "a",
            "t": "0",
            "d": "",
            "u": "0",
            "w": f"{until}|{turn}|{first + 60_000}|{first}|p|a",
            "l": str(turn),
        }
        assert client.hgetall(key.key) == fields

        key.unreserve("a")
        key.publish("a", **terms, hold_ms=60_000)
        held = key.record.held
        assert held is not None
        assert client.hget(key.key, "h") == f"{held.since_ms + 60_000}|{held.since_ms}|a"

    def test_what_an_execution_leaves_of_a_reservation(
        self, key: OneKey, client: redis.Redis
    ) -> None:
        """A job that runs waits no longer; its turn and its window stay."""
        turn = key.publish("a", latest=True, hold_ms=60_000)
        key.settle(key.start("a", turn=turn), "a")

        assert not client.hexists(key.key, "w")
        assert client.hget(key.key, "l") == str(turn)
        assert client.hexists(key.key, "h")
        key.unreserve("a")
        assert not client.hexists(key.key, "h")

    def test_a_key_that_names_its_job_may_be_reserved(
        self, key: OneKey, client: redis.Redis
    ) -> None:
        """Where the message is the identity its id stands in the reservation alone."""
        key.key += ":@a"
        key.reserve("a")

        assert set(client.hkeys(key.key)) == {"s", "t", "d", "u", "w"}
        key.unreserve("a")
        assert not client.exists(key.key)

    def test_turns_rise_though_the_clock_was_set_back(
        self, key: OneKey, client: redis.Redis
    ) -> None:
        """While the record is there, its next turn is the next number at least, exactly."""
        key.run("x")
        client.hset(key.key, "l", AHEAD + 1)
        turn = key.publish("a", latest=True, payload="1")
        assert turn == AHEAD + 2

        assert key.publish("b", latest=True, payload="2") == AHEAD + 3
        assert client.hget(key.key, "l") == str(AHEAD + 3)

    def test_a_budget(self, store: RedisStore, client: redis.Redis) -> None:
        """Calls, places by second and by token, and what was looked through."""
        terms = BudgetTerms(ratio=0.2, minimum_per_second=10.0)
        ask = {"token": "retry--1", "wait_ms": 60_000, "calls": [(0, 2), (9, 3)], "terms": terms}
        store.withdraw("budget", **ask)

        fields = client.hgetall("budget")
        second, due_ms = int(fields["w"]), int(fields["a:retry--1"])
        assert 60_000 <= due_ms - 1_000 * second < 62_000
        assert fields == {
            f"c{second}": "2",
            f"c{second - 9}": "3",
            f"r{due_ms // 1_000}": "retry--1",
            "a:retry--1": str(due_ms),
            "w": str(second),
            "f": str(second),
            "v": "10.1",
        }
        assert 79_000 < client.pttl("budget") <= 80_000

    def test_a_breaker(self, store: RedisStore, client: redis.Redis) -> None:
        """A closed one counts by slices; an open one knows until when, and its probes."""
        terms = BreakerTerms(failures=2, window_ms=36_000_000, open_for_ms=2, probes=2)
        told = {"token": "failed-1", "failed": True, "successes": [(0, 1)], "terms": terms}
        store.report("breaker", **told)
        fields = client.hgetall("breaker")
        number = fields["w"]
        assert fields == {f"s{number}": "1", f"f{number}": "failed-1", "w": number}
        assert 36_000_000 < client.pttl("breaker") <= 36_060_000

        store.report("breaker", **told | {"token": "failed-2"})
        assert set(client.hgetall("breaker")) == {"u"}
        assert 0 < client.pttl("breaker") <= 60_004
        eventually(lambda: _is_probe(store, "probe--1", replace(terms, open_for_ms=60_000)))
        assert set(client.hgetall("breaker")) == {"u", "g:probe--1"}
        store.report("breaker", **told | {"token": "probe--1", "failed": False})
        assert (client.hkeys("breaker"), client.hget("breaker", "n")) == (["u", "n"], "1")

    def test_a_breaker_that_closes_leaves_nothing(
        self, store: RedisStore, client: redis.Redis
    ) -> None:
        """What closed is as if it had never opened."""
        terms = BreakerTerms(failures=1, window_ms=1_000, open_for_ms=2, probes=1)
        told = {"token": "run----1", "successes": [], "terms": terms}
        store.report("breaker", failed=True, **told)
        probing = replace(terms, open_for_ms=60_000)
        eventually(lambda: _is_probe(store, "run----1", probing))
        store.report("breaker", failed=False, **told)

        assert not client.exists("breaker")

    def test_facts_are_counted(self, key: OneKey, client: redis.Redis) -> None:
        """The field q tells how many facts there are, so that nobody has to count."""

        def counted() -> int:
            facts = [name for name in client.hkeys(key.key) if name.startswith("f:")]
            assert int(client.hget(key.key, "q") or 0) == len(facts)
            return len(facts)

        key.start("owner")
        sizes = []
        for number in range(100):
            key.advance(f"job-{number:03}")
            sizes.append(counted())
            key.advance(f"job-{number:03}")
            assert counted() == sizes[-1]
        assert sizes == [*range(1, 65), *(4 * [*range(56, 65)])]

        key.end("owner")
        for number in range(90, 100):
            token = key.start(f"job-{number:03}", 1)
            counted()
            key.settle(token, f"job-{number:03}", 1, state=State.IDLE)

    def test_a_count_that_falls_to_nothing_is_gone(self, key: OneKey, client: redis.Redis) -> None:
        """A record without facts says nothing of facts."""
        key.start("a", lease_ms=1)
        key.advance("b")
        key.elapse(ms=3)
        key.start("b", 1)

        assert not client.hexists(key.key, "q")
        assert not client.hexists(key.key, "f:b")

    @pytest.mark.parametrize("state", [State.RUNNING, State.IDLE, State.RETRYING])
    def test_tokens_rise_though_the_clock_was_set_back(
        self, key: OneKey, client: redis.Redis, state: State
    ) -> None:
        """While the record is there, its next token is the next number at least."""
        key.start("a", lease_ms=1)
        client.hset(key.key, mapping={"s": state, "t": AHEAD, "u": 0})
        answer = key.claim("b")
        assert isinstance(answer, Granted)
        assert answer.token == AHEAD + 1
        key.end("b")

        assert key.record.token == AHEAD + 2

    def test_a_fact_that_was_pushed_out_takes_all_its_fields_along(
        self, key: OneKey, client: redis.Redis
    ) -> None:
        """Nothing of a forgotten job stays behind."""
        key.run("first", data=b"result")
        key.start("owner")
        assert client.hexists(key.key, "o:first")
        key.elapse(ms=3)
        for number in range(64):
            key.advance(f"job-{number:03}")

        assert not client.hexists(key.key, "f:first")
        assert not client.hexists(key.key, "o:first")


def _is_probe(store: RedisStore, token: str, terms: BreakerTerms) -> bool:
    return store.admit("breaker", token=token, successes=[], terms=terms).is_probe
