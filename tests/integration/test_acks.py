"""Acknowledgements that nobody waits for, on a real server through kombu's own channel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from kombu import Connection

from reliable_tasks.broker import acks
from reliable_tasks.broker.acks import PromptAcks
from reliable_tasks.testing import eventually, valkey_server

pytestmark = [pytest.mark.integration, pytest.mark.hooks]

PAUSE = 3.0  # seconds that the server does not answer
MARGIN = 20.0  # for a busy machine


class Held:
    """A channel with deliveries that nobody acknowledged yet."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.acks = PromptAcks(channel, lambda message: message.headers["task"] == "guarded")
        self.acks.install()

    def take(self, task: str = "guarded") -> Any:
        """Publish a message of *task* and take it."""
        queue = self.channel.connection.client.SimpleQueue("work", no_ack=False)
        queue.put({}, headers={"task": task})
        message = queue.queue(self.channel).get()
        queue.close()
        return message

    def held(self) -> tuple[int, int]:
        """How many deliveries are in kombu's hash, and how many in its index."""
        client = self.channel.client
        return client.hlen(self.channel.unacked_key), client.zcard(self.channel.unacked_index_key)

    def cut(self, database: Any) -> None:
        """Cut the connection that acknowledgements leave by."""
        host, port = self.acks._connection._sock.getsockname()
        with database.client() as client:
            client.client_kill(f"{host}:{port}")


@pytest.fixture
def database(valkey):
    """A database of the shared server."""
    valkey.ensure_running()
    return valkey.new_database()


@pytest.fixture
def opened() -> Iterator[Callable[..., Held]]:
    """Open channels, and close them after the test."""
    with ExitStack() as stack:

        def opened(url: str, **options: Any) -> Held:
            connection = stack.enter_context(Connection(url, transport_options=options))
            channel = connection.channel()
            stack.callback(channel.close)
            return Held(channel)

        yield opened


def test_nobody_waits_for_a_guarded_message(database, opened):
    """It leaves while the server is busy, and does what kombu's own does."""
    held = opened(database.url)
    held.take().ack()  # connects
    message = held.take()
    with database.client() as client:
        client.client_pause(round(PAUSE * 1_000), all=False)
        begun = time.monotonic()
        message.ack()
        took = time.monotonic() - begun

    assert message.acknowledged
    assert took < PAUSE / 2
    eventually(lambda: held.held() == (0, 0))


def test_a_plain_message_is_waited_for(database, opened):
    """For if that is lost the task runs twice."""
    held = opened(database.url)
    message = held.take("plain")

    message.ack()

    assert held.held() == (0, 0)
    assert held.acks._connection is None


def test_close_waits_for_all(database, opened):
    """What ends after it is waited for too."""
    held = opened(database.url)
    *firsts, last = (held.take() for _ in range(4))
    for each in firsts:
        each.ack()

    held.acks.close()

    assert held.held() == (1, 1)
    last.ack()
    assert held.held() == (0, 0)


def test_nobody_waits_for_those_before(database, opened):
    """A far-off broker does not make an acknowledgement wait for the reply to another."""
    held = opened(database.url)
    held.take().ack()  # connects
    messages = [held.take() for _ in range(20)]
    with database.client() as client:
        client.client_pause(round(PAUSE * 1_000), all=False)
        begun = time.monotonic()
        for each in messages:
            each.ack()
        took = time.monotonic() - begun

    assert took < PAUSE / 2
    eventually(lambda: held.held() == (0, 0))


def test_the_replies_do_not_pile_up(database, opened, monkeypatch):
    """Neither in the server nor in the worker, and one connection does for all."""
    monkeypatch.setattr(acks, "MOST_UNREAD", 10)
    held = opened(database.url)
    for _ in range(50):
        held.take().ack()
        assert len(held.acks._unread) <= 10
    connection = held.acks._connection
    held.take().ack()

    assert held.acks._connection is connection
    held.acks.close()
    assert held.held() == (0, 0)
    assert not held.acks._unread
    with database.client() as client:
        assert all(each["omem"] == "0" for each in client.client_list())


def test_many_at_once(database, opened):
    """Threads of a pool acknowledge side by side."""
    held = opened(database.url)
    messages = [held.take() for _ in range(200)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda each: each.ack(), messages))

    held.acks.close()

    assert held.held() == (0, 0)


def test_keys_have_their_prefix(database, opened):
    """Another team's keys on the same server are not touched."""
    held = opened(database.url, global_keyprefix="team:")
    message = held.take()
    with database.client() as client:
        client.hset("unacked", message.delivery_tag, "another team's")
        assert client.hlen("team:unacked") == 1
        message.ack()
        held.acks.close()

        assert client.hlen("team:unacked") == client.zcard("team:unacked_index") == 0
        assert client.hlen("unacked") == 1


def test_a_cut_connection(database, opened):
    """What was sent into it is repeated, as soon as the next one cannot be sent."""
    held = opened(database.url)
    held.take().ack()
    lost, next_one = held.take(), held.take()
    held.cut(database)
    lost.ack()
    assert held.held() == (2, 2)

    next_one.ack()

    eventually(lambda: held.held() == (0, 0))
    held.take().ack()
    held.acks.close()
    assert held.held() == (0, 0)


def test_an_idle_connection(database, opened, monkeypatch):
    """The server, or what is on the way, may have closed it: what is sent into it would be lost."""
    monkeypatch.setattr(acks, "IDLE", 0)
    held = opened(database.url)
    held.take().ack()
    message = held.take()
    held.cut(database)

    message.ack()

    eventually(lambda: held.held() == (0, 0))


def test_one_in_the_middle_of_another(database, opened, monkeypatch):
    """A signal handler that stops the pool acknowledges what is done: it cannot wait its turn."""
    held = opened(database.url)
    first, second = held.take(), held.take()
    write, others = held.acks._write, [second]

    def interrupted(tags):
        while others:
            others.pop().ack()
        write(tags)

    monkeypatch.setattr(held.acks, "_write", interrupted)
    first.ack()
    held.acks.close()

    assert held.held() == (0, 0)


def test_a_channel_that_was_closed(database, opened, caplog):
    """Celery closes it before the steps stop, when the worker's connections are lost."""
    held = opened(database.url)
    held.take().ack()
    lost = held.take()
    held.cut(database)
    lost.ack()
    held.channel.close()

    held.acks.close()

    with database.client() as client:
        assert client.hlen("unacked") == client.zcard("unacked_index") == 0
    assert not caplog.records


def test_a_slow_broker(database, opened, monkeypatch):
    """An answer that takes too long is not waited for; kombu's own way does that."""
    monkeypatch.setattr(acks, "SOCKET_TIMEOUT", 0.2)
    monkeypatch.setattr(acks, "MOST_UNREAD", 1)
    held = opened(database.url)
    held.take().ack()
    held.acks._read_until(0)
    first, second = held.take(), held.take()
    with database.client() as client:
        client.client_pause(round(PAUSE * 1_000), all=False)
        first.ack()
        second.ack()

    held.acks.close()
    assert held.held() == (0, 0)


@pytest.mark.parametrize("is_mended", [True, False], ids=["mended", "for good"])
def test_a_refusal(opened, caplog, monkeypatch, is_mended):
    """Kombu's own way tells the worker of the next one; at the end it is said what may be lost."""
    monkeypatch.setattr(acks, "MOST_UNREAD", 1)
    rights = "~* &* +@all"
    with valkey_server(acl=["user default off", f"user work on >secret {rights}"]) as server:
        held = opened(server.url_for(1, username="work", password="secret"))
        refused, next_one = held.take(), held.take()
        change = held.channel.client.acl_setuser
        change("work", enabled=True, commands=["-hdel"])
        try:
            refused.ack()
            with pytest.raises(Exception, match="hdel"):
                next_one.ack()
            if not is_mended:
                held.acks.close()
        finally:
            change("work", enabled=True, commands=["+hdel"])
        next_one.ack()
        if is_mended:
            held.acks.close()

        assert held.held() == ((0, 0) if is_mended else (1, 1))
    assert ("1 acknowledgements may be lost" in caplog.text) is not is_mended
    assert "secret" not in caplog.text
