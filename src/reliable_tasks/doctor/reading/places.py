"""Where an app has its messages, results and records, as Celery reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from celery.app.backends import BACKEND_ALIASES
from celery.utils.imports import load_extension_class_names
from kombu.transport import get_transport_cls

from reliable_tasks.doctor.facts import Place
from reliable_tasks.doctor.reading.tasks import own_tasks
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.presets.addresses import (
    CLUSTER,
    DATABASES,
    RABBITMQ,
    REDIS,
    Address,
    check_sentinel,
    masked,
    read_address,
)
from reliable_tasks.storage import place_of, prefix_of
from reliable_tasks.task import IdempotentTask

__all__ = ("address_faults", "as_text", "backend_faults", "backend_of", "place_at", "store_of")

NO_RESULTS = ("", "disabled", "disabled://")


def as_text(url: Any) -> str:
    """Return an address as one text; without one Celery looks for RabbitMQ on this machine."""
    if isinstance(url, list | tuple):
        return ";".join(map(str, url))
    return str(url or "amqp://localhost//")


def place_at(text: str, prefix: str = "") -> Place:
    """
    Return what an address names.

    Args:
        text: One URL, or several with ``;`` between them.
        prefix: Of the keys there.
    """
    kind = _kind(text.partition("://")[0])
    urls = tuple(url for url in text.split(";") if url)
    try:
        servers, database = _whereabouts(kind, urls)
    except ValueError:  # unreadable, as with a stroke in a password; the faults say so
        servers, database = frozenset(), ""
    return Place(kind=kind, url=masked(text), servers=servers, database=database, prefix=prefix)


def _whereabouts(kind: str, urls: tuple[str, ...]) -> tuple[frozenset[str], str]:
    if kind == "redis":
        address = Address(urls)
        return address.servers, address.database
    if kind == "rabbitmq":
        return frozenset(map(_rabbit_server, urls)), unquote(urlsplit(urls[0]).path[1:]) or "/"
    return frozenset(), ""


def _kind(scheme: str) -> str:
    if scheme in (*REDIS, *CLUSTER):
        return "redis"
    if scheme in (*RABBITMQ, "librabbitmq"):
        return "rabbitmq"
    if scheme in ("memory", "rpc"):
        return scheme
    return "database" if scheme.startswith(DATABASES) or "+" in scheme else "other"


def _rabbit_server(url: str) -> str:
    parts = urlsplit(url)
    usual = 5671 if parts.scheme == "amqps" else 5672
    return f"{parts.hostname or 'localhost'}:{parts.port or usual}"


def backend_of(conf: Any) -> Place | None:
    """Return where results are kept; None if nowhere."""
    url = conf.result_backend
    if not isinstance(url, str) or url in NO_RESULTS:
        return None
    options = conf.get("result_backend_transport_options") or {}
    named = url if "://" in url else f"{url}://"
    return place_at(named, str(options.get("global_keyprefix") or ""))


def backend_faults(app: Any) -> Iterator[str]:
    """Yield why Celery has no result backend of the kind that the app names; imports none."""
    name = str(app.conf.result_backend or NO_RESULTS[0]).partition("://")[0].partition("+")[0]
    known = {*BACKEND_ALIASES, *app.loader.override_backends, *NO_RESULTS}
    known |= {extension for extension, _ in load_extension_class_names("celery.result_backends")}
    is_class = "." in name or ":" in name
    if name not in known and not is_class:
        yield f"result_backend: Celery has no backend {name!r}"


def store_of(app: Any) -> Place | None:
    """Return where guarded tasks have their records; None without such tasks, or without a URL."""
    guarded = [task for task in own_tasks(app) if isinstance(task, IdempotentTask)]
    if not guarded:
        return None
    try:
        target = place_of(app.conf).target
        prefix = prefix_of(app.conf)
    except ConfigurationError:
        return None
    return place_at(target, prefix) if isinstance(target, str) else None


def address_faults(broker: str, conf: Any) -> Iterator[str]:
    """Yield what the presets would say against a broker's address."""
    scheme = broker.partition("://")[0]
    kind = _kind(scheme)
    try:
        get_transport_cls(scheme.partition("+")[0])
    except Exception as error:  # whatever the import of a transport raises
        said = error.args[0] if error.args else type(error).__name__
        yield f"Kombu cannot use {scheme}://: {said}"
        return
    if kind not in ("redis", "rabbitmq") or broker.startswith("librabbitmq"):
        return
    options = conf.get("broker_transport_options") or {}
    try:
        check_sentinel(read_address(broker, kind), options.get("master_name"))
    except ConfigurationError as error:
        yield masked(str(error))
