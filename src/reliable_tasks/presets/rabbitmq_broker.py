"""`presets.rabbitmq`: what a team needs -> settings for RabbitMQ."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any, Literal

from reliable_tasks.core.durations import Seconds
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.presets.addresses import check_authority, read_address, read_results
from reliable_tasks.presets.common import assembled, at_least, common_rows, max_crashes, queue_rows
from reliable_tasks.presets.needs import Needs, optional_seconds, read_needs, whole
from reliable_tasks.presets.preset import Preset
from reliable_tasks.presets.rows import BROKER, QUEUES, Row
from reliable_tasks.presets.rules import (
    check_consumer_timeout,
    check_countdown,
    check_dead_letter_queues,
    check_delivery_limit,
    check_horizon,
    check_lease,
    check_queue_names,
    check_routing_keys,
)
from reliable_tasks.presets.servers import (
    MUST_PROVE,
    authority,
    backend_rows,
    broker_rows,
    store_rows,
    tls_rows,
)

__all__ = ("dead_letter_queue", "rabbitmq")

MARGIN = 60  # seconds for a worker to settle what ended
SERVERS_OWN = 1_800  # seconds; RabbitMQ's default consumer timeout
TIMEOUT = {"web": 1.5, "worker": 5}  # seconds; a publish waits for up to three of them
HEARTBEAT = 30  # seconds
DELAYED = "RabbitMQ, Quorum Queues; Celery, Using RabbitMQ: quorum queues"
QUEUE_TYPES = ("quorum", "classic")


def rabbitmq(
    url: str | Sequence[str],
    *,
    longest_task: Seconds = 600,
    longest_countdown: Seconds = 3600,
    workload: Literal["cpu", "io"] = "cpu",
    concurrency: int | None = None,
    results: str | None = None,
    grace_period: Seconds = 30,
    keyprefix: str | None = None,
    publishers: Literal["web", "worker"] = "web",
    queues: str | Sequence[str] = "jobs",
    queue_type: Literal["quorum", "classic"] = "quorum",
    store: str | None = None,
    sentinel_master: str | None = None,
    ca_certs: str | PathLike[str] | None = None,
    consumer_timeout: Seconds | None = None,
    delivery_limit: int = 100,
    lease_seconds: Seconds = 30,
    redelivery_horizon: Seconds | None = None,
) -> Preset:
    """
    Derive the settings of an app whose broker is RabbitMQ.

    Args:
        url: ``amqp://`` or ``amqps://`` (TLS). Several hosts of one cluster, with ``;`` between
            them or as a list, are tried in turn.
        longest_task: Seconds that a task may run; it is told to end then, and killed 30 s later.
        longest_countdown: The longest countdown or ETA that is ever published, in seconds.
        workload: ``"cpu"``: processes; ``"io"``: threads.
        concurrency: Tasks that one worker runs at once; by default the number of cores, for
            ``"io"`` 20.
        results: A Redis for results; None: no results.
        grace_period: Seconds from SIGTERM to SIGKILL when you deploy, above 5.
        keyprefix: First part of the name of every key of the results.
        publishers: ``"web"``: somebody waits for a publish, which takes less than 6 s whatever the
            broker does; ``"worker"``: nobody waits.
        queues: Names of the queues; the first is the default one. A queue that exists already
            with other arguments needs another name here, for RabbitMQ changes none.
        queue_type: ``"quorum"`` or ``"classic"``.
        store: A Redis for the records of `IdempotentTask`, if not that of the results.
        sentinel_master: The name of the primary, if the results are behind sentinels.
        ca_certs: File with the authority of the servers' certificates, beside an address with
            TLS; the system's authorities if left out.
        consumer_timeout: Seconds; derived if left out.
        delivery_limit: Deliveries of one message after which a quorum queue gives it to the
            queue of dead letters.
        lease_seconds: Lease of an `IdempotentTask`.
        redelivery_horizon: How long a copy of a message may turn up, in seconds; derived if left
            out.

    Returns:
        The settings, each with its reason.

    Raises:
        ConfigurationError: A value cannot be used, or two of them cannot hold together.
    """
    needs = read_needs(
        longest_task=longest_task,
        longest_countdown=longest_countdown,
        workload=workload,
        concurrency=concurrency,
        grace_period=grace_period,
        lease_seconds=lease_seconds,
        publishers=publishers,
        queues=queues,
    )
    if queue_type not in QUEUE_TYPES:
        raise ConfigurationError(f"queue_type: expected one of {QUEUE_TYPES}, got {queue_type!r}")
    check_queue_names(needs.queues)
    is_quorum = queue_type == "quorum"
    broker = read_address(url, "rabbitmq")
    backend = read_results(results, broker, sentinel_master)
    certs = check_authority("ca_certs", ca_certs, broker, backend)
    hold, made_of = _longest_hold(needs, waits_in_worker=not is_quorum)
    timeout = optional_seconds("consumer_timeout", consumer_timeout) or max(hold, SERVERS_OWN)
    check_consumer_timeout(timeout, hold, made_of)
    if is_quorum:
        _check_quorum(needs, delivery_limit)
    latest, copies = 2 * timeout, f"twice the consumer timeout, {timeout:g} s"
    horizon = at_least(optional_seconds("redelivery_horizon", redelivery_horizon), latest)
    check_horizon(horizon, latest, copies)
    check_lease(needs.lease_seconds, horizon)
    rows = [
        *broker_rows(broker),
        *_connections(needs),
        *tls_rows(broker, "broker_use_ssl", _tls(certs)),
        *(_quorum(needs, timeout, made_of, delivery_limit) if is_quorum else ()),
        *(() if is_quorum else _classic(needs, timeout, made_of)),
        *common_rows(needs, backend, horizon, copies),
        *backend_rows(needs, backend, keyprefix, sentinel_master, certs),
        *store_rows(store),
    ]
    return assembled("RabbitMQ", needs, rows)


def dead_letter_queue(name: str) -> str:
    """Return where a quorum queue's dead letters go."""
    return f"{name}.dead"


def _check_quorum(needs: Needs, delivery_limit: int) -> None:
    check_countdown(needs.longest_countdown)
    check_delivery_limit(whole("delivery_limit", delivery_limit), max_crashes())
    check_routing_keys(needs.queues)
    check_dead_letter_queues(needs.queues, dead_letter_queue)


def _longest_hold(needs: Needs, *, waits_in_worker: bool) -> tuple[float, str]:
    """Return for how long a living worker may hold a message, and what that is made of."""
    hold = 2 * needs.hard_limit + MARGIN
    made_of = (
        f"the hard time limit {needs.hard_limit:g} s twice, for the task before it may last as "
        f"long, and {MARGIN} s"
    )
    if not waits_in_worker:
        return hold, made_of
    return (
        hold + needs.longest_countdown,
        f"longest_countdown {needs.longest_countdown:g} s, {made_of}",
    )


def _connections(needs: Needs) -> Iterator[Row]:
    timeout = TIMEOUT[needs.publishers]
    options = "broker_transport_options"
    yield Row(
        name=f"{options}.confirm_publish",
        value=True,
        reason="A publish waits until RabbitMQ has the message on disk.",
        without="A message that RabbitMQ never got is a publish that went well.",
        source="RabbitMQ, Publisher Confirms; Kombu, transport/pyamqp.py",
        topic=BROKER,
        holds="equal",
    )
    for name in ("read_timeout", "write_timeout"):
        yield Row(
            name=f"{options}.{name}",
            value=timeout,
            reason="A publish whose confirmation does not come fails"
            + (" within 6 s." if needs.is_web else "."),
            without="A RabbitMQ that stands still holds each publish for as long.",
            source="measured: a paused RabbitMQ; py-amqp, Connection",
            topic=BROKER,
            holds="at most",
        )
    yield Row(
        name="broker_connection_timeout",
        value=timeout,
        reason="The same for connecting.",
        without="It is 4 s for each attempt.",
        source="Celery, Configuration: broker_connection_timeout",
        topic=BROKER,
        holds="at most",
    )
    yield Row(
        name="broker_heartbeat",
        value=HEARTBEAT,
        reason="Worker and RabbitMQ notice within a minute that the other one vanished.",
        without="It is 120 s: jobs of a machine that lost its network wait as long.",
        source="RabbitMQ, Heartbeats",
        topic=BROKER,
    )
    yield Row(
        name="broker_channel_error_retry",
        value=True,
        reason="A worker whose channel was closed opens another one.",
        without="A consumer timeout ends the worker; its supervisor starts it again, without end.",
        source="measured; Celery, Configuration: broker_channel_error_retry",
        topic=BROKER,
        holds="equal",
    )


def _quorum(needs: Needs, timeout: float, made_of: str, delivery_limit: int) -> Iterator[Row]:
    yield from queue_rows(
        needs,
        {
            name: {
                "exchange": name,
                "exchange_type": "topic",
                "routing_key": name,
                "queue_arguments": {
                    "x-queue-type": "quorum",
                    "x-delivery-limit": delivery_limit,
                    "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": dead_letter_queue(name),
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                    "x-consumer-timeout": round(timeout * 1_000),
                },
            }
            for name in needs.queues
        },
        reason=(
            "Quorum queues keep messages on several machines. Their exchange is a topic exchange, "
            "for only that has delayed delivery. Everybody declares them with these arguments: "
            f"after {delivery_limit} deliveries (our crash count quarantines after "
            f"{max_crashes()} deaths, long before) a message goes to "
            f"{dead_letter_queue(needs.queues[0])}, and is kept until it is there. A worker "
            f"may hold a message for {timeout:g} s: {made_of}, but never less than RabbitMQ's own "
            f"{SERVERS_OWN} s. RabbitMQ before 3.12 reads only consumer_timeout in rabbitmq.conf. "
            "RabbitMQ never changes a queue: if one of this name exists with other arguments, as "
            "a classic queue does, it answers 406 PRECONDITION_FAILED, and the queue needs another "
            "name here."
        ),
        without=(
            "Classic queues live on one machine, and countdowns wait inside of workers. RabbitMQ 4 "
            "drops a message after 20 deliveries."
        ),
        source=DELAYED,
        holds="no less",
    )
    yield Row(
        name="task_default_queue_type",
        value="quorum",
        reason="A queue that is declared without arguments is a quorum queue too.",
        without="It is a classic queue, with other promises.",
        source="Celery, Configuration: task_default_queue_type",
        topic=QUEUES,
    )
    yield Row(
        name="task_default_exchange_type",
        value="topic",
        reason="Delayed delivery takes the end of a routing key for the queue's.",
        without="Countdowns wait in the worker, which takes nothing else meanwhile.",
        source=DELAYED,
        topic=QUEUES,
        holds="equal",
    )
    yield Row(
        name="broker_native_delayed_delivery_queue_type",
        value="quorum",
        reason="The queues in which countdowns wait are kept like the others.",
        without="A job that waits for its countdown is on one machine only.",
        source="Celery, Configuration: broker_native_delayed_delivery_queue_type",
        topic=QUEUES,
    )
    yield Row(
        name="worker_detect_quorum_queues",
        value=True,
        reason="Quorum queues take a prefetch limit for each consumer, not for all together.",
        without="The worker cannot consume: RabbitMQ refuses its prefetch limit.",
        source="Celery, Configuration: worker_detect_quorum_queues",
        topic=QUEUES,
        holds="equal",
    )


def _classic(needs: Needs, timeout: float, made_of: str) -> Iterator[Row]:
    yield from queue_rows(
        needs,
        {
            name: {
                "exchange": name,
                "routing_key": name,
                "queue_arguments": {"x-consumer-timeout": round(timeout * 1_000)},
            }
            for name in needs.queues
        },
        reason=(
            f"Classic queues were asked for. A worker may hold a message for {timeout:g} s: "
            f"{made_of}. RabbitMQ before 3.12 reads only consumer_timeout in rabbitmq.conf."
        ),
        without="RabbitMQ takes back after half an hour what waits for its countdown or runs.",
        source="RabbitMQ, Consumers: delivery acknowledgement timeout",
        holds="no less",
    )


def _tls(ca_certs: str | None) -> dict[str, tuple[Any, str]]:
    return {
        "cert_reqs": (int(ssl.CERT_REQUIRED), f"{MUST_PROVE} 2 is ssl.CERT_REQUIRED."),
        "server_hostname": (None, "None: the name in it must be that of the host in the address."),
        **authority("ca_certs", ca_certs),
    }
