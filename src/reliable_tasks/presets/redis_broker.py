"""`presets.redis`: what a team needs -> settings for Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Literal

from reliable_tasks.core.durations import Seconds
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.presets.addresses import (
    check_authority,
    check_sentinel,
    read_address,
    read_results,
)
from reliable_tasks.presets.common import assembled, at_least, common_rows, queue_rows
from reliable_tasks.presets.needs import Needs, optional_seconds, read_needs
from reliable_tasks.presets.preset import Preset
from reliable_tasks.presets.rows import BROKER, Row
from reliable_tasks.presets.rules import check_horizon, check_lease, check_visibility_timeout
from reliable_tasks.presets.servers import (
    SOCKET_TIMEOUT,
    backend_rows,
    broker_rows,
    redis_tls,
    server_rows,
    store_rows,
    tls_rows,
)

__all__ = ("redis",)

WITH_HEARTBEAT, LEAST_WITH_HEARTBEAT = 60, 5  # seconds
BEATEN = "with a heartbeat three times as often"
MARGIN = 60  # seconds for a worker to settle what ended, and for clocks that differ
SWEEP = 5  # seconds
HEALTH_CHECK = 10  # seconds
KOMBU = "Kombu, transport/redis.py"


def redis(
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
    queues: str | Sequence[str] = "celery",
    store: str | None = None,
    sentinel_master: str | None = None,
    ca_certs: str | PathLike[str] | None = None,
    visibility_timeout: Seconds | None = None,
    heartbeat: bool = False,
    lease_seconds: Seconds = 30,
    redelivery_horizon: Seconds | None = None,
) -> Preset:
    """
    Derive the settings of an app whose broker is Redis or Valkey.

    Args:
        url: ``redis://``, ``rediss://`` (TLS), ``redis+socket://``, or sentinels:
            ``sentinel://host:26379/0;sentinel://host:26379/0``, or a list of those.
        longest_task: Seconds that a task may run; it is told to end then, and killed 30 s later.
        longest_countdown: The longest countdown or ETA that is ever published, in seconds. Retries
            with `retry_task` do not count: those go in hops.
        workload: ``"cpu"``: processes; ``"io"``: threads.
        concurrency: Tasks that one worker runs at once; by default the number of cores, for
            ``"io"`` 20.
        results: A Redis for results, in another database than the broker; None: no results.
        grace_period: Seconds from SIGTERM to SIGKILL when you deploy, above 5.
        keyprefix: First part of the name of every key, for a Redis that others use too.
        publishers: ``"web"``: somebody waits for a publish, which takes less than 6 s whatever the
            broker does; ``"worker"``: nobody waits.
        queues: Names of the queues; the first is the default one.
        store: A Redis for the records of `IdempotentTask`, if not the broker.
        sentinel_master: The name under which the sentinels know the primary.
        ca_certs: File with the authority of the server's certificate, beside an address with TLS;
            the system's authorities if left out.
        visibility_timeout: Seconds; derived if left out.
        heartbeat: Rely on the heartbeat that `setup` gives to workers: the visibility timeout is
            60 s then, or what you say from 5 s. Only once every worker of this Redis database has
            it: see "How to introduce it" on the page about the visibility timeout.
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
    if not isinstance(heartbeat, bool):
        raise ConfigurationError(
            f"heartbeat: expected True or False, got {heartbeat!r}. Seconds are visibility_timeout."
        )
    broker = read_address(url, "redis")
    check_sentinel(broker, sentinel_master)
    backend = read_results(results, broker, sentinel_master)
    certs = check_authority("ca_certs", ca_certs, broker, backend)
    hold, made_of = _longest_hold(needs)
    least, why = (LEAST_WITH_HEARTBEAT, BEATEN) if heartbeat else (hold, made_of)
    visible = optional_seconds("visibility_timeout", visibility_timeout) or (
        WITH_HEARTBEAT if heartbeat else hold
    )
    check_visibility_timeout(visible, least, why)
    latest = hold + visible
    copies = f"{hold:g} s for which a worker may hold it, and the visibility timeout"
    horizon = at_least(optional_seconds("redelivery_horizon", redelivery_horizon), latest)
    check_horizon(horizon, latest, copies)
    check_lease(needs.lease_seconds, horizon)
    rows = [
        *broker_rows(broker),
        *_transport(needs, _visibility_timeout(visible, made_of, heartbeat=heartbeat)),
        *server_rows(
            broker,
            "broker_transport_options",
            keyprefix,
            sentinel_master,
            SOCKET_TIMEOUT[needs.publishers],
        ),
        *tls_rows(broker, "broker_use_ssl", redis_tls(certs)),
        *queue_rows(
            needs,
            {name: {"exchange": name, "routing_key": name} for name in needs.queues},
            reason="The queues that exist. A worker reads all of them, unless --queues names some.",
            without="Only the default queue exists.",
            source="given: queues",
        ),
        *common_rows(needs, backend, horizon, copies),
        *backend_rows(needs, backend, keyprefix, sentinel_master, certs),
        *store_rows(store),
    ]
    return assembled("Redis", needs, rows, heartbeat=heartbeat)


def _longest_hold(needs: Needs) -> tuple[float, str]:
    """Return for how long a living worker may hold a message, and what that is made of."""
    hold = needs.longest_countdown + 2 * needs.hard_limit + MARGIN
    return hold, (
        f"longest_countdown {needs.longest_countdown:g} s, the hard time limit "
        f"{needs.hard_limit:g} s twice, for the task before it may last as long, and {MARGIN} s"
    )


def _visibility_timeout(visible: float, made_of: str, *, heartbeat: bool) -> Row:
    name = "broker_transport_options.visibility_timeout"
    if heartbeat:
        return Row(
            name=name,
            value=visible,
            reason=(
                "With setup(app) a worker says all the time what it still holds. A dead one's jobs "
                "come back so soon after its last word."
            ),
            without="It is an hour: so long a dead worker's jobs wait.",
            source="given: heartbeat; The visibility timeout",
            topic=BROKER,
            holds="equal",
        )
    return Row(
        name=name,
        value=visible,
        reason=(
            f"A worker may hold a message for so long: {made_of}. A dead worker's jobs come back "
            "after it."
        ),
        without=(
            "It is an hour: what waits or runs longer is delivered again, to run twice, and again "
            "an hour later."
        ),
        source="derived: longest_task and longest_countdown; Celery, Using Redis: caveats",
        topic=BROKER,
        holds="at least",
    )


def _transport(needs: Needs, visibility_timeout: Row) -> Iterator[Row]:
    timeout = SOCKET_TIMEOUT[needs.publishers]
    options = "broker_transport_options"
    yield visibility_timeout
    yield Row(
        name=f"{options}.unacked_restore_interval",
        value=SWEEP,
        reason="Workers look for messages whose visibility timeout is over so often.",
        without="They look every 100 s, so that a dead worker's jobs wait longer.",
        source="Kombu 5.7, transport/redis.py",
        topic=BROKER,
        holds="at most",
    )
    yield Row(
        name=f"{options}.unacked_restore_throttle",
        value=1,
        reason="They look each time, not each tenth time.",
        without="The interval counts tenfold.",
        source="Kombu 5.7, transport/redis.py",
        topic=BROKER,
        holds="at most",
    )
    yield from _sockets(options, timeout, needs)


def _sockets(options: str, timeout: float, needs: Needs) -> Iterator[Row]:
    yield Row(
        name=f"{options}.socket_timeout",
        value=timeout,
        reason=(
            "A publish fails within 6 s whatever Redis does"
            if needs.is_web
            else "A connection that does not answer is given up"
        )
        + ". It must exceed the second for which a worker waits for a message.",
        without="A Redis that accepts and never answers holds a request for 75 s and more.",
        source="measured; Kombu 5.7, transport/redis.py: socket_timeout",
        topic=BROKER,
        holds="at most",
    )
    yield Row(
        name=f"{options}.socket_connect_timeout",
        value=timeout,
        reason="The same for connecting.",
        without="A machine that is off holds each publish for as long as the kernel tries.",
        source=KOMBU,
        topic=BROKER,
        holds="at most",
    )
    yield Row(
        name=f"{options}.socket_keepalive",
        value=True,
        reason="The kernel notices a peer that vanished.",
        without="A worker waits for messages on a connection that a firewall has forgotten.",
        source=KOMBU,
        topic=BROKER,
    )
    yield Row(
        name=f"{options}.health_check_interval",
        value=HEALTH_CHECK,
        reason="A connection that was idle for so long is tried before it is used.",
        without="It is 25 s, and a dead connection is noticed as late.",
        source=KOMBU,
        topic=BROKER,
    )
    yield Row(
        name=f"{options}.retry_on_timeout",
        value=False,
        reason="A publish whose answer was late has happened.",
        without="It is sent again below Celery's own retries, and one call is two messages.",
        source="measured; redis-py, Retry",
        topic=BROKER,
        holds="equal",
    )
