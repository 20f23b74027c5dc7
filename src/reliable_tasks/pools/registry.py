"""What is registered: who it belongs to, and whether it is closed."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from os import getpid
from time import monotonic
from types import BuiltinMethodType, MethodType
from typing import Any

from reliable_tasks.pools.closing import Closer
from reliable_tasks.pools.kinds import Kind

__all__ = ("Entry", "add", "close_all", "entries", "reset_all")

logger = logging.getLogger("reliable_tasks")


@dataclass(slots=True, eq=False)
class Entry:
    """
    One resource.

    Args:
        find: Returns the resource, or None if nobody else holds it any more.
        kind: How it is reset and closed.
        name: What the log calls it.
        timeout: Seconds that closing may take.
        owner: Id of the process whose connections it holds.
    """

    find: Callable[[], Any]
    kind: Kind
    name: str
    timeout: float
    owner: int = field(default_factory=getpid)
    is_closed: bool = False


_entries: list[Entry] = []


def add(resource: Any, kind: Kind, *, name: str, timeout: float) -> bool:
    """Register *resource*; False if it is registered already, which changes nothing."""
    if any(_is_same(entry.find(), resource) for entry in entries()):
        return False
    _entries.append(Entry(_finder(resource, kind), kind, name, timeout))
    return True


def entries() -> list[Entry]:
    """Return what is registered and still held by somebody, in order of registration."""
    _entries[:] = [entry for entry in _entries if entry.find() is not None]
    return list(_entries)


def reset_all() -> None:
    """
    Drop in a forked child what was inherited; in the process that registered it do nothing.

    What fails is logged by name. It is not closed here, nor is what nothing is known of, for
    it is still the parent's.
    """
    here = getpid()
    for entry in entries():
        if entry.owner == here or not entry.kind.survives_fork:
            continue
        try:
            if entry.kind.reset is not None:
                entry.kind.reset(entry.find())
        except BaseException:  # SystemExit would end every child, and then the worker
            logger.exception(
                "%s was not reset after the fork: process %d shares its connections with %d",
                entry.name,
                here,
                entry.owner,
            )
        else:
            entry.owner, entry.is_closed = here, False


def warn_of_unknown() -> None:
    """Name in the log what the children of a worker will leave alone."""
    for entry in entries():
        if not entry.kind.survives_fork:
            logger.warning(
                "%s is neither reset nor closed in the pool's processes, for nothing is known of "
                "its kind. If it connects before the fork, they share the connection: give "
                "close_on_shutdown a reset= that connects anew, or that does nothing if it "
                "connects with the first use.",
                entry.name,
            )


def close_all() -> None:
    """
    Close what belongs to this process and is not closed yet.

    All are closed at the same time, each within its own limit; the quick ones are started
    first. What fails or takes too long is logged by name.
    """
    begin = monotonic()
    started = [(entry, closer) for entry in _due() if (closer := _start(entry)) is not None]
    for entry, closer in started:
        if not closer.wait(begin + entry.timeout - monotonic()):
            logger.error("%s was not closed: it took more than %g s", entry.name, entry.timeout)
        elif closer.error is not None:
            logger.error("%s was not closed: %r", entry.name, closer.error)
        else:
            logger.debug("%s is closed", entry.name)


def _due() -> list[Entry]:
    here = getpid()
    mine = [entry for entry in entries() if entry.owner == here and not entry.is_closed]
    return sorted(mine, key=lambda entry: entry.kind.rank)


def _start(entry: Entry) -> Closer | None:
    entry.is_closed = True
    try:
        collected = entry.find()
        if entry.kind.collect is not None:
            collected = entry.kind.collect(collected)
        return Closer(entry.name, entry.kind.close, collected, entry.timeout)
    except Exception as exc:
        logger.error("%s was not closed: %r", entry.name, exc)
        return None


def _is_same(known: Any, resource: Any) -> bool:
    if isinstance(resource, str | MethodType | BuiltinMethodType):  # made anew wherever written
        return bool(known == resource)
    return known is resource


def _finder(resource: Any, kind: Kind) -> Callable[[], Any]:
    if kind.is_weak:
        with suppress(TypeError):  # some objects cannot be referred to weakly
            return weakref.ref(resource)
    return lambda: resource
