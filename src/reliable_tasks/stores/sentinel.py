"""The way to whatever server sentinels hold for the primary."""

from __future__ import annotations

from typing import Any

import redis

from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.stores.addresses import SentinelWay, Way
from reliable_tasks.stores.channel import DirectChannel

__all__ = ("SentinelChannel",)


class SentinelChannel(DirectChannel):
    """
    A channel to the primary; each new connection asks the sentinels where it is.

    It stands in for the pool that redis-py's own connections from Sentinel ask, so that
    asking is bounded as well: all sentinels together may take *timeout*.

    Args:
        way: Sentinels, name and credentials of the primary.
        timeout: Seconds that finding the primary, connecting, and each answer may take.
    """

    is_master = True
    check_connection = False

    def __init__(self, way: SentinelWay, timeout: float) -> None:
        primary = Way(
            way.primary.connection_class,
            {**way.primary.connection_kwargs, "connection_pool": self},
        )
        super().__init__(primary, timeout)
        share = timeout / len(way.sentinels)
        self.service_name = way.service
        self._way = way
        self._sentinels = [DirectChannel(each, share) for each in way.sentinels]
        self._address: tuple[str, int] | None = None

    def get_master_address(self) -> tuple[str, int]:
        """
        Return host and port of the primary.

        Raises:
            redis.ConnectionError: No sentinel knows a primary that is up.
        """
        reasons = []
        for sentinel in list(self._sentinels):
            try:
                address = self._ask_sentinel(sentinel)
            except StoreUnavailable as error:
                reasons.append(error.reason)
                continue
            if address is not None:
                self._sentinels.sort(key=lambda each: each is not sentinel)
                self._follow(address)
                return address
            reasons.append("it is down, or too few sentinels see it")
        raise redis.ConnectionError(
            f"none of {len(self._sentinels)} sentinels knows a primary {self.service_name!r} "
            f"that is up: {reasons[-1]}"
        )

    def disconnect(self) -> None:
        for channel in self._sentinels:
            channel.disconnect()
        super().disconnect()

    def _send(self, connection: Any, commands: list[bytes], *, at_once: bool = True) -> None:
        connection.connect()  # nothing if it is; sending alone would not ask where the primary is
        super()._send(connection, commands, at_once=at_once)

    def _ask_sentinel(self, sentinel: DirectChannel) -> tuple[str, int] | None:
        state = _fields(sentinel.execute("SENTINEL", "MASTER", self.service_name))
        flags = set(state.get("flags", "").split(","))
        sees_enough = int(state.get("num-other-sentinels", 0)) >= self._way.others
        if "master" not in flags or flags & {"s_down", "o_down"} or not sees_enough:
            return None
        return self._way.force_host or state["ip"], int(state["port"])

    def _follow(self, address: tuple[str, int]) -> None:
        """Leave the connections to the primary that was: it may still answer."""
        if self._address not in (None, address):
            self._leave()
        self._address = address


def _fields(reply: Any) -> dict[str, str]:
    """Read a reply of names and values, in RESP2 and RESP3."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in pairs}
