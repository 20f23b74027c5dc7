"""Presets on real servers: publishers never hang, and workers do what the settings say."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any, Literal
from unittest import mock

import kombu
import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from reliable_tasks import ConfigurationError, UniqueTask, presets, setup
from reliable_tasks.presets.rabbitmq_broker import dead_letter_queue
from reliable_tasks.presets.rendering import as_file
from reliable_tasks.presets.steps import QueueStep, declare
from reliable_tasks.testing import (
    Ledger,
    RabbitMQServer,
    Sentinels,
    Server,
    VirtualHost,
    WorkerProcess,
    close_app,
    eventually,
    rabbitmq_server,
    redis_server,
    silent_server,
    valkey_binary,
    valkey_server,
)
from reliable_tasks.testing.daemons import free_port
from reliable_tasks.testing.fixtures import StartWorker
from reliable_tasks.testing.processes import remove_directory

APP = "tests.integration.apps.preset"
BOUND = 6.0  # seconds for a publish while somebody waits
COUNTDOWN = 2.0
JOBS = 100


@contextmanager
def publisher(settings: Mapping[str, Any]) -> Iterator[Celery]:
    """An app that publishes from this process, as a web process does."""
    app = Celery("publisher", set_as_current=False)
    setup(app, settings)
    try:
        yield app
    finally:
        close_app(app)


def seconds_to_fail(app: Celery, task: Any = None) -> float:
    """Publish to a broker that does not answer, and return how long that took."""
    begun = time.monotonic()
    with pytest.raises((OperationalError, RuntimeError)):
        app.send_task("pay", ("a",)) if task is None else task.delay("a")
    return time.monotonic() - begun


def jobs_done(start: StartWorker, ledger: Ledger, env: dict[str, str]) -> WorkerProcess:
    """Start a worker with a preset, have it run a job of each kind, and return it."""
    process = start(APP, concurrency=2, env=env)
    with mock.patch.dict(os.environ, env):
        module = importlib.reload(importlib.import_module(APP))
    try:
        published = time.time()
        soon = module.pay_once.delay("soon")
        module.pay.apply_async(("later",), countdown=COUNTDOWN)
        module.pay_later.apply_async(("again",), queue="mail")
        assert soon.get(timeout=30) == "soon"
        eventually(lambda: len(ledger.entries()) == 3, timeout=60, message="three effects")
    finally:
        close_app(module.app)
    effects = {entry.job: entry.at - published for entry in ledger.entries()}
    assert sorted(effects) == ["again", "later", "soon"]
    assert effects["later"] >= COUNTDOWN - 1  # delayed delivery counts whole seconds
    return process


def environment(broker: str, results: str, taken: str = "setup", **needs: Any) -> dict[str, str]:
    return {
        "PRESET_BROKER": broker,
        "PRESET_RESULTS": results,
        "PRESET_TAKEN": taken,
        "PRESET_NEEDS": json.dumps(needs),
    }


def tls(port: int, server: Server) -> list[str]:
    """Lines that have a RabbitMQ listen on *port* with the certificate of *server*."""
    assert server.certificate
    return [
        f"listeners.ssl.1 = 127.0.0.1:{port}",
        f"listeners.ssl.2 = 127.0.0.2:{port}",  # for which the certificate is not
        f"ssl_options.cacertfile = {server.certificate}",
        f"ssl_options.certfile = {server.certificate}",
        f"ssl_options.keyfile = {server.certificate.with_name('key.pem')}",
        "ssl_options.verify = verify_none",
    ]


class TestRedis:
    """Redis and Valkey."""

    def test_what_never_answers_does_not_hold_a_request(self, valkey: Server) -> None:
        """A broker, results, or sentinels, that accept and never answer fail a publish in 6 s."""
        valkey.ensure_running()
        broker = valkey.new_database().url
        with silent_server() as url, ExitStack() as stack:
            sentinels = ";".join([url.replace("redis:", "sentinel:")] * 3)
            apps = [
                stack.enter_context(publisher(preset))
                for preset in (
                    presets.redis(url),
                    presets.redis(broker, results=url),
                    presets.redis(sentinels, sentinel_master="jobs"),
                    presets.redis(broker, results=sentinels, sentinel_master="jobs"),
                    presets.redis(url, results=f"{url}1"),  # the records too
                )
            ]

            @apps[-1].task(base=UniqueTask, shared=False)
            def pay_once(job: str) -> None: ...

            with ThreadPoolExecutor(len(apps)) as pool:
                took = pool.map(seconds_to_fail, apps, [None] * (len(apps) - 1) + [pay_once])
                assert max(took) < BOUND

    def test_the_certificate_of_a_redis_is_checked(self) -> None:
        """A publish reaches a Redis behind TLS that proves who it is, and no other."""
        with redis_server(tls=True, password="hush") as server:
            url = f"rediss://:hush@127.0.0.1:{server.port}"
            authority = str(server.certificate)
            trusted = presets.redis(f"{url}/0", results=f"{url}/1", ca_certs=authority)
            with publisher(trusted) as app:
                app.send_task("pay", ("a",))
                app.backend.client.ping()
            assert server.client(0).llen("celery") == 1

            with (
                publisher(presets.redis(f"{url}/2")) as app,
                pytest.raises(OperationalError) as error,
            ):
                app.send_task("pay", ("a",))
            assert "certificate" in str(error.value)

    def test_a_socket_is_an_address(self) -> None:
        """Broker and results may be behind a file of this machine, in databases of their own."""
        folder = Path(mkdtemp())  # short, for a socket's name has 107 letters at most
        with valkey_server(config=[f"unixsocket {folder / 'redis'}"]) as server:
            url = f"redis+socket://{folder / 'redis'}?virtual_host="
            with publisher(presets.redis(f"{url}2", results=f"{url}3")) as app:
                app.send_task("pay", ("a",))
                app.backend.client.set("b", "paid")
            assert server.client(2).llen("celery") == 1
            assert server.client(3).exists("b")
        remove_directory(folder)

    def test_a_worker_with_the_preset_for_redis(
        self, server: Server, worker: StartWorker, ledger: Ledger, tmp_path: Path
    ) -> None:
        """On Valkey with setup, on Redis with the file: tasks, countdowns and retries run."""
        broker, results = server.new_database().url, server.new_database().url
        taken = "setup" if "valkey" in str(server.binary) else "file"
        env = environment(broker, results, taken)
        preset = presets.redis(broker, results=results, queues=("jobs", "mail"), keyprefix="shop")
        (tmp_path / "celeryconfig.py").write_text(as_file(preset))

        with mock.patch("sys.path", [str(tmp_path), *sys.path]), mock.patch.dict(sys.modules):
            process = jobs_done(worker, ledger, env)

        assert "the app's own settings say" not in process.log

    @pytest.mark.chaos
    def test_a_worker_behind_sentinels(self, worker: StartWorker, ledger: Ledger) -> None:
        """With the heartbeat, through a fail-over of broker, results and records."""
        with Sentinels(valkey_binary()) as group:
            broker, results = (
                ";".join(f"{each}/{number}" for each in group.url.split(";")) for number in (1, 2)
            )
            needs = {"sentinel_master": group.name, "heartbeat": True}
            env = environment(broker, results, **needs)
            process = jobs_done(worker, ledger, env)
            group.primary.kill()
            eventually(lambda: group.primary_port() == group.replica.port, timeout=60)

            needs |= {"publishers": "worker", "queues": "jobs"}
            preset = presets.redis(broker, keyprefix="shop", **needs)
            with publisher(preset) as app:
                for number in range(3):
                    app.send_task(f"{APP}.pay_once", (f"late {number}",))
                late = {f"late {number}" for number in range(3)}
                eventually(lambda: late <= set(ledger.counts()), timeout=60, message="effects")
            assert set(ledger.counts().values()) == {1}
            assert process.is_running
            assert "the app's own settings" not in process.log


class TestRabbitMQ:
    """RabbitMQ, and a Redis beside it."""

    def test_what_falls_silent_does_not_hold_a_request(
        self, valkey: Server, rabbitmq: RabbitMQServer, vhost: VirtualHost
    ) -> None:
        """Nor does a Redis or a RabbitMQ that stands still behind a connection that worked."""
        valkey.ensure_running()
        with (
            publisher(presets.redis(valkey.new_database().url)) as one,
            publisher(presets.rabbitmq(vhost.url)) as other,
            ThreadPoolExecutor(2) as pool,
        ):
            one.send_task("pay", ("a",))
            other.send_task("pay", ("a",))
            valkey.pause()
            rabbitmq.pause()
            try:
                assert max(pool.map(seconds_to_fail, (one, other))) < BOUND
            finally:
                valkey.resume()
                rabbitmq.resume()

    def test_a_worker_with_the_preset_for_rabbitmq(
        self, vhost: VirtualHost, valkey: Server, worker: StartWorker, ledger: Ledger
    ) -> None:
        """Quorum queues, topic exchanges, delayed delivery: tasks, countdowns and retries run."""
        valkey.ensure_running()
        env = environment(vhost.url, valkey.new_database().url)
        process = jobs_done(worker, ledger, env)
        queues = vhost.queues()

        assert {
            "jobs",
            "mail",
            dead_letter_queue("jobs"),
            dead_letter_queue("mail"),
        } <= queues.keys()
        assert "celery" not in queues
        assert "direct exchange" not in process.log
        assert "onnection to broker lost" not in process.log

    @pytest.mark.parametrize("pool", ["gevent", pytest.param("eventlet", marks=pytest.mark.chaos)])
    def test_greenlets_with_events(
        self, vhost: VirtualHost, valkey: Server, worker: StartWorker, ledger: Ledger, pool: str
    ) -> None:
        """A worker with greenlets whose events are on does all of its jobs, and ends."""
        valkey.ensure_running()
        results = valkey.new_database().url
        env = environment(vhost.url, results, workload="io", concurrency=10)
        process = worker(APP, env=env, pool=pool, concurrency=10, arguments=["-E"])

        with publisher(presets.rabbitmq(vhost.url)) as app:
            for number in range(JOBS):
                app.send_task(f"{APP}.pay", (str(number),))
        eventually(lambda: len(ledger.counts()) == JOBS, timeout=30)

        assert process.terminate(timeout=30) == 0

    @pytest.mark.chaos
    def test_the_certificates_of_both_are_checked(
        self, worker: StartWorker, ledger: Ledger
    ) -> None:
        """Behind amqps:// and rediss:// jobs run if both prove who they are, else nowhere."""
        port = free_port()
        with redis_server(tls=True) as redis, rabbitmq_server(config=tls(port, redis)) as rabbitmq:
            vhost, other = rabbitmq.new_vhost().name, rabbitmq.new_vhost().name
            dead, url = f"amqps://127.0.0.3:{port}/{vhost}", f"amqps://127.0.0.1:{port}/{vhost}"
            results = f"rediss://127.0.0.1:{redis.port}/1"
            authority = str(redis.certificate)
            process = jobs_done(
                worker, ledger, environment(f"{dead};{url}", results, ca_certs=authority)
            )
            assert "the app's own settings" not in process.log

            strangers = {
                "certificate verify failed": presets.rabbitmq(f"amqps://127.0.0.1:{port}/{other}"),
                "IP address mismatch": presets.rabbitmq(
                    f"amqps://127.0.0.2:{port}/{other}", ca_certs=authority
                ),
            }
            for reason, preset in strangers.items():
                with publisher(preset) as app, pytest.raises(OperationalError, match=reason):
                    app.send_task("pay", ("a",))

    @pytest.mark.chaos
    def test_countdowns_for_queues_that_nobody_reads_yet(
        self, vhost: VirtualHost, valkey: Server, worker: StartWorker, ledger: Ledger
    ) -> None:
        """The first worker reads one queue and declares all: a countdown for another is kept."""
        valkey.ensure_running()
        env = environment(vhost.url, valkey.new_database().url)
        worker(APP, env=env, queues=["jobs"])
        with publisher(presets.rabbitmq(vhost.url, queues=("jobs", "mail"))) as app:
            app.send_task(f"{APP}.pay", ("later",), queue="mail", countdown=1)
            eventually(lambda: vhost.queues()["mail"].ready == 1, message="its time comes")
            worker(APP, env=env, queues=["mail"])
            eventually(lambda: ledger.counts() == {"later": 1}, timeout=60)

    @pytest.mark.parametrize("queue_type", ["quorum", "classic"])
    def test_a_queue_of_another_type_is_explained(
        self, vhost: VirtualHost, queue_type: Literal["quorum", "classic"]
    ) -> None:
        """A queue of the same name stays what it is; a worker's error says what to do."""
        there = kombu.Queue("jobs", durable=True)
        if queue_type == "classic":
            there = kombu.Queue("jobs", queue_arguments={"x-queue-type": "quorum"})
        with vhost.connection() as connection:
            there(connection.default_channel).declare()
        with (
            publisher(presets.rabbitmq(vhost.url, queue_type=queue_type)) as app,
            pytest.raises(ConfigurationError, match=r"queue 'jobs' .*inequivalent arg.*queues="),
        ):
            QueueStep(SimpleNamespace(app=app)).start(SimpleNamespace(app=app))
        assert dead_letter_queue("jobs") not in vhost.queues()

    def test_dead_letters_are_kept(self, vhost: VirtualHost) -> None:
        """What a worker rejects for good is in the queue of dead letters, whole."""
        with (
            publisher(presets.rabbitmq(vhost.url)) as app,
            app.connection_for_write() as connection,
        ):
            queues = list(app.amqp.queues.values())
            declare(connection, queues)
            app.send_task("pay", ("a",))
            message = eventually(queues[0](connection.default_channel).get)
            message.reject()

            dead = kombu.Queue(dead_letter_queue("jobs"))(connection.default_channel)
            letter = eventually(dead.get)
        assert letter.headers["task"] == "pay"
