"""The servers of an app: its broker, its result backend, and where its records live."""

from __future__ import annotations

from time import monotonic
from typing import Any

from reliable_tasks.doctor.facts import Gap, Link, Place, Settings
from reliable_tasks.doctor.probes.rabbit_server import probe_rabbit
from reliable_tasks.doctor.probes.reach import said_of
from reliable_tasks.doctor.reading.places import as_text
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.storage import place_of, redis_backend, redis_broker

__all__ = ("Probed", "probe_backend", "probe_broker", "probe_store")

Probed = tuple[Link | None, list[Gap]]
CLUSTER = ("redis+cluster://", "rediss+cluster://")
ASKED_FOR = "rt1:=doctor"
"""A name that no record has: asking for it shows that the store answers."""


def probe_broker(app: Any, settings: Settings, timeout: float) -> Probed:
    """Use the broker as a publisher does."""
    place = settings.broker
    if place.kind == "redis":
        return _redis(place, redis_broker(app.conf), timeout)
    if place.kind == "rabbitmq":
        return _rabbit(app, place, timeout)
    return None, [Gap("the broker", f"the doctor cannot ask one of kind {place.kind!r}")]


def probe_backend(app: Any, settings: Settings, timeout: float) -> Probed:
    """Use the result backend as a caller does who waits for a result."""
    place = settings.backend
    if place is None or place.kind == "rpc":
        return None, []
    if place.kind == "redis":
        return _redis(place, redis_backend(app.conf), timeout)
    return None, [Gap("the result backend", f"the doctor cannot ask one of kind {place.kind!r}")]


def probe_store(app: Any, settings: Settings, timeout: float) -> Probed:
    """Use the store of the records, if it is named by an address."""
    place = settings.store
    if place is None:
        return None, []
    named = place_of(app.conf)
    if not named.target.startswith(CLUSTER):
        return _redis(place, (named.target, dict(named.options)), timeout)
    begun = monotonic()
    try:
        named.open().peek(ASKED_FOR)
    except StoreUnavailable as error:
        return Link(place=place, trouble="other", detail=said_of(error)), []
    gap = Gap("memory and persistence of the store", "the nodes of a cluster are not asked")
    return Link(place=place, seconds=monotonic() - begun), [gap]


def _redis(place: Place, found: tuple[str, dict[str, Any]] | None, timeout: float) -> Probed:
    if found is None:
        return None, [Gap(place.url, "no address that redis-py can read")]
    from reliable_tasks.doctor.probes.redis_server import (  # noqa: PLC0415 - imports redis
        probe_redis,
    )

    return probe_redis(place, *found, timeout)


def _rabbit(app: Any, place: Place, timeout: float) -> Probed:
    """Try each host in turn, as a publisher does."""
    failed: list[Link] = []
    for url in as_text(app.conf.broker_write_url).split(";"):
        link = probe_rabbit(app, place, url, timeout)
        if link.trouble is None:
            return link, [Gap("one of the broker's hosts", each.detail) for each in failed]
        failed.append(link)
    return failed[0], []
