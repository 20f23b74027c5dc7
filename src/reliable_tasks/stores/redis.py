"""Records in Redis, Valkey, Sentinel or Redis Cluster: one Lua script an operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from reliable_tasks.core.durations import to_ms
from reliable_tasks.core.keys import index_name, is_record
from reliable_tasks.core.limits import BreakerTerms, BudgetTerms, Counts, Passage
from reliable_tasks.core.records import (
    Answer,
    Busy,
    Confirmation,
    Death,
    Duplicate,
    Early,
    Fact,
    Finished,
    Granted,
    Held,
    Outcome,
    Poisoned,
    Record,
    Reservation,
    Reserved,
    Reused,
    Settled,
    Stale,
    State,
    Superseded,
    Unreadable,
    Waiting,
)
from reliable_tasks.core.store import SURPLUS_AT_ONCE
from reliable_tasks.stores.addresses import ClusterWay, SentinelWay, Way, way_of, way_to
from reliable_tasks.stores.channel import Channel, DirectChannel, pack
from reliable_tasks.stores.cluster import ClusterChannel
from reliable_tasks.stores.scripts import load
from reliable_tasks.stores.sentinel import SentinelChannel

__all__ = ("RedisStore",)

DEFAULT_TIMEOUT = 2.0  # seconds


class RedisStore:
    """
    The store that production uses.

    A record is one hash. Each operation is one script on one key, judged by the
    server's clock, so any number of processes may share it; repeating an
    operation after a lost reply is safe.

    Args:
        client: A `redis.Redis` (plain, TLS, from Sentinel's `master_for`) or a
            `redis.RedisCluster`. Its address and credentials are used; connections,
            time-outs and retries are this store's own.
        timeout: Seconds, above 0, that connecting, and each answer, may take.

    Raises:
        ConfigurationError: *client* is of another kind.
    """

    def __init__(self, client: Any, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._place, self._channel = _channel_of(client, timeout)
        self._claim, self._settle, self._renew = load("claim"), load("settle"), load("renew")

    @classmethod
    def from_url(cls, url: str, *, timeout: float = DEFAULT_TIMEOUT, **options: Any) -> RedisStore:
        """
        Return a store on the server at *url*; opens no connection.

        Args:
            url: ``redis://``, ``rediss://`` (TLS), ``unix://``, ``sentinel://`` or
                ``redis+cluster://``; see `addresses.way_to`.
            timeout: See the class.
            options: Passed on to redis-py.
        """
        return cls(way_to(url, timeout, options), timeout=timeout)

    @property
    def identity(self) -> str:
        return self._place

    def __repr__(self) -> str:
        return f"<RedisStore {self.identity}>"

    def disconnect(self) -> None:
        """Close the connections that are not in use; the next question opens a new one."""
        self._channel.disconnect()

    def claim(
        self,
        key: str,
        *,
        delivery: str,
        job: str,
        line: int,
        lease_ms: int,
        horizon_ms: int,
        max_crashes: int,
        payload: str = "",
        abandoned: Sequence[str] = (),
        turn: int = 0,
    ) -> Answer:
        more: tuple[int | str, ...] = (turn, *abandoned) if turn or abandoned else ()
        arguments = _terms(lease_ms, horizon_ms, max_crashes) + pack(
            delivery, job, line, payload, *more
        )
        return _answer(self._channel.run(self._claim, key, arguments, 7 + len(more)))

    def renew(
        self, leases: Sequence[tuple[str, int]], *, lease_ms: int, horizon_ms: int
    ) -> list[bool]:
        answers = self._channel.run_many(self._renew, (lease_ms, horizon_ms), leases)
        return [each == "1" for each in answers]

    def settle(
        self, key: str, *, token: int, job: str, line: int, outcome: Outcome, horizon_ms: int
    ) -> Settled | Stale:
        arguments = pack(
            token, outcome.state, outcome.keep_ms, horizon_ms, int(outcome.died), job, line
        )
        count = 7
        if outcome.data is not None:
            arguments += pack(outcome.data)
            count = 8
        reply = self._channel.run(self._settle, key, arguments, count)
        return Settled() if reply == 1 else Stale(drop=reply == 3)

    def close(self, key: str, *, job: str, horizon_ms: int, line: int | None = None) -> None:
        known: tuple[int, ...] = () if line is None else (line,)
        self._channel.run(load("close"), key, pack(job, horizon_ms, *known), 2 + len(known))

    def spare(self, key: str, *, job: str, delivery: str) -> None:
        self._channel.run(load("spare"), key, pack(job, delivery), 2)

    def end(self, key: str, *, job: str, killed: bool, horizon_ms: int) -> None:
        self._channel.run(load("end"), key, pack(job, int(killed), horizon_ms), 3)

    def drain(self, jobs: Sequence[tuple[str, str]]) -> None:
        for key, job in jobs:
            self._channel.run(load("drain"), key, pack(job), 1)

    def advance(self, key: str, *, job: str, line: int, horizon_ms: int) -> None:
        self._channel.run(load("advance"), key, pack(job, line, horizon_ms), 3)

    def reserve(self, asks: Sequence[tuple[str, Reservation]]) -> list[Reserved | Duplicate]:
        questions = [(key, _question(ask)) for key, ask in asks]
        return [_reserved(reply) for reply in self._channel.run_each(load("reserve"), questions, 7)]

    def begin_reserve(self, key: str, ask: Reservation) -> Callable[[], Reserved | Duplicate]:
        reply = self._channel.begin(load("reserve"), key, _question(ask), 7)
        return lambda: _reserved(reply())

    def confirm(self, words: Sequence[tuple[str, Confirmation]]) -> None:
        told = [(key, pack(word.job, word.keep_ms, word.hold_ms)) for key, word in words]
        at_once = any(word.at_once for _, word in words)
        self._channel.tell_each(load("confirm"), told, 3, at_once=at_once)

    def unreserve(self, key: str, *, job: str) -> None:
        self._channel.run(load("unreserve"), key, pack(job), 1)

    def peek(self, key: str) -> Record | None:
        fields = _mapping(self._channel.execute("HGETALL", key))
        left_ms = self._channel.execute("PTTL", key)
        if not fields:
            return None
        seconds, micros = self._channel.execute("TIME") if left_ms >= 0 else (0, 0)
        now_ms = int(seconds) * 1_000 + int(micros) // 1_000
        return _record(key, fields, now_ms + left_ms if left_ms >= 0 else None)

    def forget(self, key: str) -> bool:
        return bool(self._channel.execute("DEL", key))

    def scan(self, prefix: str = "") -> Iterator[str]:
        for key in self._channel.scan(_escaped(prefix) + "*"):
            if is_record(key):
                yield key.decode()

    def reopen(self, key: str, *, job: str, line: int, horizon_ms: int) -> bool:
        return bool(self._channel.run(load("reopen"), key, pack(job, line, horizon_ms), 3))

    def jot(self, name: str, line: bytes, *, most: int, keep_ms: int) -> None:
        self._channel.run(load("jot"), name, pack(line, most, keep_ms), 3)

    def jot_each(self, lines: Sequence[tuple[str, bytes]], *, most: int, keep_ms: int) -> None:
        entries = [(name, pack(line, most, keep_ms)) for name, line in lines]
        self._channel.run_each(load("jot"), entries, 3)

    def jottings(self, name: str) -> list[bytes]:
        return list(self._channel.execute("LRANGE", name, 0, -1))

    def bury(
        self, shelf: str, job: str, letter: bytes, *, at_ms: int, most: int, oldest_ms: int
    ) -> list[tuple[str, int]]:
        arguments = pack(job, letter, at_ms, most, at_ms - oldest_ms, SURPLUS_AT_ONCE)
        flat = self._channel.run_on(load("bury"), (shelf, index_name(shelf)), arguments, 6)
        return [(flat[at].decode(), int(flat[at + 1])) for at in range(0, len(flat), 2)]

    def letters(self, shelf: str) -> Iterator[tuple[str, bytes]]:
        cursor: Any = b"0"
        while True:
            cursor, found = self._channel.execute("HSCAN", shelf, cursor, "COUNT", 100)
            yield from _mapping(found).items()
            if int(cursor) == 0:
                return

    def letter(self, shelf: str, job: str) -> bytes | None:
        found: bytes | None = self._channel.execute("HGET", shelf, job)
        return found

    def letter_count(self, shelf: str) -> int:
        return int(self._channel.execute("ZCARD", index_name(shelf)))

    def unbury(self, shelf: str, job: str, *, at_ms: int) -> bool:
        keys = (shelf, index_name(shelf))
        return bool(self._channel.run_on(load("unbury"), keys, pack(job, at_ms), 2))

    def withdraw(
        self, key: str, *, token: str, wait_ms: int, calls: Counts, terms: BudgetTerms
    ) -> int:
        rates = (str(terms.ratio), str(terms.minimum_per_second))
        asked: tuple[str | int, ...] = (token, wait_ms, *rates, *chain.from_iterable(calls))
        away_ms: int = self._channel.run(load("withdraw"), key, pack(*asked), len(asked))
        return away_ms

    def admit(self, key: str, *, token: str, successes: Counts, terms: BreakerTerms) -> Passage:
        limits = (terms.window_ms, terms.open_for_ms, terms.probes)
        asked: tuple[str | int, ...] = (token, *limits, *chain.from_iterable(successes))
        kind, open_ms = self._channel.run(load("admit"), key, pack(*asked), len(asked))
        return Passage(is_open=kind == 2, is_probe=kind == 1, open_ms=open_ms)

    def report(
        self, key: str, *, token: str, failed: bool, successes: Counts, terms: BreakerTerms
    ) -> int:
        limits = (terms.failures, terms.window_ms, terms.open_for_ms, terms.probes)
        told: tuple[str | int, ...] = (token, int(failed), *limits, *chain.from_iterable(successes))
        open_ms: int = self._channel.run(load("report"), key, pack(*told), len(told))
        return open_ms


def _channel_of(client: Any, timeout: float) -> tuple[str, Channel]:
    """Return the name of the place that *client*, or a way, leads to, and the channel there."""
    timeout = to_ms("timeout of the store", timeout, least=0.001) / 1_000
    way = client if isinstance(client, Way | SentinelWay | ClusterWay) else way_of(client)
    if isinstance(way, ClusterWay):
        return way.place, ClusterChannel(way, timeout)
    if isinstance(way, SentinelWay):
        return way.place, SentinelChannel(way, timeout)
    return way.place, DirectChannel(way, timeout)


@lru_cache(maxsize=256)
def _terms(lease_ms: int, horizon_ms: int, max_crashes: int) -> bytes:
    """The packed arguments of a claim that are the same for every delivery of a task."""
    return pack(lease_ms, horizon_ms, max_crashes)


def _answer(reply: Any) -> Answer:
    """Give the reply of claim.lua its type."""
    kind = reply[0]
    if kind == 1:
        return Granted(reply[1], reply[2], _death(reply[3:]) if len(reply) > 3 else None)
    if kind == 2:
        return Busy(reply[1], reply[2] == 1, reply[3] == 1)
    if kind == 3:
        outcome = reply[5] if len(reply) > 5 else None  # RESP2 cuts an array at a trailing nil
        return Finished(State(reply[1].decode()), outcome, reply[2] == 1, reply[3], reply[4])
    if kind == 4:
        return Superseded(reply[1].decode())
    if kind == 5:
        return Poisoned(reply[1], _death(reply[2:]))
    return _seldom(reply)


def _seldom(reply: Any) -> Answer:
    if reply[0] == 8:
        return Early(reply[1])
    return Reused() if reply[0] == 6 else Unreadable()


def _death(named: Any) -> Death | None:
    """Return the execution that the end of a reply names, if it names one."""
    if not named:
        return None
    delivery, token = named
    return Death((delivery or b"").decode(), int(token or 0))


def _question(ask: Reservation) -> bytes:
    terms = (ask.grace_ms, int(ask.latest), ask.payload, ask.delay_ms, ask.limit_ms, ask.hold_ms)
    return pack(ask.job, *terms)


def _reserved(reply: Any) -> Reserved | Duplicate:
    """Give the reply of reserve.lua its type."""
    is_reserved, first, second, called_us = reply
    if is_reserved:
        return Reserved(first, second, called_us)
    return Duplicate(first.decode(), second.decode(), called_us)


def _mapping(reply: Any) -> dict[str, bytes]:
    """Return the reply of HGETALL or HSCAN as a mapping, in RESP2 and RESP3."""
    if isinstance(reply, dict):
        return {name.decode(): value for name, value in reply.items()}
    return {reply[at].decode(): reply[at + 1] for at in range(0, len(reply), 2)}


def _record(key: str, fields: dict[str, bytes], expires_ms: int | None) -> Record:
    """Read a record's hash; the layout is described in the reference."""
    text = {name: value.decode() for name, value in fields.items() if name[0] != "o"}
    state = text["s"]
    return Record(
        state=State(state) if state in set(State) else state,
        job=text["j"] if "j" in text else _named_by(key),
        token=int(text.get("t", 0)),
        delivery=text.get("d", ""),
        until_ms=int(text.get("u", 0)),
        line=int(text.get("b", 0)),
        retries=int(text.get("a", 0)),
        closed=text.get("z") == "1",
        replays=int(text.get("n", 0)),
        replayed_ms=int(text.get("m", 0)),
        suspects=tuple(int(token) for token in text.get("x", "").split(",") if token),
        draining="g" in text,
        outcome=fields.get("o"),
        payload=text.get("p", ""),
        facts={
            name[2:]: _fact(packed, fields.get(f"o:{name[2:]}"))
            for name, packed in text.items()
            if name.startswith("f:")
        },
        waiting=_waiting(text["w"]) if "w" in text else None,
        latest=int(text.get("l", 0)),
        held=_held(text["h"]) if "h" in text else None,
        expires_ms=expires_ms,
    )


def _named_by(key: str) -> str:
    """Return the job whose message is the identity, which is not stored a second time."""
    _, mark, job = key.rpartition(":@")
    return job if mark else ""


def _fact(packed: str, outcome: bytes | None) -> Fact:
    line, ended, closed, replays, at_ms, token, delivery = packed.split("|", 6)
    return Fact(
        line=int(line),
        ended=ended,
        closed=closed == "1",
        replays=int(replays),
        at_ms=int(at_ms),
        outcome=outcome,
        delivery=delivery,
        token=int(token),
    )


def _waiting(packed: str) -> Waiting:
    until_ms, turn, due_ms, first_ms, payload, job = packed.split("|", 5)
    return Waiting(job, int(until_ms), int(turn), payload, int(due_ms), int(first_ms))


def _held(packed: str) -> Held:
    until_ms, since_ms, job = packed.split("|", 2)
    return Held(job, int(until_ms), int(since_ms))


def _escaped(text: str) -> str:
    """Take the special meaning from the characters of a SCAN pattern."""
    return "".join(f"\\{each}" if each in "*?[]^-\\" else each for each in text)
