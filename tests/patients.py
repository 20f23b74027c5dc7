"""Facts of systems that are well, and how to make them ill; for the tests of the doctor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reliable_tasks.doctor.facts import (
    Declared,
    Facts,
    Guarded,
    Link,
    Place,
    Queue,
    RabbitServer,
    RedisServer,
    Settings,
    Task,
    Unacked,
    Worker,
)

REDIS = Place(
    kind="redis",
    url="redis://redis:6379/0",
    servers=frozenset({"redis:6379"}),
    database="0",
)
RESULTS = replace(REDIS, url="redis://redis:6379/1", database="1")
RABBITMQ = Place(
    kind="rabbitmq",
    url="amqp://rabbit//",
    servers=frozenset({"rabbit:5672"}),
    database="/",
)
DATABASE = Place(kind="database", url="db+postgresql://postgres/shop")
RPC = Place(kind="rpc", url="rpc://")
RELEASES = {"celery": "5.7.0", "kombu": "5.7.0", "redis": "8.1.0", "python": "3.11.7"}
CONF = {
    "broker_channel_error_retry": True,
    "broker_heartbeat": 30,
    "control_queue_exclusive": True,
    "event_queue_exclusive": True,
    "result_expires": 86_400,
    "task_acks_late": True,
    "task_create_missing_queues": False,
    "task_time_limit": 630,
    "worker_pool": "prefork",
    "worker_prefetch_multiplier": 1,
    "worker_soft_shutdown_timeout": 25,
}
GUARDED = Guarded(lease=30, max_run=660, horizon=21_600, has_key=True)
CHARGE = Task(
    name="shop.charge",
    queue="jobs",
    acks_late=True,
    reject_on_worker_lost=True,
    hard_limit=630,
    soft_limit=600,
    retry_delay=180,
    guarded=GUARDED,
)
MAIL = Task(
    name="shop.mail",
    queue="jobs",
    acks_late=True,
    hard_limit=630,
    soft_limit=600,
    retry_delay=180,
)
QUORUM = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 100,
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": "jobs.dead",
    "x-consumer-timeout": 1_800_000,
}
DECLARED = Declared(name="jobs", exchange_type="topic", routing_key="jobs", arguments=QUORUM)
SERVER = RedisServer(
    identity="8a1f",
    version="7.0.15",
    maxmemory=2**30,
    used_memory=2**20,
    policy="noeviction",
    appendonly=True,
    save="3600 1",
    role="master",
    replicas=0,
    evicted=0,
    write_fault="",
    clock_ahead=0.01,
)
WORKER = Worker(
    name="celery@one",
    queues=frozenset({"jobs"}),
    tasks=frozenset({"shop.charge", "shop.mail"}),
    pool="prefork",
    concurrency=4,
    prefetch=4,
    server="8a1f",
    database="0",
    prefix="",
    digests={"shop.charge": "c4a6", "shop.mail": "3a11"},
    accepts=frozenset({"application/json"}),
    has_heartbeat=True,
    longest_run=3.0,
    reserved=0,
    releases=RELEASES,
    conf={
        "task_acks_late": True,
        "task_time_limit": 630,
        "broker_transport_options": {"visibility_timeout": 4_920},
    },
    clock_ahead=0.02,
)
OTHER = replace(WORKER, name="celery@two")
SETTINGS = Settings(
    conf={
        **CONF,
        "broker_transport_options": {"visibility_timeout": 4_920, "socket_timeout": 1.5},
        "result_backend_transport_options": {},
    },
    accepts=frozenset({"application/json"}),
    broker=REDIS,
    backend=RESULTS,
    store=REDIS,
    tasks=(CHARGE, MAIL),
    declared=(Declared(name="jobs", routing_key="jobs"),),
    names_queues=True,
    has_heartbeat=True,
    releases=RELEASES,
)
ON_REDIS = Facts(
    settings=SETTINGS,
    broker=Link(place=REDIS, redis=SERVER),
    backend=Link(place=RESULTS, redis=SERVER),
    store=Link(place=REDIS, redis=SERVER),
    unacked=Unacked(count=2, silent_for=12.0, redelivered=0),
    queues=(Queue(name="jobs", kind="list", depth=3, grew=0),),
    workers=(WORKER, OTHER),
)
ON_RABBITMQ = Facts(
    settings=replace(
        SETTINGS,
        conf={
            **CONF,
            "broker_transport_options": {"confirm_publish": True},
            "result_backend_transport_options": {},
        },
        broker=RABBITMQ,
        declared=(DECLARED,),
        store=RESULTS,
    ),
    broker=Link(place=RABBITMQ, rabbit=RabbitServer(version="4.0.5", alarms=())),
    backend=Link(place=RESULTS, redis=SERVER),
    store=Link(place=RESULTS, redis=SERVER),
    queues=(
        Queue(
            name="jobs",
            kind="quorum",
            depth=3,
            consumers=2,
            grew=0,
            redeliveries=0.0,
            exchange_type="topic",
            arguments=QUORUM,
        ),
    ),
    workers=tuple(
        replace(
            each,
            server=None,
            database="/",
            has_heartbeat=False,
            conf={"task_acks_late": True, "task_time_limit": 630},
        )
        for each in (WORKER, OTHER)
    ),
)


def settings(facts: Facts = ON_REDIS, **changes: Any) -> Facts:
    """Return *facts* with other fields of the settings."""
    return replace(facts, settings=replace(facts.settings, **changes))


def conf(facts: Facts = ON_REDIS, **changes: Any) -> Facts:
    """Return *facts* with other settings of Celery's."""
    return settings(facts, conf={**facts.settings.conf, **changes})


def options(facts: Facts = ON_REDIS, **changes: Any) -> Facts:
    """Return *facts* with other transport options of the broker; None removes one."""
    merged = {**facts.settings.transport_options, **changes}
    kept = {name: value for name, value in merged.items() if value is not None}
    return conf(facts, broker_transport_options=kept)


def task(facts: Facts = ON_REDIS, **changes: Any) -> Facts:
    """Return *facts* with another plain task."""
    return settings(facts, tasks=(CHARGE, replace(MAIL, **changes)))


def guarded(facts: Facts = ON_REDIS, **changes: Any) -> Facts:
    """Return *facts* with other options of the guarded task."""
    changed = replace(CHARGE, guarded=replace(GUARDED, **changes))
    return settings(facts, tasks=(changed, MAIL))


def declared(arguments: Mapping[str, Any] = QUORUM, **changes: Any) -> Facts:
    """Return a system on RabbitMQ with another queue declared."""
    return settings(ON_RABBITMQ, declared=(replace(DECLARED, arguments=arguments, **changes),))


def without(*names: str) -> dict[str, Any]:
    """Return the arguments of a quorum queue but for some."""
    return {name: value for name, value in QUORUM.items() if name not in names}


def queue(facts: Facts = ON_REDIS, **changes: Any) -> Facts:
    """Return *facts* with another look at the queue."""
    return replace(facts, queues=(replace((facts.queues or ())[0], **changes),))


def worker(facts: Facts = ON_REDIS, **changes: Any) -> Facts:
    """Return *facts* with another second worker."""
    first, second = facts.workers or ()
    return replace(facts, workers=(first, replace(second, **changes)))


def workers(facts: Facts = ON_REDIS, **changes: Any) -> Facts:
    """Return *facts* with both workers changed."""
    return replace(facts, workers=tuple(replace(each, **changes) for each in facts.workers or ()))


def server(facts: Facts = ON_REDIS, **changes: Any) -> Facts:
    """Return *facts* with another Redis behind everything that is one."""
    found = replace(SERVER, **changes)
    links = {
        name: replace(link, redis=found)
        for name in ("broker", "backend", "store")
        if (link := getattr(facts, name)) is not None and link.redis is not None
    }
    return replace(facts, **links)


def rabbit(**changes: Any) -> Facts:
    """Return a system on another RabbitMQ."""
    found = RabbitServer(**{"version": "4.0.5", "alarms": (), **changes})
    return replace(ON_RABBITMQ, broker=Link(place=RABBITMQ, rabbit=found))


def broken(part: str, trouble: str, detail: str = "", facts: Facts = ON_REDIS) -> Facts:
    """Return *facts* with a server that cannot be used; no worker can be asked without a broker."""
    link = getattr(facts, part)
    changed = replace(facts, **{part: Link(place=link.place, trouble=trouble, detail=detail)})
    if part == "broker":
        return replace(changed, queues=None, unacked=None, workers=None)
    return changed


def offline(facts: Facts = ON_REDIS) -> Facts:
    """Return what is known of *facts* without a server."""
    return Facts(settings=facts.settings)
