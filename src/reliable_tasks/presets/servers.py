"""Where the broker, the results and the records are, and how they are reached (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reliable_tasks.errors import ConfigurationError
from reliable_tasks.presets.addresses import Address, check_store
from reliable_tasks.presets.needs import Needs
from reliable_tasks.presets.rows import BROKER, RECORDS, RESULTS, Row

__all__ = (
    "MUST_PROVE",
    "SOCKET_TIMEOUT",
    "authority",
    "backend_rows",
    "broker_rows",
    "no_result_rows",
    "redis_tls",
    "result_rows",
    "server_rows",
    "store_rows",
    "tls_rows",
)

SOCKET_TIMEOUT = {"web": 1.5, "worker": 5}  # seconds; a publish waits for up to three of them
RESULT_TIMEOUT = {"web": 0.8, "worker": 5}  # seconds; a publish waits for up to five of them
RESULT_RETRIES = 20
KEEP_RESULTS = 86_400
MUST_PROVE = "The server must show a certificate that the client trusts."


def broker_rows(broker: Address) -> Iterator[Row]:
    """Yield where the broker is, and what a worker does if it is not there."""
    yield Row(
        name="broker_url",
        value=broker.text,
        reason="Where messages are.",
        without="Celery looks for RabbitMQ on this machine.",
        source="given: url",
        topic=BROKER,
        is_address=True,
    )
    yield Row(
        name="broker_connection_retry_on_startup",
        value=True,
        reason="A worker that starts before its broker waits for it.",
        without="Workers end when they are deployed together with their broker.",
        source="Celery, Configuration: broker_connection_retry_on_startup",
        topic=BROKER,
    )


def server_rows(
    address: Address, setting: str, keyprefix: str | None, master: str | None, timeout: float
) -> Iterator[Row]:
    """
    Yield what one Redis must be told besides its address.

    Args:
        address: Where it is, or where its sentinels are.
        setting: Celery's setting that takes the options.
        keyprefix: First part of the name of every key.
        master: The name under which sentinels know the primary.
        timeout: Seconds that all sentinels together may take to say where the primary is.
    """
    topic = BROKER if setting.startswith("broker") else RESULTS
    if keyprefix is not None:
        yield Row(
            name=f"{setting}.global_keyprefix",
            value=_checked_prefix(keyprefix),
            reason="Others use this Redis too.",
            without="Two apps read each other's messages.",
            source="given: keyprefix",
            topic=topic,
            holds="equal",
        )
    if address.is_sentinel:
        yield Row(
            name=f"{setting}.master_name",
            value=master,
            reason="The primary's name among those that the sentinels watch.",
            without="No connection can be made.",
            source="given: sentinel_master",
            topic=topic,
        )
        share = round(timeout / len(address.urls), 2)
        yield Row(
            name=f"{setting}.sentinel_kwargs",
            value={"socket_timeout": share, "socket_connect_timeout": share, "retry": None},
            reason="A sentinel that does not answer is passed over, and not asked again at once.",
            without="One sentinel that accepts and never answers holds a publish for minutes.",
            source="measured; redis-py, Sentinel",
            topic=topic,
            holds="at most",
        )


def _checked_prefix(keyprefix: Any) -> Any:
    if not isinstance(keyprefix, str) or not keyprefix or ":" in keyprefix.rstrip(":"):
        raise ConfigurationError(
            f"keyprefix: expected a text without ':' but at its end, got {keyprefix!r}"
        )
    return keyprefix


def tls_rows(
    address: Address, setting: str, options: Mapping[str, tuple[Any, str]]
) -> Iterator[Row]:
    """Yield the check of a server's certificate, unless the address says how to do it."""
    if not address.is_tls or address.has_own_tls_options:
        return
    for option, (value, reason) in options.items():
        yield Row(
            name=f"{setting}.{option}",
            value=value,
            reason=reason,
            without="The connection is encrypted, but anybody can be at its other end.",
            source=f"Celery, Configuration: {setting}",
            topic=BROKER if setting.startswith("broker") else RESULTS,
        )


def redis_tls(ca_certs: str | None) -> dict[str, tuple[Any, str]]:
    """Return how redis-py checks a certificate, with the reasons."""
    return {"ssl_cert_reqs": ("required", MUST_PROVE), **authority("ssl_ca_certs", ca_certs)}


def authority(option: str, ca_certs: str | None) -> dict[str, tuple[Any, str]]:
    """Return who vouches for the server, with the reason, if that was said."""
    return {} if ca_certs is None else {option: (ca_certs, "The authority that it must come from.")}


def no_result_rows() -> Iterator[Row]:
    """Yield that no results are kept."""
    yield Row(
        name="task_ignore_result",
        value=True,
        reason=(
            "results was not asked for: nothing is stored that nobody reads. Chords, and "
            "`.get()`, need results."
        ),
        without="Each task costs a write, and each unread result memory for a day.",
        source="Celery, Tasks: ignore results you don't want",
        topic=RESULTS,
    )


def result_rows(needs: Needs, results: Address) -> Iterator[Row]:
    """Yield where results are kept, and how long their server may take."""
    timeout = RESULT_TIMEOUT[needs.publishers]
    source = "Celery, Configuration: Redis backend settings"
    yield Row(
        name="result_backend",
        value=results.text,
        reason="A database of its own, apart from the messages.",
        without="Nobody can wait for a result, and chords do not run.",
        source=source,
        topic=RESULTS,
        is_address=True,
    )
    yield Row(
        name="result_expires",
        value=KEEP_RESULTS,
        reason="A day: long enough to be read, and memory is given back.",
        without="Redis fills up with results that nobody reads.",
        source="Celery, Configuration: result_expires",
        topic=RESULTS,
    )
    for name in ("redis_socket_timeout", "redis_socket_connect_timeout"):
        yield Row(
            name=name,
            value=timeout,
            reason="A publish subscribes to its result, so the backend must answer as soon.",
            without="A backend that hangs holds each publish for two minutes.",
            source=source,
            topic=RESULTS,
            holds="at most",
        )
    yield Row(
        name="redis_retry_on_timeout",
        value=True,
        reason="Storing a result twice stores the same result.",
        without="One slow answer, and the result is missing.",
        source=source,
        topic=RESULTS,
    )
    if not results.is_socket:  # whose connections refuse the option
        yield Row(
            name="redis_socket_keepalive",
            value=True,
            reason="The kernel notices a peer that vanished.",
            without="A caller waits on a connection that a firewall has forgotten.",
            source=source,
            topic=RESULTS,
        )
    yield Row(
        name="result_backend_always_retry",
        value=True,
        reason="A worker waits with its result until the backend is back.",
        without="A result is lost with one connection, and a chord waits for it.",
        source="Celery, Configuration: result_backend_always_retry",
        topic=RESULTS,
    )
    yield Row(
        name="result_backend_max_retries",
        value=RESULT_RETRIES,
        reason="It waits for some two minutes.",
        without="It waits for ever, and takes no other task.",
        source="Celery, Configuration: result_backend_max_retries",
        topic=RESULTS,
    )
    if needs.is_web:
        yield Row(
            name="result_backend_transport_options.retry_policy",
            value={"max_retries": 0},
            reason="A publish subscribes to its result: it tries so twice, in less than 6 s.",
            without="It tries 20 times: a backend that never answers holds a request for 96 s.",
            source="measured; Celery, Configuration: result_backend_transport_options",
            topic=RESULTS,
            holds="at most",
        )


def backend_rows(
    needs: Needs,
    backend: Address | None,
    keyprefix: str | None,
    master: str | None,
    ca_certs: str | None,
) -> Iterator[Row]:
    """Yield how the result backend, if there is one, is reached."""
    if backend is not None:
        options, timeout = "result_backend_transport_options", RESULT_TIMEOUT[needs.publishers]
        yield from server_rows(backend, options, keyprefix, master, timeout)
        yield from tls_rows(backend, "redis_backend_use_ssl", redis_tls(ca_certs))


def store_rows(store: str | None) -> Iterator[Row]:
    """Yield where records live, if that was said."""
    if store is not None:
        yield Row(
            name="reliable_tasks_store_url",
            value=check_store(store),
            reason="The records of IdempotentTask are kept there.",
            without="They are kept in the broker, if it is Redis, else in the result backend.",
            source="given: store",
            topic=RECORDS,
            is_address=True,
        )
