"""Broken set-ups for the doctor: each breaks one thing of a healthy shop, on real servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from unittest import mock

import kombu
from celery import Celery, _state

from reliable_tasks.doctor import Report, examine
from reliable_tasks.doctor.probes import greeting
from reliable_tasks.testing import (
    RabbitMQServer,
    Server,
    VirtualHost,
    WorkerProcess,
    close_app,
    eventually,
    silent_server,
    valkey_server,
)
from reliable_tasks.testing.daemons import free_port
from tests.integration.apps.doctored import ROUTES, shop

BUILTINS = "celery.app.builtins"
WORKER = "tests.integration.apps.doctored_worker"
PATIENCE = 0.6  # seconds for an answer of what is healthy
LOOKS = 5  # a worker of a busy machine may answer too late
IMPATIENCE = 0.5  # seconds for an answer of what never answers
WRONG = "hush"  # password
ALONE = "alone"  # the lane of those that are looked at after all others

Seed = Callable[["Ground"], Iterator[Celery]]


@dataclass(frozen=True, slots=True)
class SetUp:
    """
    One set-up.

    Attributes:
        name: In short how it is broken.
        ids: What the doctor must find, and no more.
        lane: Those of one lane are looked at one after the other; "" for one that disturbs nobody.
        patience: Seconds for one answer.
        grace_period: Seconds that whoever deploys gives a worker.
    """

    name: str
    ids: frozenset[str]
    seed: Callable[[Ground], AbstractContextManager[Celery]]
    lane: str = ""
    patience: float = PATIENCE
    grace_period: float | None = None


SET_UPS: dict[str, SetUp] = {}


def set_up(*ids: str, **terms: Any) -> Callable[[Seed], Seed]:
    """Add a set-up to the table; its name is that of the function, which yields the app."""

    def add(seed: Seed) -> Seed:
        name = seed.__name__
        SET_UPS[name] = SetUp(name, frozenset(ids), contextmanager(seed), **terms)
        return seed

    return add


class Ground:
    """Servers and workers that all set-ups share."""

    def __init__(self, valkey: Server, rabbitmq: RabbitMQServer, folder: Path) -> None:
        self.fuse = folder / "fuse"
        self.valkey, self.rabbitmq = valkey, rabbitmq
        self.results = valkey.new_database().url
        self.calm, self.odd = valkey.new_database(), valkey.new_database()
        self.vhost = rabbitmq.new_vhost()
        self._stack, self._asking = ExitStack(), threading.Lock()

    def __enter__(self) -> Self:
        started = [
            self._start(self.calm.url),
            self._start(self.odd.url, DOCTOR_HEARTBEAT="1"),
            self._start(self.odd.url, DOCTOR_HEARTBEAT="1"),
            self._start(self.vhost.url),
        ]
        # Tasks that other tests' apps share would be in these apps, and in no worker.
        own = {each for each in _state._on_app_finalizers if each.__module__ == BUILTINS}
        self._stack.enter_context(mock.patch.object(_state, "_on_app_finalizers", own))
        for worker in started:
            worker.wait_ready()
        self._changing = started[1]
        self.locked = self._stack.enter_context(valkey_server(password="right"))
        self.sick = self._stack.enter_context(valkey_server(appendonly=True))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _start(self, broker: str, **env: str) -> WorkerProcess:
        env = {"DOCTOR_BROKER": broker, "DOCTOR_RESULTS": self.results, **env}
        env["DOCTOR_FUSE"] = str(self.fuse)
        worker = WorkerProcess(WORKER, concurrency=1, env=env)
        self._stack.callback(worker.close)
        return worker.start()

    def app(self, broker: str, **wishes: Any) -> Celery:
        """Return a healthy app at *broker*, but for what is wished; its results are elsewhere."""
        app = shop(broker, **{"results": self.results, **wishes})
        self._stack.callback(close_app, app)
        return app

    def new_vhost(self) -> VirtualHost:
        """Return a virtual host of its own; RabbitMQ is asked by one at a time."""
        with self._asking:
            return self.rabbitmq.new_vhost()

    def odd_app(self, **wishes: Any) -> Celery:
        """Return a healthy app where two workers are, one of which may become odd."""
        return self.app(self.odd.url, **{"heartbeat": True, **wishes})

    @contextmanager
    def become(self, what: str) -> Iterator[Celery]:
        """Make one worker odd for a while; the app is healthy."""
        app = self.odd_app()
        tell = {"destination": [self._changing.name], "reply": True, "limit": 1, "timeout": 20}
        assert app.control.broadcast("become", arguments={"what": what}, **tell)
        try:
            yield app
        finally:
            assert app.control.broadcast("become", **tell)


def look(one: SetUp, ground: Ground) -> Report:
    """Examine a set-up."""
    with one.seed(ground) as app:
        for _ in range(LOOKS):
            report = examine(app, timeout=one.patience, grace_period=one.grace_period)
            if report.ids == one.ids:
                break
    return report


def look_at_all(ground: Ground) -> dict[str, Report]:
    """Look at every set-up, those of different lanes side by side."""
    lanes: dict[str, list[SetUp]] = {}
    for one in SET_UPS.values():
        lanes.setdefault(one.lane or one.name, []).append(one)
    last = lanes.pop(ALONE, [])

    def ride(lane: list[SetUp]) -> dict[str, Report]:
        return {one.name: look(one, ground) for one in lane}

    with ThreadPoolExecutor(8) as pool:
        by_length = sorted(lanes.values(), key=len, reverse=True)
        rides = list(pool.map(ride, by_length))
    return {name: report for rode in [*rides, ride(last)] for name, report in rode.items()}


# --- healthy -----------------------------------------------------------------------------------


@set_up()
def healthy_redis(ground):
    """Records with the results."""
    yield ground.app(ground.calm.url)


@set_up()
def healthy_without_remote_control(ground):
    """Nobody can be asked, which is no reason to say that nobody is there."""
    yield ground.app(ground.calm.url, WORKER_ENABLE_REMOTE_CONTROL=False)


@set_up(lane="odd")
def healthy_redis_with_heartbeat(ground):
    """A visibility timeout of a minute, which relies on the heartbeat; two workers."""
    yield ground.odd_app()


@set_up(lane="rabbit")
def healthy_rabbitmq(ground):
    """Quorum queues."""
    yield ground.app(ground.vhost.url)


# --- the broker cannot be used -----------------------------------------------------------------


@set_up("broker-refused")
def nothing_listens_redis(ground):
    yield ground.app(f"redis://127.0.0.1:{free_port()}/0", store=ground.results)


@set_up("broker-refused")
def nothing_listens_rabbitmq(ground):
    yield ground.app(f"amqp://127.0.0.1:{free_port()}//")


@set_up("broker-silent", patience=IMPATIENCE)
def never_answers_redis(ground):
    with silent_server() as url:
        yield ground.app(url, store=ground.results)


@set_up("broker-silent", patience=IMPATIENCE)
def never_answers_rabbitmq(ground):
    with silent_server() as url:
        yield ground.app(url.replace("redis://", "amqp://"))


@set_up("broker-host")
def no_such_host_redis(ground):
    yield ground.app("redis://no-such-host.invalid:6379/0", store=ground.results)


@set_up("broker-host")
def no_such_host_rabbitmq(ground):
    yield ground.app("amqp://no-such-host.invalid//")


@set_up("broker-port", lane=ALONE, patience=IMPATIENCE)
def another_port_redis(ground):
    usual = {**greeting.USUAL_PORTS, "redis": ground.valkey.port}
    with mock.patch.dict(greeting.USUAL_PORTS, usual):
        yield ground.app(f"redis://127.0.0.1:{free_port()}/0", store=ground.results)


@set_up("broker-port", lane=ALONE, patience=IMPATIENCE)
def the_port_of_the_management(ground):
    """An HTTP server answers there."""
    usual = {**greeting.USUAL_PORTS, "rabbitmq": ground.rabbitmq.port}
    with mock.patch.dict(greeting.USUAL_PORTS, usual), http_server() as port:
        yield ground.app(f"amqp://127.0.0.1:{port}//")


@set_up("broker-scheme")
def redis_at_a_rabbitmq(ground):
    yield ground.app(f"redis://127.0.0.1:{ground.rabbitmq.port}/0", store=ground.results)


@set_up("broker-scheme", patience=IMPATIENCE)
def amqp_at_a_redis(ground):
    yield ground.app(f"amqp://127.0.0.1:{ground.valkey.port}//")


@set_up("broker-password")
def wrong_password_redis(ground):
    yield ground.app(ground.locked.url_for(0, password=WRONG), store=ground.results)


@set_up("broker-password")
def no_password_redis(ground):
    yield ground.app(f"redis://127.0.0.1:{ground.locked.port}/0", store=ground.results)


@set_up("broker-password")
def wrong_password_rabbitmq(ground):
    yield ground.app(f"amqp://guest:{WRONG}@127.0.0.1:{ground.rabbitmq.port}//")


@set_up("broker-vhost")
def no_such_vhost(ground):
    yield ground.app(ground.rabbitmq.url_for("nowhere"))


@set_up("broker-database")
def no_such_database(ground):
    yield ground.app(ground.valkey.url_for(9_999), store=ground.results)


@set_up("broker-tls", patience=IMPATIENCE)
def tls_at_a_plain_redis(ground):
    yield ground.app(f"rediss://127.0.0.1:{ground.valkey.port}/0", store=ground.results)


@set_up("broker-tls")
def tls_at_a_plain_rabbitmq(ground):
    yield ground.app(f"amqps://127.0.0.1:{ground.rabbitmq.port}//")


@contextmanager
def http_server() -> Iterator[int]:
    """A server that speaks HTTP, on a free port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


# --- workers -----------------------------------------------------------------------------------


@set_up("worker-none")
def no_worker_redis(ground):
    """And nobody anywhere else knows its tasks."""
    app = ground.app(ground.valkey.new_database().url)
    for name in ("shop.charge", "shop.greet"):
        task = app.tasks.pop(name)
        app.task(task.run, name=f"other.{name}", shared=False)
    yield app


@set_up("worker-none")
def no_worker_rabbitmq(ground):
    vhost = ground.new_vhost()
    yield ground.app(vhost.url)


@set_up("worker-elsewhere", lane=ALONE)
def a_worker_at_another_database(ground):
    yield ground.app(ground.valkey.new_database().url)


@set_up("worker-elsewhere", lane=ALONE)
def a_worker_under_another_prefix(ground):
    yield ground.app(ground.calm.url, keyprefix="team")


@set_up("code-differs", lane="odd")
def two_releases_of_a_task(ground):
    with ground.become("code") as app:
        yield app


@set_up("clock-skew", lane="odd")
def a_clock_that_is_ahead(ground):
    with ground.become("clock") as app:
        yield app


@set_up("task-unregistered", lane="odd")
def a_task_that_a_worker_does_not_know(ground):
    with ground.become("task") as app:
        yield app


@set_up("worker-settings-differ", lane="odd")
def other_settings_at_a_worker(ground):
    with ground.become("settings") as app:
        yield app


@set_up("visibility-timeout-differs", lane="odd")
def another_visibility_timeout_at_a_worker(ground):
    with ground.become("visibility") as app:
        yield app


@set_up("worker-without-heartbeat", lane="odd")
def a_worker_without_heartbeat(ground):
    with ground.become("heartbeat") as app:
        yield app


@set_up("content-refused")
def a_content_type_that_workers_refuse(ground):
    app = ground.app(ground.calm.url)
    app.tasks["shop.greet"].serializer = "yaml"
    yield app


# --- queues ------------------------------------------------------------------------------------


@set_up("queue-unread", lane="odd")
def a_queue_that_nobody_reads(ground):
    app = ground.odd_app()
    tell = {"reply": True, "limit": 2, "timeout": 20}
    app.control.cancel_consumer("mail", **tell)
    try:
        yield app
    finally:
        app.control.add_consumer("mail", **tell)


@set_up("queue-unread", lane="rabbit")
def a_quorum_queue_that_nobody_reads(ground):
    app = ground.app(ground.vhost.url)
    tell = {"reply": True, "limit": 1, "timeout": 20}
    app.control.cancel_consumer("mail", **tell)
    try:
        yield app
    finally:
        app.control.add_consumer("mail", **tell)


@set_up("queue-misspelt", lane="odd")
def a_message_in_a_queue_with_a_typo(ground):
    typing = Celery("typing", broker=ground.odd.url, set_as_current=False)
    typing.send_task("shop.greet", ("Ann",), queue="job")
    close_app(typing)
    try:
        yield ground.odd_app()
    finally:
        with ground.odd.client() as client:
            client.delete("job")


@set_up("route-nowhere")
def a_route_that_leads_nowhere(ground):
    yield ground.app(ground.calm.url, TASK_ROUTES={**ROUTES, "shop.charge": {"queue": "till"}})


@set_up("schedule-nowhere")
def a_scheduled_task_that_does_not_exist(ground):
    entry = {"task": "shop.great", "schedule": 60.0}
    yield ground.app(ground.calm.url, BEAT_SCHEDULE={"greet": entry})


@set_up("worker-none", "queue-kind")
def a_classic_queue_under_the_name_of_a_quorum_queue(ground):
    vhost = ground.new_vhost()
    with vhost.connection() as connection:
        kombu.Queue("jobs", durable=True)(connection.default_channel).queue_declare()
    yield ground.app(vhost.url)


@set_up("worker-none", "queue-arguments")
def a_queue_with_another_delivery_limit(ground):
    vhost = ground.new_vhost()
    app = ground.app(vhost.url)
    with vhost.connection() as connection:
        for queue in app.amqp.queues.values():
            queue(connection.default_channel).declare()
    yield ground.app(vhost.url, delivery_limit=50)


@set_up("worker-none", "exchange-direct")
def a_direct_exchange_under_the_name_of_a_topic_exchange(ground):
    vhost = ground.new_vhost()
    app = ground.app(vhost.url)
    with vhost.connection() as connection:
        channel = connection.default_channel
        for queue in app.amqp.queues.values():
            kombu.Exchange(queue.exchange.name, "direct")(channel).declare()
            queue(channel).queue_declare()
    yield app


@set_up("unacked-overdue", lane="odd")
def messages_that_nobody_gives_back(ground):
    """They are held since long ago, and who was giving them back died over it."""
    with ground.odd.client() as client:
        client.set("unacked_mutex", "dead", ex=300)
        client.zadd("unacked_index", {"orphan": 1})
        yield ground.odd_app()
        client.delete("unacked_index", "unacked_mutex")


@set_up("redelivery-endless", lane="odd")
def a_job_that_comes_back_again_and_again(ground):
    app = ground.odd_app()
    ground.fuse.touch()
    app.send_task("shop.haunt")
    with ground.odd.client() as client:
        eventually(lambda: any(b'"redelivered": true' in each for each in client.hvals("unacked")))
        yield app
        ground.fuse.unlink()
        eventually(lambda: not client.hlen("unacked"))


@set_up("queue-growing", lane="odd")
def a_queue_that_grows(ground):
    """The worker's slot is held; somebody goes on publishing."""
    app = ground.odd_app()
    ended = threading.Event()

    def publish() -> None:
        while not ended.wait(0.05):
            app.send_task("shop.wait", (600,))

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        with ground.odd.client() as client:
            eventually(lambda: client.llen("jobs") > 5)
        yield app
    finally:
        ended.set()
        publishing.join()


# --- servers -----------------------------------------------------------------------------------


@contextmanager
def configured(server: Server, **settings: Any) -> Iterator[str]:
    """Give a server other settings for a while; yields the address of an own database."""
    with server.client() as client:
        before = {name: client.config_get(name)[name] for name in _written(settings)}
        for name, value in _written(settings).items():
            client.config_set(name, value)
        yield server.new_database().url
        for name, value in before.items():
            client.config_set(name, value)


def _written(settings: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in settings.items()}


@set_up("eviction-policy", lane="sick")
def an_eviction_policy_that_drops_records(ground):
    terms = {"maxmemory": 2**30, "maxmemory_policy": "allkeys-lru"}
    with configured(ground.sick, **terms) as store:
        yield ground.app(ground.calm.url, store=store)


@set_up("persistence-none", lane="sick")
def no_persistence(ground):
    with configured(ground.sick, appendonly="no") as store:
        yield ground.app(ground.calm.url, store=store)


@set_up("memory-nearly-full", lane="sick")
def memory_nearly_full(ground):
    with ground.sick.client() as client:
        used = client.info("memory")["used_memory"]
    with configured(ground.sick, maxmemory=int(used * 1.1)) as store:
        yield ground.app(ground.calm.url, store=store)


@set_up("redis-replica", lane="sick")
def the_store_is_a_replica(ground):
    with ground.sick.client() as client:
        client.replicaof("127.0.0.1", ground.valkey.port)
        yield ground.app(ground.calm.url, store=ground.sick.url)
        client.replicaof("NO", "ONE")


@set_up("broker-alarm", lane=ALONE)
def a_rabbitmq_without_memory(ground):
    alarm = "{resource_limit, memory, node()}"
    ground.rabbitmq.evaluate(f"rabbit_alarm:set_alarm({{{alarm}, []}})")
    try:
        yield ground.app(ground.vhost.url)
    finally:
        ground.rabbitmq.evaluate(f"rabbit_alarm:clear_alarm({alarm})")


@set_up("store-unreachable")
def a_store_that_is_not_there(ground):
    yield ground.app(ground.calm.url, store=f"redis://127.0.0.1:{free_port()}/0")


@set_up("backend-unreachable")
def a_result_backend_that_is_not_there(ground):
    gone = f"redis://127.0.0.1:{free_port()}/0"
    yield ground.app(ground.calm.url, results=gone, store=ground.results)


@set_up("backend-shared", "preset-overridden")
def results_in_the_database_of_the_broker(ground):
    yield ground.app(ground.calm.url, RESULT_BACKEND=ground.calm.url)


@set_up("backend-database", "preset-overridden")
def results_in_a_database(ground):
    yield ground.app(ground.calm.url, RESULT_BACKEND="db+sqlite://")


# --- settings ----------------------------------------------------------------------------------


@set_up("visibility-timeout-misplaced")
def a_visibility_timeout_where_it_does_nothing(ground):
    yield ground.app(ground.calm.url, VISIBILITY_TIMEOUT=7_200)


@set_up("setting-misspelt")
def a_setting_with_a_typo(ground):
    yield ground.app(ground.calm.url, TASK_ACK_LATE=True)


@set_up("horizon-short", "preset-overridden")
def records_that_are_forgotten_too_soon(ground):
    yield ground.app(ground.calm.url, RELIABLE_TASKS_REDELIVERY_HORIZON=600)


@set_up("acks-late-missing", "preset-overridden", "worker-settings-differ")
def messages_that_are_acknowledged_early(ground):
    yield ground.app(ground.calm.url, TASK_ACKS_LATE=False)


@set_up("prefetch-high", "preset-overridden", "worker-settings-differ")
def four_messages_fetched_ahead(ground):
    yield ground.app(ground.calm.url, WORKER_PREFETCH_MULTIPLIER=4)


@set_up("release-faulty")
def a_kombu_that_needs_the_heartbeat(ground):
    """Without it a worker of kombu 5.7 ends when Redis is away for a moment."""
    yield ground.app(ground.calm.url, beats=False)


@set_up("visibility-timeout-short", "preset-overridden", "release-faulty")
def a_task_longer_than_the_visibility_timeout(ground):
    app = ground.app(ground.calm.url, beats=False)
    app.tasks["shop.greet"].time_limit = 7_200
    yield app


@set_up("consumer-timeout-short", "preset-overridden", lane="rabbit")
def a_task_longer_than_the_consumer_timeout(ground):
    app = ground.app(ground.vhost.url)
    app.tasks["shop.greet"].time_limit = 7_200
    yield app


@set_up("time-limits-reversed", "preset-overridden")
def a_soft_limit_above_the_hard_one(ground):
    app = ground.app(ground.calm.url)
    app.tasks["shop.greet"].soft_time_limit = 700
    yield app


@set_up("lease-long")
def a_lease_that_outlasts_its_task(ground):
    yield ground.app(ground.calm.url, RELIABLE_TASKS_LEASE_SECONDS=700)


@set_up("max-run-short")
def a_lease_that_ends_before_its_task(ground):
    yield ground.app(ground.calm.url, RELIABLE_TASKS_MAX_RUN=100)


@set_up("retention-short")
def a_key_that_is_forgotten_before_its_copies_come(ground):
    yield ground.app(ground.calm.url, RELIABLE_TASKS_RETENTION=60)


@set_up("grace-period-short", grace_period=10)
def a_deploy_that_kills_too_soon(ground):
    yield ground.app(ground.calm.url)
