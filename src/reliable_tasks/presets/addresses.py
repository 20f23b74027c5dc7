"""Addresses of brokers and result backends: read, checked, and shown without passwords (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any
from urllib.parse import SplitResult, urlsplit

from reliable_tasks.errors import ConfigurationError

__all__ = (
    "Address",
    "check_authority",
    "check_sentinel",
    "check_store",
    "masked",
    "read_address",
    "read_results",
)

REDIS = ("redis", "rediss", "redis+socket", "sentinel")
RABBITMQ = ("amqp", "amqps", "pyamqp")
TLS = ("rediss", "amqps")
CLUSTER = ("redis+cluster", "rediss+cluster")
DATABASES = ("db+", "sqla+", "sqlalchemy", "django-db", "database", "mongodb", "postgres", "mysql")

_PASSWORD = re.compile(r"(://[^/@;:]*:)(?:(?!://).)*(?=@)|((?:^|[?&])password=)[^&;]*")


@dataclass(frozen=True, slots=True)
class Address:
    """
    Where a server is: one host or several.

    Args:
        urls: One URL for each host; they may hold a password.
    """

    urls: tuple[str, ...] = field(repr=False)

    @property
    def text(self) -> str:
        """As Celery takes it."""
        return ";".join(self.urls)

    @property
    def has_password(self) -> bool:
        """Whether it must stay out of files and logs."""
        return masked(self.text) != self.text

    @property
    def parts(self) -> SplitResult:
        """The first URL in its parts."""
        return urlsplit(self.urls[0])

    @property
    def scheme(self) -> str:
        """What stands before ``://``."""
        return _scheme(self.urls[0])

    @property
    def is_sentinel(self) -> bool:
        """Whether it names sentinels, which know where the primary is."""
        return self.scheme == "sentinel"

    @property
    def is_socket(self) -> bool:
        """Whether it is a file on this machine."""
        return self.scheme == "redis+socket"

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in TLS

    @property
    def has_own_tls_options(self) -> bool:
        """Whether its query says how to check the server's certificate."""
        return "ssl_" in self.parts.query

    @property
    def database(self) -> str:
        """The number of a Redis database, as it stands in the path or, for a socket, the query."""
        if self.is_socket:
            found = re.search(r"(?:virtual_host|db)=(\d+)", self.parts.query)
            return found[1] if found else "0"
        return self.parts.path.strip("/") or "0"

    @property
    def servers(self) -> frozenset[str]:
        """The hosts with their ports, or the path of a socket."""
        if self.is_socket:
            return frozenset({self.parts.path})
        port = 26379 if self.is_sentinel else 6379
        split = map(urlsplit, self.urls)
        return frozenset(f"{url.hostname or 'localhost'}:{url.port or port}" for url in split)

    def is_same_database(self, other: Address) -> bool:
        """Whether both name one database of one Redis."""
        return bool(self.servers & other.servers) and self.database == other.database


def masked(text: str) -> str:
    """Return an address with stars in place of its passwords."""
    return _PASSWORD.sub(r"\1\2***", text)


def read_address(given: str | Sequence[str], kind: str) -> Address:
    """
    Read the address of a broker.

    Args:
        given: A URL, several with ``;`` between them, or a list of URLs.
        kind: ``"redis"`` or ``"rabbitmq"``.

    Raises:
        ConfigurationError: It is not the address of such a broker, or of several that would not
            share their messages.
    """
    address = _split("url", given)
    _refuse_cluster("url", address)
    schemes = REDIS if kind == "redis" else RABBITMQ
    if any(_scheme(url) not in schemes for url in address.urls):
        expected = ", ".join(f"{scheme}://" for scheme in schemes)
        raise ConfigurationError(f"url: expected one of {expected}; got {_shown(address.text)}")
    _check_each("url", address)
    if kind == "redis" and len(address.urls) > 1 and not address.is_sentinel:
        raise ConfigurationError(
            f"url: expected one Redis, or sentinels, got {masked(address.text)!r}. Two servers do "
            "not share their messages: those on the one that is left would wait until it is used "
            "again. Let Sentinel say where the primary is: sentinel://host:26379/0;sentinel://..."
        )
    return address


def read_results(given: str | None, broker: Address, master: str | None) -> Address | None:
    """
    Read the address of the result backend.

    Args:
        given: A Redis, or None for no results.
        broker: The broker's address.
        master: The name under which sentinels know the primary.

    Raises:
        ConfigurationError: It is no Redis, or the very database in which the broker is.
    """
    if given is None:
        return None
    address = _split("results", given)
    _refuse_cluster("results", address)
    if address.text.lower().startswith(DATABASES):
        raise ConfigurationError(
            f"results: expected a Redis, got {_shown(address.text)}. A database pays for each "
            "task with a transaction, for each waiting caller with polling, and for each worker "
            "process with a connection. Keep in it what the task itself writes, and results in "
            "Redis or nowhere."
        )
    if any(_scheme(url) not in REDIS for url in address.urls):
        raise ConfigurationError(
            f"results: expected a Redis or None, got {_shown(address.text)}. A duplicate must "
            "be able to read the result that another process stored, more than once."
        )
    _check_each("results", address)
    if len(address.urls) > 1 and not address.is_sentinel:
        raise ConfigurationError(
            f"results: expected one Redis, or sentinels, got {masked(address.text)!r}. Celery "
            "takes several plain addresses for one, with an odd database."
        )
    if broker.scheme in REDIS and address.is_same_database(broker):
        raise ConfigurationError(
            f"results: expected another database number than the broker's ({broker.database}), got "
            f"{address.database}. Results in a database of their own can be counted, moved and "
            "flushed without touching a job."
        )
    check_sentinel(address, master)
    return address


def check_sentinel(address: Address, master: str | None) -> None:
    """Refuse sentinels without the name of the primary."""
    if address.is_sentinel and not (isinstance(master, str) and master):
        raise ConfigurationError(
            "sentinel_master: expected the name of the primary beside a sentinel:// address, got "
            f"{master!r}. Sentinels watch several primaries and must be asked for one."
        )


def check_store(given: Any) -> str:
    """Return where records live, or refuse what is not the address of a Redis."""
    if not isinstance(given, str) or _scheme(given) not in (*REDIS, "unix", *CLUSTER):
        shown = _shown(given) if isinstance(given, str) else _kind(given)
        raise ConfigurationError(
            f"store: expected the address of a Redis, got {shown}. A client of your own is the "
            "app's setting reliable_tasks_store."
        )
    return given


def check_authority(option: str, given: Any, *addresses: Address | None) -> str | None:
    """
    Return the name of the file with the authority of the servers' certificates.

    Raises:
        ConfigurationError: It names no file, or no address would be checked with it.
    """
    if given is None:
        return None
    if not isinstance(given, str | PathLike) or not given:
        raise ConfigurationError(f"{option}: expected the name of a file, got {given!r}")
    if not any(each and each.is_tls and not each.has_own_tls_options for each in addresses):
        raise ConfigurationError(
            f"{option}: expected beside an address that begins with rediss:// or amqps:// and has "
            f"no ssl_ options of its own, got {fspath(given)!r}, with which no certificate would "
            "be checked. The address of the records, store, has options of its own."
        )
    return str(fspath(given))


def _split(option: str, given: Any) -> Address:
    urls = given.split(";") if isinstance(given, str) else given
    is_several = isinstance(urls, Sequence) and not isinstance(urls, bytes) and bool(urls)
    if not is_several or any(not isinstance(url, str) or not url for url in urls):
        shown = _shown(given) if isinstance(given, str) else _kind(given)
        raise ConfigurationError(f"{option}: expected a URL or several, got {shown}")
    return Address(tuple(urls))


def _check_each(option: str, address: Address) -> None:
    """Refuse an address that Celery and Kombu read in another way than it was meant."""
    for url in address.urls:
        try:
            parts = urlsplit(url)
            is_read = "://" in url and parts.port != 0
        except ValueError:
            is_read = False
        if not is_read:
            raise ConfigurationError(
                f"{option}: expected scheme://user:password@host:port/..., got {_shown(url)}. In a "
                "password, letters such as / ? # ; @ are written as %2F %3F %23 %3B %40."
            )
        if _scheme(url) in REDIS and _scheme(url) != "redis+socket":
            _check_database(option, url, parts)


def _check_database(option: str, url: str, parts: SplitResult) -> None:
    number = parts.path.strip("/")
    if (number and not number.isdecimal()) or re.search(r"(?:^|&)db=", parts.query):
        raise ConfigurationError(
            f"{option}: expected the number of a database behind the host, as in "
            f"redis://host:6379/0, got {_shown(url)}."
        )


def _refuse_cluster(option: str, address: Address) -> None:
    if address.scheme in CLUSTER:
        raise ConfigurationError(
            f"{option}: expected one primary, got {_shown(address.text)}. Kombu and Celery speak "
            "to no Redis Cluster. The records of IdempotentTask may live in one: give it as store."
        )


def _scheme(url: str) -> str:
    """Return what stands before ``://``, as it is written."""
    return url.partition(":")[0]


def _shown(text: str) -> str:
    """Quote an address for an error, unless a password may stand where none is looked for."""
    seen = masked(text)
    is_clear = all("@" not in url.partition("://")[2].partition("/")[2] for url in seen.split(";"))
    return repr(seen) if is_clear else "one that has a '@' behind its host"


def _kind(value: Any) -> str:
    """Name what is no address; it may hold one with a password."""
    return repr(value) if value is None or isinstance(value, bool | int) else type(value).__name__
