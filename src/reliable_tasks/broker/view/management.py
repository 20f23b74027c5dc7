"""RabbitMQ's management interface: what a declaration does not tell."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from reliable_tasks.broker.view.seen import BrokerUnseen, Kind

__all__ = ("Managed", "Management", "address_of")

PORT, TLS_PORT = 15_672, 15_671
COLUMNS = "name,type,messages_unacknowledged,message_stats.redeliver_details.rate"
ALARMS = {"memory": "mem_alarm", "disk": "disk_free_alarm"}
KINDS: tuple[Kind, ...] = ("classic", "quorum", "stream")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the interface of one virtual host is."""

    url: str  # without credentials
    vhost: str
    user: str = "guest"
    password: str = field(default="guest", repr=False)


@dataclass(frozen=True, slots=True)
class Managed:
    """What the interface alone knows of a queue; its counts are some seconds old."""

    kind: Kind | None
    unacked: int
    redeliveries: float = 0.0  # each second


def address_of(broker: Any, given: str | None) -> Address:
    """
    Return where the interface is: as *given*, else where RabbitMQ has it by default.

    Args:
        broker: kombu's connection, whose credentials are used if *given* has none.
        given: ``http://user:password@host:15672`` or None.
    """
    tls = bool(broker.ssl)
    port = TLS_PORT if tls else PORT
    parts = urlsplit(given or f"{'https' if tls else 'http'}://{broker.hostname}:{port}")
    place = parts.netloc.rpartition("@")[2]
    return Address(
        url=urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", "")),
        vhost=broker.virtual_host or "/",
        user=unquote(parts.username or broker.userid or "guest"),
        password=unquote(parts.password or broker.password or "guest"),
    )


class Management:
    """
    The interface; one that does not answer once is not asked again.

    Args:
        address: Where it is.
        timeout: Seconds that an answer may take.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self._address, self._timeout = address, timeout
        self._unseen: BrokerUnseen | None = None

    def queues(self) -> dict[str, Managed]:
        """
        Return all queues of the virtual host by name.

        Raises:
            BrokerUnseen: It does not answer, or does not let us in.
        """
        rows = self._rows(f"/api/queues/{quote(self._address.vhost, safe='')}?columns={COLUMNS}")
        return {row["name"]: _managed(row) for row in rows}

    def alarms(self) -> tuple[str, ...]:
        """
        Return for want of what some node takes no messages: ``memory``, ``disk``.

        Raises:
            BrokerUnseen: It does not answer, or does not tell this user.
        """
        rows = self._rows(f"/api/nodes?columns={','.join(ALARMS.values())}")
        return tuple(what for what, name in ALARMS.items() if any(row.get(name) for row in rows))

    def _rows(self, path: str) -> list[Mapping[str, Any]]:
        if self._unseen is not None:
            raise self._unseen
        try:
            return [{**row} for row in self._get(path)]
        except (OSError, URLError, ValueError, LookupError, TypeError) as error:
            self._unseen = BrokerUnseen(f"the management interface at {self._address.url}: {error}")
            raise self._unseen from error

    def _get(self, path: str) -> Any:
        address = self._address
        login = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Accept": "application/json"}
        request = Request(f"{address.url}{path}", headers=headers)  # noqa: S310 - http or https
        with urlopen(request, timeout=self._timeout) as answer:  # noqa: S310
            return json.load(answer)


def _managed(row: Mapping[str, Any]) -> Managed:
    """Read one row; a queue that was just declared has no counts yet."""
    kind = next((each for each in KINDS if each == row.get("type")), None)
    stats = row.get("message_stats") or {}
    again = (stats.get("redeliver_details") or {}).get("rate") or 0
    return Managed(kind, int(row.get("messages_unacknowledged") or 0), float(again))
