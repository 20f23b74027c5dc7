"""What users test with, as they type it."""

from __future__ import annotations

from collections import Counter
from typing import assert_type

import redis

from reliable_tasks.testing import (
    BeatProcess,
    Database,
    Ledger,
    PostgresDatabase,
    PostgresServer,
    QueueState,
    RabbitMQServer,
    Server,
    VirtualHost,
    WorkerProcess,
    eventually,
    postgres_server,
    rabbitmq_server,
    redis_server,
    valkey_server,
)


def a_server() -> None:
    with valkey_server(appendonly=True) as server:
        assert_type(server, Server)
        assert_type(server.url, str)
        assert_type(server.port, int)
        assert_type(server.client(), redis.Redis)
        server.pause()
        server.resume()
        server.kill()
        server.restart()
    assert_type(redis_server(password="secret"), Server)


def a_database(server: Server) -> None:
    assert_type(server.new_database(), Database)
    assert_type(server.new_database().url, str)


def a_rabbitmq() -> None:
    with rabbitmq_server(config=["consumer_timeout = 5000"]) as server:
        assert_type(server, RabbitMQServer)
        assert_type(server.new_vhost(), VirtualHost)
        assert_type(server.new_vhost().url, str)
        assert_type(server.new_vhost().queues(), dict[str, QueueState])
        server.sync()
        server.new_vhost().cut()
        server.pause()
        server.kill()
        server.restart()


def a_postgres() -> None:
    with postgres_server(config=["max_connections = 20"]) as server:
        assert_type(server, PostgresServer)
        database = server.new_database()
        assert_type(database, PostgresDatabase)
        assert_type(database.url, str)
        assert_type(database.query("SELECT 1"), list[list[str]])
        assert_type(database.backends(), list[int])
        assert_type(database.unclean_ends(), int)
        server.kill()
        server.restart()


def the_awaited_value_keeps_its_type(answers: list[str]) -> None:
    assert_type(eventually(lambda: len(answers), timeout=1.0), int)


def effects(ledger: Ledger) -> None:
    ledger.effect("job", cents=100)
    assert_type(ledger.counts(), Counter[str])
    assert_type(ledger.env, dict[str, str])


def a_worker(worker: WorkerProcess) -> None:
    with worker as running:
        assert_type(running, WorkerProcess)
        assert_type(running.pid, int)
        assert_type(running.children(), list[int])
        assert_type(running.kill_child(), int)
        assert_type(running.log, str)


def a_beat(beat: BeatProcess) -> None:
    with beat as running:
        assert_type(running, BeatProcess)
        assert_type(running.pid, int)
        running.pause()
        running.resume()
        assert_type(running.terminate(), int | None)
        assert_type(running.restart(), BeatProcess)
