"""Whether the pools of a worker can ask for more connections than their server allows."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from threading import Thread

from reliable_tasks.pools import registry
from reliable_tasks.pools.kinds import Capacity

__all__ = ("check", "excess")

logger = logging.getLogger("reliable_tasks")


def check(processes: int) -> None:
    """
    Ask the servers of all pools in the background, and warn in one line for each that allows less.

    Args:
        processes: How many processes of this worker have pools of their own.
    """
    pools = list(_capacities())
    if pools:
        Thread(target=_compare, args=(pools, processes), daemon=True).start()


def excess(pools: Iterable[Capacity], processes: int, allowed: int) -> str | None:
    """Return what is wrong with *pools* of one server that allows *allowed* connections."""
    pools = list(pools)
    each = sum(pool.connections for pool in pools)
    if each * processes <= allowed:
        return None
    return (
        f"the pools of this worker can open {each * processes} connections to {pools[0].server} "
        f"({_count(processes, 'process', 'processes')} with at most {each} each), and it allows "
        f"{allowed} to all its clients together. Make the pools smaller (pool_size, max_overflow, "
        "max_size), start fewer processes, or raise max_connections."
    )


def _capacities() -> Iterable[Capacity]:
    counted = set()
    for entry in registry.entries():
        try:
            found = entry.kind.capacity and entry.kind.capacity(entry.find())
        except Exception as exc:
            logger.debug("the size of %s is not known: %r", entry.name, exc)
        else:
            if found and id(found.pool or entry) not in counted:
                counted.add(id(found.pool or entry))
                yield found


def _compare(pools: Iterable[Capacity], processes: int) -> None:
    servers = defaultdict(list)
    for pool in pools:
        servers[pool.server].append(pool)
    for server, those in servers.items():
        try:
            warning = excess(those, processes, those[0].ask())
        except Exception as exc:
            logger.debug("%s did not say how many connections it allows: %r", server, exc)
        else:
            if warning:
                logger.warning("%s", warning)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
