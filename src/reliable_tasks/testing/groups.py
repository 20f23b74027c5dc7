"""
Servers that belong together: a primary with sentinels, and a cluster.

    with Sentinels(valkey_binary()) as group:
        group.primary.kill()
        eventually(lambda: group.primary_port() == group.replica.port)
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, cast

from redis.cluster import ClusterNode, RedisCluster
from redis.sentinel import MasterNotFoundError, Sentinel

from reliable_tasks.testing.daemons import HOST
from reliable_tasks.testing.eventually import eventually
from reliable_tasks.testing.servers import Server

__all__ = ("Cluster", "Sentinels")


class _SentinelServer(Server):
    """A server in Sentinel mode."""

    @property
    def _mode(self) -> list[str]:
        return ["--sentinel"]


class _Group:
    """Several servers that are closed together."""

    _stack: ExitStack

    def close(self) -> None:
        """Kill all servers of the group and remove their data."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Sentinels(_Group):
    """
    A primary, a replica and three sentinels that fail over by a quorum of two.

    Args:
        binary: The server program.
        down_after: Seconds of silence after which the primary counts as down.
    """

    name = "reliable"

    def __init__(self, binary: Path, *, down_after: float = 1.0) -> None:
        with ExitStack() as stack:
            self.primary = stack.enter_context(Server(binary, appendonly=True))
            replica_of = [f"replicaof {HOST} {self.primary.port}"]
            self.replica = stack.enter_context(Server(binary, appendonly=True, config=replica_of))
            self.sentinels = [
                stack.enter_context(_SentinelServer(binary, config=self._lines(down_after)))
                for _ in range(3)
            ]
            eventually(self._is_complete, message="replica and sentinels know each other")
            self._stack = stack.pop_all()

    def _lines(self, down_after: float) -> list[str]:
        return [
            f"sentinel monitor {self.name} {HOST} {self.primary.port} 2",
            f"sentinel down-after-milliseconds {self.name} {down_after * 1000:.0f}",
            f"sentinel failover-timeout {self.name} 5000",
        ]

    def _is_complete(self) -> bool:
        return self.replica.client().info("replication")["master_link_status"] == "up" and all(
            self._seen_by(server) == (2, 1) for server in self.sentinels
        )

    def _seen_by(self, server: Server) -> tuple[int, int]:
        """How many other sentinels and replicas a sentinel knows."""
        masters = cast("dict[str, Any]", server.client().sentinel_masters())
        state = masters[self.name]
        return state["num-other-sentinels"], state["num-slaves"]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each sentinel."""
        return [(HOST, server.port) for server in self.sentinels]

    @property
    def url(self) -> str:
        """Celery's form, ``sentinel://...;sentinel://...``; `name` is its ``master_name``."""
        return ";".join(f"sentinel://{host}:{port}" for host, port in self.addresses)

    def client(self) -> Sentinel:
        """redis-py's Sentinel client."""
        return Sentinel(self.addresses, socket_timeout=1.0)

    def primary_port(self) -> int | None:
        """Port of what the sentinels hold for the primary now; None during a failover."""
        try:
            return int(self.client().discover_master(self.name)[1])
        except MasterNotFoundError:
            return None


class Cluster(_Group):
    """
    Three masters that share the slots.

    Args:
        binary: The server program.
    """

    SLOTS = 16_384

    def __init__(self, binary: Path) -> None:
        config = ["cluster-enabled yes", "cluster-node-timeout 2000"]
        with ExitStack() as stack:
            self.nodes = [
                stack.enter_context(Server(binary, appendonly=True, config=config))
                for _ in range(3)
            ]
            self._join()
            self._stack = stack.pop_all()

    def _join(self) -> None:
        share = -(-self.SLOTS // len(self.nodes))
        for index, node in enumerate(self.nodes):
            first, last = index * share, min((index + 1) * share, self.SLOTS)
            node.client().execute_command("CLUSTER", "ADDSLOTS", *range(first, last))
            node.client().execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for node in self.nodes[1:]:
            self.nodes[0].client().execute_command("CLUSTER", "MEET", HOST, node.port)
        eventually(self._is_complete, message="all nodes of the cluster see all slots")

    def _is_complete(self) -> bool:
        states = [node.client().execute_command("CLUSTER INFO") for node in self.nodes]
        return all(
            state["cluster_state"] == "ok" and state["cluster_known_nodes"] == "3"
            for state in states
        )

    @property
    def url(self) -> str:
        """Address of the first node."""
        return self.nodes[0].url

    def client(self, **options: Any) -> RedisCluster:
        """redis-py's cluster client."""
        startup = [ClusterNode(HOST, node.port) for node in self.nodes]
        return RedisCluster(startup_nodes=startup, **options)
