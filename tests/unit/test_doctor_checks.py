"""Every check of the doctor: facts that are ill, and facts that only look it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from reliable_tasks.doctor import checks
from reliable_tasks.doctor.checks import CHECKS
from reliable_tasks.doctor.checks.releases import FAULTS
from reliable_tasks.doctor.examining import report_of
from reliable_tasks.doctor.facts import TROUBLES, Declared, Entry, Facts, Link, Queue, Unacked
from reliable_tasks.doctor.findings import SEVERITIES, TOPICS, Check
from tests import doctor_page
from tests.patients import (
    CHARGE,
    DATABASE,
    GUARDED,
    MAIL,
    ON_RABBITMQ,
    ON_REDIS,
    QUORUM,
    RABBITMQ,
    REDIS,
    RELEASES,
    RPC,
    SERVER,
    WORKER,
    broken,
    conf,
    declared,
    guarded,
    offline,
    options,
    queue,
    rabbit,
    server,
    settings,
    task,
    without,
    worker,
    workers,
)

BY_ID = {check.id: check for check in CHECKS}

ORDERS = Declared(name="orders", routing_key="orders")
HOUR = options(settings(has_heartbeat=False), visibility_timeout=3_600)
SLOW = declared({**QUORUM, "x-consumer-timeout": 7_200_000})
ELSEWHERE = replace(REDIS, servers=frozenset({"10.0.0.7:6379"}))
GROWING = queue(depth=40, grew=8, taken=0)
ENTRY = Entry(name="nightly", task="shop.mail", queue="jobs")
PICKLED = "application/x-python-serialize"
MONGO = replace(DATABASE, url="mongodb://mongo/")
ONLY_MAIL = settings(ON_RABBITMQ, tasks=(MAIL,))


def of_celery(release: str, facts: Facts = ON_REDIS) -> Facts:
    return settings(facts, releases={**RELEASES, "celery": release})


def of_kombu(release: str, facts: Facts = ON_REDIS) -> Facts:
    return settings(facts, releases={**RELEASES, "kombu": release})


def stranger(facts: Facts = ON_REDIS, **changes: Any) -> Facts:
    """A worker of another app is at this broker too."""
    of_others = {"queues": frozenset({"reports"}), "tasks": frozenset({"reports.draw"})}
    return worker(facts, **{**of_others, **changes})


def limits(hard: float | None, facts: Facts = ON_REDIS, **changes: Any) -> Facts:
    """Both tasks with another hard time limit."""
    both = [replace(each, hard_limit=hard, soft_limit=None, **changes) for each in (CHARGE, MAIL)]
    return settings(facts, tasks=tuple(both))


SICK: dict[str, list[tuple[Facts, str, str]]] = {
    "broker-address": [
        (settings(address_faults=("url: expected one Redis",)), "error", "expected one Redis"),
    ],
    **{
        f"broker-{'failed' if trouble == 'other' else trouble}": [
            (broken("broker", trouble, "it said so"), "error", "redis://redis:6379/0: it said so"),
            (broken("broker", trouble, facts=ON_RABBITMQ), "error", "amqp://rabbit//"),
        ]
        for trouble in TROUBLES
    },
    "publish-unconfirmed": [
        (options(ON_RABBITMQ, confirm_publish=None), "warning", "no confirm_publish"),
        (options(ON_RABBITMQ, confirm_publish=False), "warning", "no confirm_publish"),
    ],
    "publish-unbounded": [
        (options(socket_timeout=None), "warning", "no socket_timeout"),
    ],
    "visibility-timeout-misplaced": [
        (settings(given=frozenset({"visibility_timeout"})), "warning", "setting visibility"),
        (settings(given=frozenset({"broker_visibility_timeout"})), "warning", "broker_visib"),
        (
            conf(result_backend_transport_options={"visibility_timeout": 18_000}),
            "warning",
            "result_backend_transport_options: 18000",
        ),
        (options(ON_RABBITMQ, visibility_timeout=60), "warning", "60, with amqp://rabbit//"),
    ],
    "setting-misspelt": [
        (
            settings(misspelt={"task_ack_late": "task_acks_late"}),
            "warning",
            "task_ack_late; did you mean task_acks_late?",
        ),
    ],
    "setting-refused": [
        (settings(refusals=("lease_seconds: expected above 0",)), "error", "lease_seconds"),
    ],
    "preset-overridden": [
        (settings(broken_promises=("the app's own settings say",)), "warning", "the app's own"),
    ],
    "channel-error-ends-worker": [
        (conf(ON_RABBITMQ, broker_channel_error_retry=False), "warning", "retry = False"),
    ],
    "broker-heartbeat-off": [
        (conf(ON_RABBITMQ, broker_heartbeat=0), "warning", "broker_heartbeat = 0"),
        (conf(ON_RABBITMQ, broker_heartbeat=None), "warning", "broker_heartbeat = None"),
    ],
    "queue-unread": [
        (workers(queues=frozenset({"mail"})), "error", "jobs (tasks: shop.charge, shop.mail)"),
        (
            replace(ON_REDIS, queues=(Queue(name="old", kind="list", depth=7),)),
            "error",
            "old (7 messages wait)",
        ),
        (
            settings(entries=(Entry(name="nightly", task="shop.mail", queue="nights"),)),
            "error",
            "nights (beat's entry nightly)",
        ),
        (worker(task(queue="mail"), database="2"), "error", "mail (tasks: shop.mail)"),
    ],
    "queue-misspelt": [
        (task(queue="jbos"), "error", "jbos (tasks: shop.mail); did you mean jobs?"),
        (offline(task(queue="jbos")), "error", "jbos (tasks: shop.mail); did you mean jobs?"),
        (
            workers(
                settings(declared=(ORDERS,), tasks=(replace(MAIL, queue="orders"),)),
                queues=frozenset({"ordres"}),
            ),
            "error",
            "orders (tasks: shop.mail); did you mean ordres?",
        ),
    ],
    "queue-undeclared": [
        (offline(task(queue="mail")), "warning", "mail (tasks: shop.mail)"),
    ],
    "route-nowhere": [
        (task(queue=None, nowhere="Queue 'x' missing"), "error", "shop.mail: Queue 'x' missing"),
    ],
    "schedule-nowhere": [
        (
            settings(entries=(replace(ENTRY, task="shop.maill"),)),
            "error",
            "nightly: no worker nor this app knows a task shop.maill; did you mean shop.mail?",
        ),
        (
            offline(settings(entries=(replace(ENTRY, task="other.thing"),))),
            "warning",
            "nightly: this app does not know a task other.thing",
        ),
        (
            worker(settings(entries=(replace(ENTRY, task="other.thing"),)), tasks=None),
            "warning",
            "nightly: this app does not know a task other.thing",
        ),
        (
            settings(entries=(replace(ENTRY, queue=None, nowhere="Queue 'x' missing"),)),
            "error",
            "nightly: Queue 'x' missing",
        ),
    ],
    "queues-made-on-typo": [
        (conf(task_create_missing_queues=True), "info", "task_create_missing_queues = True"),
    ],
    "queue-growing": [
        (GROWING, "info", "jobs: 40 messages, 8 more at a second look; a job runs for 3 s"),
        (workers(GROWING, longest_run=None), "error", "jobs: 40 messages, 8 more"),
        (workers(GROWING, longest_run=900.0), "error", "jobs: 40 messages, 8 more"),
        (limits(None, workers(GROWING, longest_run=900.0)), "info", "a job runs for 900 s"),
        (worker(GROWING, longest_run=None), "info", "a job runs for 3 s"),
    ],
    "queue-kind": [
        (queue(ON_RABBITMQ, kind="classic"), "error", "jobs: classic, declared as quorum"),
        (
            queue(declared(arguments={}), kind="quorum", arguments={}),
            "error",
            "jobs: quorum, declared as classic",
        ),
    ],
    "queue-arguments": [
        (
            queue(ON_RABBITMQ, arguments={**QUORUM, "x-delivery-limit": 20}),
            "error",
            "jobs: x-delivery-limit is 20, declared as 100",
        ),
        (
            queue(ON_RABBITMQ, arguments=without("x-dead-letter-exchange")),
            "error",
            "jobs: x-dead-letter-exchange is None, declared as ''",
        ),
        (
            queue(ON_RABBITMQ, arguments={**QUORUM, "x-max-priority": 5}),
            "error",
            "jobs: x-max-priority is 5, declared as None",
        ),
    ],
    "exchange-direct": [
        (
            queue(declared(exchange_type="direct"), exchange_type="direct"),
            "warning",
            "jobs: declared with a direct exchange",
        ),
        (
            queue(ON_RABBITMQ, exchange_type="direct"),
            "error",
            "jobs: its exchange is a direct one, declared as topic",
        ),
    ],
    "routing-keys-overlap": [
        (
            settings(
                ON_RABBITMQ,
                declared=tuple(
                    Declared(name=name, exchange_type="topic", arguments=QUORUM)
                    for name in ("mail", "shop.mail")
                ),
            ),
            "error",
            "got 'shop.mail' and 'mail'",
        ),
    ],
    "delivery-limit-low": [
        (declared({**QUORUM, "x-delivery-limit": 3}), "warning", "above max_crashes (3), got 3"),
    ],
    "delivery-limit-drops": [
        (declared(without("x-dead-letter-exchange")), "warning", "jobs, RabbitMQ 4.0.5"),
    ],
    "worker-none": [
        (replace(ON_REDIS, workers=()), "error", "nobody at redis://redis:6379/0"),
    ],
    "worker-elsewhere": [
        (worker(database="2"), "error", "celery@two: database '2', this app '0'"),
        (worker(prefix="shop:"), "error", "celery@two: key prefix 'shop:', this app ''"),
        (worker(server="0000"), "error", "celery@two: server '0000', this app '8a1f'"),
    ],
    "worker-without-heartbeat": [
        (options(worker(has_heartbeat=False), visibility_timeout=60), "error", "celery@two"),
        (
            limits(None, settings(worker(has_heartbeat=False), relies_on_heartbeat=True)),
            "error",
            "celery@two; visibility_timeout is 4920 s",
        ),
    ],
    "worker-settings-differ": [
        (
            worker(conf={"task_time_limit": 60}),
            "warning",
            "celery@two: task_time_limit = 60, here 630",
        ),
        (worker(conf={"task_acks_late": None}), "warning", "task_acks_late = None, here True"),
    ],
    "visibility-timeout-differs": [
        (
            worker(conf={"broker_transport_options": {"visibility_timeout": 60}}),
            "warning",
            "celery@two: 60 s, here 4920 s",
        ),
        (
            worker(
                settings(has_heartbeat=False),
                conf={"broker_transport_options": {"visibility_timeout": 60}},
            ),
            "error",
            "celery@two: 60 s, here 4920 s",
        ),
        (
            worker(conf={"broker_transport_options": {}}),
            "warning",
            "celery@two: 3600 s, here 4920 s",
        ),
    ],
    "task-unregistered": [
        (
            worker(tasks=frozenset({"shop.charge"})),
            "error",
            "celery@two does not know shop.mail",
        ),
    ],
    "content-refused": [
        (
            task(content_type=PICKLED),
            "error",
            f"celery@one: {PICKLED} of shop.mail|celery@two: {PICKLED} of shop.mail",
        ),
        (
            offline(task(content_type=PICKLED)),
            "error",
            f"this app's workers: {PICKLED} of shop.mail",
        ),
        (
            worker(accepts=frozenset({"application/x-yaml"})),
            "error",
            "celery@two: application/json of shop.charge, shop.mail",
        ),
    ],
    "code-differs": [
        (
            worker(digests={"shop.charge": "0000", "shop.mail": "3a11"}),
            "warning",
            "shop.charge; celery@two: 0000; celery@one: c4a6",
        ),
        (task(digest="ffff"), "info", "shop.mail; celery@one, celery@two: 3a11; here: ffff"),
    ],
    "prefetch-high": [
        (conf(worker_prefetch_multiplier=4), "warning", "= 4, tasks of up to 630 s"),
        (limits(None, conf(worker_prefetch_multiplier=0)), "warning", "= 0: without limit"),
        (
            worker(prefetch=16, reserved=9, longest_run=300.0),
            "warning",
            "celery@two: 9 jobs wait behind one of 300 s",
        ),
    ],
    "acks-late-missing": [
        (task(acks_late=False), "warning", "shop.mail"),
    ],
    "redelivery-endless": [
        (task(reject_on_worker_lost=True), "warning", "reject_on_worker_lost: shop.mail"),
        (task(acks_on_timeout=False), "warning", "not acknowledged after a time limit: shop.mail"),
        (queue(redeliveries=35.0), "error", "jobs: 35.0 redeliveries each second"),
        (
            replace(ON_REDIS, unacked=Unacked(count=4, redelivered=3, tasks=("shop.mail",))),
            "info",
            "3 of 4: shop.mail",
        ),
    ],
    "retry-delay-fraction": [
        (task(ON_RABBITMQ, retry_delay=0.2), "error", "shop.mail: default_retry_delay = 0.2"),
    ],
    "pickle-accepted": [
        (settings(accepts=frozenset({"application/json", PICKLED})), "warning", "has pickle"),
        (worker(accepts=frozenset({"application/json", PICKLED})), "warning", "celery@two"),
    ],
    "eager": [
        (conf(task_always_eager=True), "warning", "task_always_eager = True"),
    ],
    "time-limit-missing": [
        (limits(None), "warning", "shop.charge, shop.mail"),
        (task(ON_RABBITMQ, hard_limit=None), "warning", "shop.mail"),
    ],
    "time-limits-reversed": [
        (task(soft_limit=700), "warning", "shop.mail: soft 700 s, hard 630 s"),
    ],
    "visibility-timeout-short": [
        (limits(7_200, HOUR), "error", "expected at least 7200 s"),
        (limits(2_000, HOUR), "warning", "expected at least 4060 s"),
        (
            settings(HOUR, tasks=(replace(CHARGE, hard_limit=7_200),)),
            "warning",
            "expected at least 7200 s",
        ),
        (options(visibility_timeout=3), "warning", "expected at least 5 s"),
    ],
    "consumer-timeout-short": [
        (limits(7_200, ON_RABBITMQ), "error", "jobs: consumer_timeout: expected at least 7200 s"),
        (limits(1_200, ON_RABBITMQ), "warning", "jobs: consumer_timeout: expected at least 2460"),
        (limits(1_200, declared(without("x-consumer-timeout"))), "warning", "got 1800 s"),
        (
            limits(
                2_500,
                settings(
                    rabbit(version="3.10.8"),
                    declared=(
                        replace(
                            ON_RABBITMQ.settings.declared[0],
                            arguments={**QUORUM, "x-consumer-timeout": 7_200_000},
                        ),
                    ),
                ),
            ),
            "error",
            "got 1800 s",
        ),
        (
            limits(1_200, rabbit(version="3.10.8", consumer_timeout=600.0)),
            "error",
            "expected at least 1200 s",
        ),
        (
            settings(ON_RABBITMQ, tasks=(replace(CHARGE, hard_limit=7_200),)),
            "warning",
            "expected at least 7200 s",
        ),
    ],
    "consumer-timeout-ignored": [
        (
            settings(
                rabbit(version="3.11.28"),
                declared=declared({**QUORUM, "x-consumer-timeout": 7_320_000}).settings.declared,
            ),
            "warning",
            "jobs: 7320 s asked for, 1800 s in force",
        ),
    ],
    "horizon-short": [
        (options(visibility_timeout=43_200), "error", "shop.charge: redelivery_horizon: expected"),
        (guarded(horizon=6_000), "error", "at least 6240 s"),
        (guarded(ON_RABBITMQ, horizon=3_000), "error", "at least 3600 s"),
    ],
    "lease-long": [
        (guarded(lease=900), "warning", "lease_seconds 900 s, hard time limit 630 s"),
        (
            options(guarded(lease=300), visibility_timeout=60),
            "warning",
            "lease_seconds 300 s, visibility_timeout 60 s",
        ),
    ],
    "max-run-short": [
        (guarded(max_run=60), "error", "shop.charge: max_run 60 s, hard time limit 630 s"),
    ],
    "retention-short": [
        (guarded(retention=60), "warning", "retention 60 s, redelivery after 4920 s"),
        (guarded(ON_RABBITMQ, retention=60), "warning", "redelivery after 1800 s"),
        (
            settings(
                guarded(ON_RABBITMQ, retention=2_000, horizon=21_600),
                declared=(ORDERS, *SLOW.settings.declared),
            ),
            "warning",
            "redelivery after 7200 s",
        ),
        (settings(guarded(SLOW, retention=60), declared=()), "warning", "after 1800 s"),
        (
            options(guarded(horizon=400_000), visibility_timeout=172_800),
            "info",
            "retention 86400 s, redelivery after 172800 s",
        ),
    ],
    "grace-period-short": [
        (settings(grace_period=28), "warning", "25 s and the 5 s that a worker takes to end"),
        (
            conf(settings(grace_period=30), worker_soft_shutdown_timeout=0),
            "warning",
            "tasks of up to 630 s, grace period 30 s, no soft shutdown",
        ),
        (
            conf(HOUR, worker_soft_shutdown_timeout=5_000),
            "warning",
            "worker_soft_shutdown_timeout 5000 s, visibility_timeout 3600 s",
        ),
    ],
    "soft-shutdown-threads": [
        (conf(worker_pool="threads"), "warning", "the settings: threads"),
        (worker(pool="thread"), "warning", "celery@two: threads"),
    ],
    "results-expire-early": [
        (conf(result_expires=60), "warning", "result_expires 60 s, tasks of up to 630 s"),
        (conf(result_expires=timedelta(minutes=1)), "warning", "result_expires 60 s"),
    ],
    "unacked-overdue": [
        (
            replace(ON_REDIS, unacked=Unacked(count=2, silent_for=9_000.0, redelivered=0)),
            "error",
            "2 messages held, the oldest silent for 9000 s, visibility_timeout 4920 s",
        ),
    ],
    "clock-skew": [
        (worker(clock_ahead=12.0), "warning", "celery@two is 12.0 s ahead of this machine"),
        (worker(clock_ahead=-12.0), "warning", "ahead of celery@two"),
        (worker(clock_ahead=4_000.0), "error", "4000.0 s ahead"),
        (server(clock_ahead=30.0), "warning", "the broker is 30.0 s ahead"),
    ],
    "backend-unreachable": [
        (broken("backend", "refused"), "error", "redis://redis:6379/1: nothing listens there"),
        (broken("backend", "password", "WRONGPASS"), "error", "is refused: WRONGPASS"),
    ],
    "store-unreachable": [
        (broken("store", "silent"), "error", "redis://redis:6379/0: it does not answer"),
    ],
    "backend-database": [
        (settings(backend=DATABASE), "warning", "db+postgresql://postgres/shop"),
        (settings(backend=MONGO), "warning", "mongodb://mongo/"),
    ],
    "backend-shared": [
        (settings(backend=REDIS), "warning", "database 0 of redis://redis:6379/0"),
        (
            settings(backend=ELSEWHERE),  # another name of the same server
            "warning",
            "database 0",
        ),
    ],
    "backend-unfit": [
        (settings(backend=RPC), "warning", "rpc://, with shop.charge"),
    ],
    "eviction-policy": [
        (server(policy="allkeys-lru"), "error", "(messages, results, records): maxmemory-policy"),
        (server(policy="volatile-ttl"), "error", "maxmemory-policy volatile-ttl"),
        (
            server(policy="allkeys-lru", identity=None),  # one server by its address
            "error",
            "(messages, results, records): maxmemory-policy",
        ),
        (
            server(settings(ON_RABBITMQ, store=None), policy="allkeys-lru"),
            "error",
            "maxmemory-policy allkeys-lru",
        ),
        (
            server(replace(ON_RABBITMQ, store=None), policy="allkeys-lru"),
            "warning",
            "redis://redis:6379/1 (results)",
        ),
    ],
    "persistence-none": [
        (server(appendonly=False, save=""), "error", "appendonly no, no snapshots"),
        (server(appendonly=False, save="", replicas=1), "warning", "no snapshots"),
        (
            server(replace(ON_RABBITMQ, store=None), appendonly=False, save=""),
            "warning",
            "(results)",
        ),
    ],
    "persistence-snapshots-only": [
        (server(appendonly=False), "info", "appendonly no, save 3600 1"),
    ],
    "persistence-fails": [
        (server(write_fault="the last snapshot failed"), "error", "the last snapshot failed"),
    ],
    "memory-nearly-full": [
        (server(used_memory=900 * 2**20), "warning", "88% of 1024 MiB"),
        (server(used_memory=1_000 * 2**20), "error", "98% of 1024 MiB"),
    ],
    "keys-evicted": [
        (server(evicted=7, policy="allkeys-lru"), "error", "7 keys since its start"),
        (server(evicted=7), "warning", "7 keys since its start"),
    ],
    "redis-replica": [
        (server(role="slave"), "error", "redis://redis:6379/0"),
    ],
    "broker-alarm": [
        (rabbit(alarms=("memory", "disk")), "error", "alarm: memory, disk"),
    ],
    "release-faulty": [
        (of_kombu("5.3.7"), "error", "kombu 5.3.7: this process"),
        (settings(has_heartbeat=False), "warning", "kombu 5.7.0: celery@one"),
        (
            of_celery(
                "5.5.0",
                settings(ON_RABBITMQ, broker=replace(RABBITMQ, url="amqp://a//;amqp://b//")),
            ),
            "warning|info|warning",
            "issues/9651|pull/9799|pull/9986",
        ),
        (of_celery("5.5.3"), "info", "celery 5.5.3: this process"),
        (of_celery("5.5.0"), "info", "pull/9799"),
        (of_celery("5.6.0", ON_RABBITMQ), "warning", "pull/9986"),
        (of_celery("5.6.1"), "warning", "pull/10045"),
        (of_kombu("5.6.2", declared(arguments={})), "error", "issues/2469"),
        (
            conf(rabbit(version="4.3.5"), control_queue_exclusive=False),
            "error",
            "celery 5.7.0: celery@one, celery@two, this process",
        ),
        (worker(releases={**RELEASES, "celery": "5.6.1"}), "warning", "celery 5.6.1: celery@two"),
    ],
    "release-unsupported": [
        (settings(unsupported=("redis 8.1.0; Kombu 5.6.2 supports <6.5",)), "warning", "8.1.0"),
    ],
}
"""For each check facts that are ill, the severities, and a part of each value found."""

WELL: dict[str, list[Facts]] = {
    **{id_: [ON_REDIS, ON_RABBITMQ] for id_ in BY_ID},
    "broker-refused": [ON_REDIS, broken("broker", "silent")],
    "publish-unconfirmed": [ON_RABBITMQ, options(confirm_publish=None)],
    "publish-unbounded": [ON_REDIS, options(ON_RABBITMQ, socket_timeout=None)],
    "visibility-timeout-misplaced": [ON_REDIS, options(visibility_timeout=60)],
    "channel-error-ends-worker": [ON_RABBITMQ, conf(broker_channel_error_retry=False)],
    "broker-heartbeat-off": [ON_RABBITMQ, conf(broker_heartbeat=0)],
    "queue-unread": [
        ON_REDIS,
        replace(ON_REDIS, workers=()),  # else every queue is named
        queue(ON_RABBITMQ, name="jobs.dead"),
        queue(ON_RABBITMQ, name="celery_delayed_27"),
        worker(queues=frozenset()),
        replace(
            workers(ON_RABBITMQ, queues=frozenset({"other"})),
            queues=(Queue(name="jobs", depth=9, consumers=3),),
        ),
    ],
    "queue-misspelt": [
        ON_REDIS,
        workers(task(queue="jobs2"), queues=frozenset({"jobs"})),  # a queue of its own
        workers(task(queue="jbos"), queues=frozenset({"jobs", "jbos"})),  # and somebody reads it
        offline(settings(task(queue="jbos"), names_queues=False)),  # nobody knows who reads what
        workers(task(queue="mail"), queues=frozenset({"jobs", "mail"})),
    ],
    "queue-undeclared": [
        ON_REDIS,
        task(queue="mail"),  # workers tell what they read
        offline(settings(task(queue="mail"), names_queues=False)),
    ],
    "schedule-nowhere": [
        settings(entries=(ENTRY,)),
        settings(entries=(replace(ENTRY, task="celery.backend_cleanup"),)),
        workers(
            settings(entries=(replace(ENTRY, task="other.thing"),)),
            tasks=frozenset({"shop.charge", "shop.mail", "other.thing"}),
        ),
    ],
    "queue-growing": [
        queue(grew=8, taken=5),
        queue(grew=0, taken=0),
        queue(grew=8, taken=None),
        replace(queue(grew=8, taken=0), workers=()),
    ],
    "queue-kind": [ON_REDIS, ON_RABBITMQ, queue(ON_RABBITMQ, kind=None)],
    "queue-arguments": [
        ON_RABBITMQ,
        queue(ON_RABBITMQ, arguments=None),
        queue(ON_RABBITMQ, kind="classic", arguments={}),  # said by queue-kind
    ],
    "exchange-direct": [ON_RABBITMQ, queue(ON_RABBITMQ, exchange_type=None)],
    "delivery-limit-low": [ON_RABBITMQ, declared(without("x-delivery-limit"))],
    "delivery-limit-drops": [
        ON_RABBITMQ,
        ON_REDIS,
        settings(
            rabbit(version="3.13.7"),
            declared=declared(without("x-dead-letter-exchange")).settings.declared,
        ),
    ],
    "worker-elsewhere": [ON_REDIS, worker(database=None, prefix=None, server=None)],
    "worker-without-heartbeat": [
        ON_REDIS,
        worker(has_heartbeat=False),  # the timeout is long enough
        ON_RABBITMQ,
    ],
    "worker-settings-differ": [
        ON_REDIS,
        worker(conf={}),
        worker(conf={"task_acks_late": True}),
        stranger(conf={"task_time_limit": 60}),
    ],
    "visibility-timeout-differs": [ON_REDIS, worker(conf={}), ON_RABBITMQ],
    "task-unregistered": [
        ON_REDIS,
        worker(tasks=frozenset({"shop.charge"}), queues=frozenset({"mail"})),
    ],
    "content-refused": [ON_REDIS, offline()],
    "code-differs": [
        ON_REDIS,
        worker(
            digests={"shop.charge": "0000"}, releases={**RELEASES, "python": "3.13.1"}
        ),  # writes code otherwise
        task(digest="3a11"),
        settings(task(digest="ffff"), releases={**RELEASES, "python": "3.13.1"}),
    ],
    "prefetch-high": [
        ON_REDIS,
        limits(20, conf(worker_prefetch_multiplier=4)),
        worker(prefetch=4, reserved=4, longest_run=300.0),
        stranger(prefetch=16, reserved=9, longest_run=300.0),
    ],
    "pickle-accepted": [ON_REDIS, stranger(accepts=frozenset({PICKLED}))],
    "redelivery-endless": [
        ON_REDIS,
        ON_RABBITMQ,
        task(ON_RABBITMQ, reject_on_worker_lost=True),  # x-delivery-limit bounds it
        task(reject_on_worker_lost=True, acks_late=False),
        queue(redeliveries=0.2),
    ],
    "retry-delay-fraction": [
        task(retry_delay=0.2),
        task(ON_RABBITMQ, retry_delay=0),
        task(declared(arguments={}), retry_delay=0.2),
        task(ON_RABBITMQ, retry_delay=0.2, guarded=GUARDED),
    ],
    "time-limit-missing": [
        ON_REDIS,
        task(hard_limit=None, acks_late=False),
        limits(None, conf(worker_pool="threads")),
    ],
    "time-limits-reversed": [ON_REDIS, task(soft_limit=None), task(hard_limit=None)],
    "visibility-timeout-short": [
        ON_REDIS,
        limits(7_200),  # with the heartbeat
        limits(7_200, HOUR, acks_late=False),
        limits(None, HOUR),
        limits(7_200, ON_RABBITMQ),
    ],
    "consumer-timeout-short": [
        ON_RABBITMQ,
        limits(7_200, ON_REDIS),
        settings(ON_RABBITMQ, tasks=(replace(MAIL, hard_limit=7_200, queue="other"),)),
        limits(1_200, rabbit(version="3.10.8", consumer_timeout=3_600.0)),
    ],
    "consumer-timeout-ignored": [
        ON_RABBITMQ,
        rabbit(version="3.10.8"),  # the very time-out of the server
        rabbit(version="3.12.0"),
    ],
    "horizon-short": [ON_REDIS, ON_RABBITMQ, task(hard_limit=30_000)],
    "lease-long": [
        guarded(lease=630),
        options(guarded(lease=60), visibility_timeout=60),
        ON_REDIS,
        options(visibility_timeout=5),
        limits(None, guarded(lease=900)),
    ],
    "max-run-short": [ON_REDIS, guarded(max_run=630), limits(None, guarded(max_run=60))],
    "retention-short": [
        ON_REDIS,
        guarded(retention=0),
        guarded(retention=60, has_key=False),
    ],
    "grace-period-short": [
        ON_REDIS,
        settings(grace_period=30),
        conf(worker_soft_shutdown_timeout=0),
        limits(20, conf(settings(grace_period=30), worker_soft_shutdown_timeout=0)),
        conf(options(visibility_timeout=5), worker_soft_shutdown_timeout=25),
    ],
    "soft-shutdown-threads": [
        ON_REDIS,
        conf(worker_pool="threads", worker_soft_shutdown_timeout=0),
    ],
    "results-expire-early": [
        ON_REDIS,
        conf(result_expires=None),
        conf(result_expires=timedelta(days=1)),
        conf(settings(backend=None), result_expires=60),
    ],
    "unacked-overdue": [
        ON_REDIS,
        replace(ON_REDIS, unacked=Unacked(count=0)),
        replace(ON_REDIS, unacked=Unacked(count=2, silent_for=4_970.0)),  # before the next sweep
        replace(ON_REDIS, unacked=Unacked(count=2, silent_for=9_000.0), workers=()),
    ],
    "clock-skew": [ON_REDIS, worker(clock_ahead=1.0)],
    "backend-unreachable": [ON_REDIS, settings(backend=None)],
    "store-unreachable": [ON_REDIS, settings(store=None)],
    "backend-shared": [
        ON_REDIS,
        replace(
            settings(backend=ELSEWHERE),
            backend=Link(place=ELSEWHERE, redis=replace(SERVER, identity="77c0")),
        ),
        offline(settings(backend=ELSEWHERE)),
        settings(ON_RABBITMQ, backend=REDIS),
        settings(backend=replace(REDIS, prefix="results:")),
    ],
    "backend-unfit": [ON_REDIS, settings(backend=RPC, tasks=(MAIL,))],
    "eviction-policy": [
        ON_REDIS,
        server(policy="allkeys-lru", maxmemory=0),
        server(replace(ON_REDIS, store=None), policy="volatile-lru"),
    ],
    "persistence-none": [ON_REDIS, server(appendonly=False), server(save="")],
    "persistence-snapshots-only": [ON_REDIS, server(appendonly=False, save="")],
    "memory-nearly-full": [ON_REDIS, server(maxmemory=0, used_memory=2**40)],
    "keys-evicted": [ON_REDIS, server(replace(ON_RABBITMQ, store=None), evicted=7)],
    "release-faulty": [
        ON_REDIS,
        ON_RABBITMQ,
        of_celery("5.6.2"),
        of_kombu("5.6.2", rabbit()),  # quorum queues
        rabbit(version="4.3.5"),
    ],
    "release-unsupported": [ON_REDIS, settings(ON_RABBITMQ, unsupported=("redis 9",))],
}
"""For each check facts in which it must find nothing."""

CASES = [(id_, *row) for id_, rows in SICK.items() for row in rows]
QUIET = [(id_, facts) for id_, rows in WELL.items() for facts in rows]


PYTHON = re.compile(r"app\.|setup\(|presets\.|broker_url|@app")


def check_code(fix: str) -> None:
    """What is Python in a remedy can be copied: it compiles."""
    if PYTHON.match(fix):
        compile(re.sub(r"^@", "", fix, flags=re.MULTILINE), "fix", "exec")


@pytest.mark.parametrize(
    ("id_", "facts", "severities", "values"),
    CASES,
    ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)],
)
def test_ill(id_: str, facts: Facts, severities: str, values: str) -> None:
    """What is wrong is found, and called as bad as it is."""
    found = list(BY_ID[id_].findings(facts))

    if "|" not in severities:
        severities = "|".join([severities] * len(values.split("|")))
    assert [finding.severity for finding in found] == severities.split("|")
    for finding, value in zip(found, values.split("|"), strict=True):
        assert value in finding.value
        assert finding.page == f"docs/reference/doctor.md#{id_}"
        check_code(finding.fix)


@pytest.mark.parametrize(
    ("id_", "facts"), QUIET, ids=[f"{case[0]}-{number}" for number, case in enumerate(QUIET)]
)
def test_well(id_: str, facts: Facts) -> None:
    """What only looks alike is left alone."""
    assert not list(BY_ID[id_].findings(facts))


@pytest.mark.parametrize("facts", [ON_REDIS, ON_RABBITMQ], ids=["redis", "rabbitmq"])
def test_a_healthy_system_passes_every_check(facts: Facts) -> None:
    """Nothing is found, and nothing is left undecided."""
    report = report_of(facts)

    assert not report.findings
    assert not report.undecided


def test_every_check_has_rows_of_both_kinds() -> None:
    """No check is without a proof that it speaks, and one that it can be silent."""
    assert set(SICK) == set(BY_ID)
    assert set(WELL) == set(BY_ID)
    assert all(SICK.values())
    assert all(WELL.values())


def test_every_remedy_can_be_copied() -> None:
    """The code that the reference shows is code."""
    for each in (*CHECKS, *FAULTS):
        check_code(each.fix)


def test_remedies_are_made_to_measure() -> None:
    """Where a number or a name follows from what was found, it is in the remedy."""
    fixes = {
        finding.id: finding.fix
        for facts in (
            limits(7_200, HOUR),
            limits(7_200, ON_RABBITMQ),
            options(guarded(retention=60), visibility_timeout=43_200),
            offline(task(queue="mail")),
            settings(entries=(replace(ENTRY, task="shop.maill"),)),
            workers(queues=frozenset({"mail"})),
        )
        for finding in report_of(facts).findings
    }

    assert "longest_task=7200" in fixes["visibility-timeout-short"]
    assert '"visibility_timeout": 14460' in fixes["visibility-timeout-short"]
    assert "task_queues['jobs']" in fixes["consumer-timeout-short"]
    assert "= 14460000" in fixes["consumer-timeout-short"]
    assert "redelivery_horizon = 44520" in fixes["horizon-short"]
    assert "retention=43200" in fixes["retention-short"]
    assert "task_queues['mail']" in fixes["queue-undeclared"]
    assert fixes["schedule-nowhere"].endswith("['nightly']['task'] = 'shop.mail'")
    assert fixes["queue-unread"].endswith("--queues mail,jobs")


@pytest.mark.parametrize(("count", "end"), [(5, "t4"), (7, "t4 and 2 more")])
def test_many_names_are_cut_short(count: int, end: str) -> None:
    """A value names five tasks, and how many more there are."""
    many = tuple(replace(MAIL, name=f"t{number}", acks_late=False) for number in range(count))
    (finding,) = BY_ID["acks-late-missing"].findings(settings(tasks=many))

    assert finding.value == f"t0, t1, t2, t3, {end}"


def test_every_check_is_registered_once() -> None:
    """A check that a module defines is one of those that are asked; ids and topics are in order."""
    modules = [each for each in vars(checks).values() if isinstance(each, ModuleType)]
    defined = [
        each for module in modules for each in vars(module).values() if isinstance(each, Check)
    ]

    assert {check.id for check in defined} <= set(BY_ID)
    assert len(BY_ID) == len(CHECKS)
    assert {check.severity for check in CHECKS} <= set(SEVERITIES)
    assert {check.topic for check in CHECKS} == set(TOPICS)


@pytest.mark.parametrize("facts", [offline(), offline(ON_RABBITMQ)], ids=["redis", "rabbitmq"])
def test_what_was_not_asked_has_not_passed(facts: Facts) -> None:
    """Without a server the checks that need one are named as not decided."""
    report = report_of(facts, offline=True)

    undecided = {check.id for check in report.undecided}
    assert not report.findings
    assert undecided >= {"broker-refused", "worker-none", "queue-unread", "backend-unreachable"}
    assert undecided >= {"eviction-policy", "code-differs", "clock-skew", "store-unreachable"}
    assert ("broker-alarm" in undecided) is (facts.settings.broker.kind == "rabbitmq")
    assert not undecided & {"acks-late-missing", "visibility-timeout-short", "backend-shared"}


def test_a_server_that_keeps_a_field_to_itself_has_not_passed() -> None:
    """A Redis that refuses CONFIG leaves its checks undecided, and no others; so RabbitMQ."""
    report = report_of(server(policy=None, save=None))

    assert {check.id for check in report.undecided} == {
        "eviction-policy",
        "persistence-none",
        "persistence-snapshots-only",
    }
    assert [check.id for check in report_of(rabbit(alarms=None)).undecided] == ["broker-alarm"]


def test_a_queue_that_grows_is_not_judged_without_what_was_taken() -> None:
    """RabbitMQ without its management interface tells neither that nor redeliveries."""
    report = report_of(queue(ON_RABBITMQ, grew=4, taken=None, redeliveries=None))

    assert {check.id for check in report.undecided} == {"queue-growing", "redelivery-endless"}


def test_a_plain_worker_is_no_fault() -> None:
    """A worker without our control command leaves checks undecided; what it tells is judged."""
    plain = {"database": None, "prefix": None, "server": None, "digests": None, "conf": {}}
    report = report_of(worker(**plain, has_heartbeat=None, clock_ahead=None, releases=None))

    assert not report.findings
    undecided = {check.id for check in report.undecided}
    assert {"code-differs", "clock-skew", "worker-without-heartbeat"} <= undecided


def test_a_broken_broker_is_the_only_finding() -> None:
    """What follows from it is not reported as well."""
    report = report_of(broken("broker", "refused"))

    assert report.ids == {"broker-refused"}


def test_a_check_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named as not decided, with the reason."""

    def look(facts: Facts) -> Any:
        raise ZeroDivisionError("oops")

    failing = replace(BY_ID["eager"], look=look)
    monkeypatch.setattr(
        "reliable_tasks.doctor.examining.CHECKS", (failing, BY_ID["acks-late-missing"])
    )
    report = report_of(task(acks_late=False))

    assert report.ids == {"acks-late-missing"}
    assert [check.id for check in report.undecided] == ["eager"]
    assert "oops" in report.gaps[0].why


def test_every_fault_of_a_release_names_its_source() -> None:
    """Somebody can read what others met."""
    for fault in FAULTS:
        assert fault.source.startswith(("https://github.com/", "measured;"))


def test_workers_elsewhere_hide_nobody() -> None:
    """A worker at another place reads nothing here."""
    report = report_of(replace(ON_REDIS, workers=(replace(WORKER, database="2"),)))

    assert report.ids == {"worker-elsewhere"}


def test_the_reference_describes_every_check() -> None:
    """Each id has its section, written from the check itself."""
    text = doctor_page.PAGE.read_text()

    assert text == doctor_page.page(text), "run `python -m tests.doctor_page`"
    for check in CHECKS:
        assert f"\n### {check.id}\n" in text


def test_a_task_of_a_far_off_name_is_not_proposed() -> None:
    """Names of one module are alike; whoever copies the advice would schedule another task."""
    facts = settings(entries=(replace(ENTRY, task="shop.mind"),))

    (finding,) = BY_ID["schedule-nowhere"].findings(facts)

    assert finding.value == "nightly: no worker nor this app knows a task shop.mind"
