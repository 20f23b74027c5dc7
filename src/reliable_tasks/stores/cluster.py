"""
The way to a Redis Cluster: the map of its slots, and one channel a node.

Routing is our own because redis-py's cluster client tries again by itself, so
that nobody can say how long one answer may take.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError

from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.stores.addresses import ClusterWay, Way
from reliable_tasks.stores.channel import DirectChannel, pack
from reliable_tasks.stores.scripts import Script

__all__ = ("ClusterChannel",)

T = TypeVar("T")

_REDIRECTS = 5
_ASKED_FOR_MAP = 5  # nodes that share the time for reading the map
_GONE = (ClusterDownError, redis.ConnectionError, redis.TimeoutError, OSError)
_ASKING = b"*1\r\n$6\r\nASKING\r\n"


class ClusterChannel:
    """
    A channel to the nodes of a cluster; each key's node is asked directly.

    The map of slots is read when it is first needed, and anew after a node sent
    a question elsewhere or did not answer.

    Args:
        way: Nodes to learn the others from.
        timeout: Seconds that reading the map, and then each answer, may take.
    """

    def __init__(self, way: ClusterWay, timeout: float) -> None:
        self._way, self._timeout = way, timeout
        self._nodes: dict[tuple[str, int], _Node] = {}
        self._slots: list[tuple[int, int, _Node]] = []  # first, last, node

    def run(self, script: Script, key: str, arguments: bytes, count: int) -> Any:
        return self._routed(script.name, key, lambda node: node.run(script, key, arguments, count))

    def run_on(self, script: Script, keys: Sequence[str], arguments: bytes, count: int) -> Any:
        return self._routed(
            script.name, keys[0], lambda node: node.run_on(script, keys, arguments, count)
        )

    def run_many(
        self, script: Script, shared: Sequence[Any], pairs: Sequence[tuple[str, Any]]
    ) -> str:
        entries = [(key, pack(*shared, each)) for key, each in pairs]
        return b"".join(self.run_each(script, entries, len(shared) + 1)).decode()

    def begin(self, script: Script, key: str, arguments: bytes, count: int) -> Callable[[], Any]:
        reply = self.run(script, key, arguments, count)  # at once, for it may be sent on
        return lambda: reply

    def run_each(
        self, script: Script, entries: Sequence[tuple[str, bytes]], count: int
    ) -> list[Any]:
        by_node: dict[_Node, list[int]] = {}
        for at, (key, _) in enumerate(entries):
            by_node.setdefault(self._owner(script.name, key), []).append(at)
        answers: dict[int, Any] = {}
        outage: StoreUnavailable | None = None
        for node, places in by_node.items():
            try:
                replies = node.ask_each(script, [entries[at] for at in places], count)
            except StoreUnavailable as error:  # what the other nodes hold must not wait for it
                self._note(error)
                outage = error
            else:
                answers |= zip(places, replies, strict=True)
        for at, reply in answers.items():
            if isinstance(reply, Exception):  # not loaded there, or the slot has moved
                answers[at] = self.run(script, *entries[at], count)
        if outage is not None:
            raise outage
        return [answers[at] for at in range(len(entries))]

    def tell_each(
        self, script: Script, entries: Sequence[tuple[str, bytes]], count: int, *, at_once: bool
    ) -> None:
        del at_once  # it is known to have come
        self.run_each(script, entries, count)

    def execute(self, *command: Any) -> Any:
        key = str(command[1]) if len(command) > 1 else ""
        return self._routed(str(command[0]), key, lambda node: node.execute(*command))

    def scan(self, pattern: str) -> Iterator[bytes]:
        for node in dict.fromkeys(node for _, _, node in self._map("SCAN")):
            yield from node.scan(pattern)

    def disconnect(self) -> None:
        for node in list(self._nodes.values()):
            node.disconnect()

    def _routed(self, operation: str, key: str, ask: Callable[[_Node], T]) -> T:
        """Ask the node that holds *key*, following the cluster where it sends us."""
        node = self._owner(operation, key)
        for _ in range(_REDIRECTS):
            try:
                return ask(node)
            except StoreUnavailable as error:
                node = self._next(node, error)
        raise StoreUnavailable(operation, f"sent on more than {_REDIRECTS} times: slots are moving")

    def _next(self, node: _Node, error: StoreUnavailable) -> _Node:
        """Return the node that *node* sent us to; raise *error* if it is none of that kind."""
        cause = error.__cause__
        if isinstance(cause, MovedError):
            self._slots = []
            return self._node(*self._address(node, cause.host, cause.port))
        if isinstance(cause, AskError):
            return _Asking(
                self._way_to(*self._address(node, cause.host, cause.port)), self._timeout
            )
        self._note(error)
        raise error

    def _note(self, error: StoreUnavailable) -> None:
        """Forget the map if *error* says that a node is gone: the next question finds its heir."""
        if isinstance(error.__cause__, _GONE):
            self._slots = []

    # --- the map --------------------------------------------------------------------------

    def _owner(self, operation: str, key: str) -> _Node:
        slot = key_slot(key.encode())
        for first, last, node in self._map(operation):
            if first <= slot <= last:
                return node
        raise StoreUnavailable(operation, f"no node of the cluster serves slot {slot}")

    def _map(self, operation: str) -> list[tuple[int, int, _Node]]:
        slots = self._slots
        if not slots:
            slots = self._slots = self._read_map(operation)
        return slots

    def _read_map(self, operation: str) -> list[tuple[int, int, _Node]]:
        ways = self._known_ways()
        asked = random.sample(ways, min(len(ways), _ASKED_FOR_MAP))
        reasons = []
        for way in asked:
            node = _Node(way, self._timeout / len(asked))
            try:
                ranges = node.execute("CLUSTER", "SLOTS")
            except StoreUnavailable as error:
                reasons.append(error.reason)
                continue
            if ranges:
                return [
                    (int(first), int(last), self._node(*self._address(node, *primary[:2])))
                    for first, last, primary, *_ in ranges
                ]
            reasons.append("it serves no slot")
        raise StoreUnavailable(operation, f"no node told the map of slots: {reasons[-1]}")

    def _known_ways(self) -> list[Way]:
        known = [self._way_to(*address) for address in self._nodes]
        places = {(way["host"], way["port"]) for way in known}
        return [*(way for way in self._way.seeds if (way["host"], way["port"]) not in places),
                *known]  # fmt: skip

    def _way_to(self, host: str, port: int) -> Way:
        return self._way.seeds[0].to(host, port)

    def _node(self, host: str, port: int) -> _Node:
        address = (host, port)
        if address not in self._nodes:
            self._nodes[address] = _Node(self._way_to(*address), self._timeout)
        return self._nodes[address]

    def _address(self, asked: _Node, host: Any, port: Any) -> tuple[str, int]:
        """Return the address that *asked* named; an empty host means its own."""
        host = host.decode() if isinstance(host, bytes) else host
        if not host or host == "?":
            host = asked.way["host"]
        return self._way.remap(host, int(port))


class _Node(DirectChannel):
    """A channel to one node."""


class _Asking(_Node):
    """A channel to the node that takes over a slot, for the questions that it does not own yet."""

    def _ask(self, operation: str, commands: list[bytes]) -> list[Any]:
        preceded = [part for command in commands for part in (_ASKING, command)]
        return super()._ask(operation, preceded)[1::2]
