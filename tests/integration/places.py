"""What the tests of places share: a round of every operation, faulty servers, and closing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from reliable_tasks.core.keys import notes_key, shelf_name
from reliable_tasks.core.records import (
    Confirmation,
    Duplicate,
    Finished,
    Granted,
    Outcome,
    Reservation,
    Reserved,
    Settled,
    Stale,
    State,
)
from reliable_tasks.core.store import Store
from reliable_tasks.stores.redis import RedisStore

HORIZON_MS = 60_000
TERMS: dict[str, Any] = {"lease_ms": 20_000, "horizon_ms": HORIZON_MS, "max_crashes": 3}
SHELF = shelf_name("places")


def key_of(name: str) -> str:
    """Return the record key of a name."""
    return f"rt1:places:task:{name}"


def claim(store: Store, name: str, *, delivery: str = "d1", job: str = "job", **terms: Any) -> Any:
    """Claim the record called *name*."""
    return store.claim(key_of(name), delivery=delivery, job=job, line=0, **{**TERMS, **terms})


def settle(store: Store, name: str, token: int, *, job: str = "job") -> Settled | Stale:
    """Record that the execution with *token* is done."""
    outcome = Outcome(State.DONE, "zażółć".encode(), HORIZON_MS)
    return store.settle(
        key_of(name), token=token, job=job, line=0, outcome=outcome, horizon_ms=HORIZON_MS
    )


def one_life(store: Store, name: str) -> None:
    """Take one record through every operation; each answer must be what it means."""
    key = key_of(name)
    granted = claim(store, name)
    assert isinstance(granted, Granted)
    assert claim(store, name) == granted
    assert granted.token > 10**15
    leases = [(key, granted.token), (key, granted.token - 1), (key_of("none"), 7)]
    assert store.renew(leases, lease_ms=20_000, horizon_ms=HORIZON_MS) == [True, False, False]
    store.drain([(key, "job")])
    assert settle(store, name, granted.token) == Settled()
    assert isinstance(settle(store, name, granted.token - 1), Stale)
    replayed = claim(store, name, delivery="d2", job="other")
    assert isinstance(replayed, Finished)
    assert replayed.outcome == "zażółć".encode()
    store.close(key, job="job", horizon_ms=HORIZON_MS)
    store.advance(key, job="other", line=1, horizon_ms=HORIZON_MS)
    store.end(key_of(f"{name}-2"), job="job", killed=True, horizon_ms=HORIZON_MS)
    record = store.peek(key)
    assert record is not None
    assert (record.state, record.outcome) == (State.DONE, "zażółć".encode())
    assert {key, key_of(f"{name}-2")} <= set(store.scan("rt1:places:task:"))
    published(store, key_of(f"{name}-3"), key_of(f"{name}-4"))
    store.bury(SHELF, name, b"\x00letter", at_ms=7, most=1_000, oldest_ms=9)
    assert (name, b"\x00letter") in list(store.letters(SHELF))
    assert store.letter(SHELF, name) == b"\x00letter"
    assert store.unbury(SHELF, name, at_ms=7)
    assert store.reopen(key_of(f"{name}-2"), job="job", line=1, horizon_ms=HORIZON_MS)
    store.jot(notes_key("places", name), b"line", most=2, keep_ms=60_000)
    assert store.jottings(notes_key("places", name)) == [b"line"]
    assert store.forget(key)
    assert store.peek(key) is None


def published(store: Store, *keys: str) -> None:
    """Take records through what producers ask and say."""
    ask = Reservation("job", 20_000, latest=True, hold_ms=HORIZON_MS)
    asks = [(key, ask) for key in keys]
    for _ in range(3):  # the first confirmation of a channel is awaited, others are not
        reserved = store.reserve(asks)
        assert all(isinstance(answer, Reserved) for answer in reserved)
        store.confirm([(key, Confirmation("job", HORIZON_MS, hold_ms=HORIZON_MS)) for key in keys])
        other = [(key, Reservation("other", 20_000)) for key in keys]
        assert store.reserve(other) == [Duplicate("job", "queued")] * len(keys)
        for key in keys:
            record = store.peek(key)
            assert record is not None
            assert record.held is not None
            store.unreserve(key, job="job")
    assert store.reserve(other) == [Reserved()] * len(keys)


@contextmanager
def closing(store: RedisStore) -> Iterator[RedisStore]:
    """Give *store*, and close its connections in the end."""
    try:
        yield store
    finally:
        store.disconnect()


@contextmanager
def scripted_server(reply: bytes) -> Iterator[str]:
    """
    Give the address of a server that agrees to all until a script comes, which it answers oddly.

    Args:
        reply: The bytes that answer a script; the server then falls silent.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def talk(connection: socket.socket) -> None:
        with suppress(OSError):
            while received := connection.recv(65_536):
                connection.sendall(reply if b"EVAL" in received else b"+OK\r\n")

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                accepted.append(connection)
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        # RESP2: its handshake is content with "OK".
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0?protocol=2"
    finally:
        for each in (listener, *accepted):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
