"""What is known of each kind of resource; nothing here imports a database's package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ("FAST", "MIDDLE", "SLOW", "Capacity", "Kind", "keep", "lineage")

# How soon a kind is done with closing: after a hard time limit there is 0.1 s for all.
FAST = 0  # a message to a server that nobody answers
MIDDLE = 1  # not known
SLOW = 2  # waits for threads or for a reply

_kept: list[Any] = []


@dataclass(frozen=True, slots=True)
class Capacity:
    """
    How many connections a resource can hold, and how many its server allows.

    Args:
        connections: The most that one process opens.
        server: Which server, without credentials; pools of one server are counted together.
        ask: Asks the server for the most it allows, all its clients together. It may block
            and raise.
        pool: What holds them, where several resources can share it: they are counted once.
    """

    connections: int
    server: str
    ask: Callable[[], int]
    pool: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """
    How resources of one kind are reset and closed. Each function gets the resource.

    Args:
        title: What messages call it, for example ``SQLAlchemy engine``.
        close: Says goodbye on every connection of this process. It runs in a thread of its own.
        reset: Runs in a forked child: drops what was inherited without a word to the server,
            for the parent goes on using it. None: there is nothing to do, or nothing known.
        collect: Runs just before, in the thread that the process ends in, for what only that
            thread sees; what it returns is given to *close* in the resource's place.
        rank: `FAST`, `MIDDLE` or `SLOW`: which are closed first.
        capacity: How many connections it can hold, or None where there is no such number.
        guard: Makes an inherited connection raise `InheritedConnection`.
        register: Runs when a resource is registered, once.
        refuse: Why this one cannot be registered, or None.
        is_known: False: if it has no *reset* either, children leave it alone, for a goodbye of
            theirs could end what the parent opened.
        is_weak: The registry does not keep it alive.
    """

    title: str
    close: Callable[[Any], object]
    reset: Callable[[Any], object] | None = None
    collect: Callable[[Any], Any] | None = None
    rank: int = MIDDLE
    capacity: Callable[[Any], Capacity | None] | None = None
    guard: Callable[[Any], None] | None = None
    register: Callable[[Any], object] | None = None
    refuse: Callable[[Any], str | None] | None = None
    is_known: bool = True
    is_weak: bool = True

    @property
    def survives_fork(self) -> bool:
        """Whether a child may use and close what it inherited."""
        return self.is_known or self.reset is not None


def keep(inherited: Any) -> None:
    """Keep what a child must not close alive until it ends: a destructor may say goodbye."""
    _kept.append(inherited)


def lineage(resource: Any) -> list[str]:
    """Return the full names of the classes of *resource*, its own first."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(resource).__mro__]
