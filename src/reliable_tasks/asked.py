"""A question to the store that is on its way while Celery makes the message."""

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Callable
from functools import cached_property
from typing import Any

from reliable_tasks.core.records import Duplicate, Reservation, Reserved
from reliable_tasks.core.store import Store
from reliable_tasks.errors import StoreUnavailable

__all__ = ("Asked", "AwaitedHeaders", "NoConnection", "Superfluous")

logger = logging.getLogger("reliable_tasks")


class Superfluous(Exception):
    """The answer is that nothing need be published."""


class Asked:
    """
    Whether a job may be published: asked at once, and read when it must be known.

    Args:
        store: Where to ask.
        ask: The key and what to reserve; None: there is nothing to ask.
    """

    def __init__(self, store: Store, ask: tuple[str, Reservation] | None) -> None:
        self._store, self._ask = store, ask
        self._read = self._begin()

    @cached_property
    def answer(self) -> Reserved | Duplicate | None:
        """The store's answer; None if it was not asked, or is down."""
        try:
            return None if self._read is None else self._read()
        except StoreUnavailable as error:
            self._tell(error)
            return None

    def _begin(self) -> Callable[[], Reserved | Duplicate] | None:
        try:
            return None if self._ask is None else self._store.begin_reserve(*self._ask)
        except StoreUnavailable as error:
            self._tell(error)
            return None

    def _tell(self, error: StoreUnavailable) -> None:
        """Say that the call goes on: what reaches a worker is guarded all the same."""
        key, _ = self._ask or ("", None)
        logger.warning("%s is published without a reservation: %s", key, error)

    def take_back(self) -> None:
        """Free the key: the job was not published."""
        if self._ask is None or not isinstance(self.answer, Reserved):
            return
        key, reservation = self._ask
        try:
            self._store.unreserve(key, job=reservation.job)
        except StoreUnavailable as error:
            logger.warning("%s stays reserved until its time is over: %s", key, error)


class AwaitedHeaders(UserDict[str, Any]):
    """
    Headers that are made when they are looked at.

    `Celery.send_task` checks a call, finds its route and makes its message, and only then looks at
    the headers: meanwhile an answer can arrive that they depend on. Who looks at them earlier, as
    a router or a tracer may, waits for it there.

    Args:
        make: Returns the headers. What it raises goes to whoever looks, and so to the caller of
            `apply_async`.
    """

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self._make = make

    @cached_property
    def data(self) -> dict[str, Any]:  # type: ignore[override]  # set at first sight
        """The headers."""
        return self._make()

    def copy(self) -> Any:
        """Return the headers as a plain dictionary."""
        return dict(self.data)

    __copy__ = copy

    def __or__(self, other: Any) -> Any:
        return self.data | dict(other)

    def __ror__(self, other: Any) -> Any:
        return dict(other) | self.data


class NoConnection:
    """
    In the place of a connection that a call does not bring: whether it does is the last question.

    `Celery.send_task` asks it when it has made the message, and before it takes a connection from
    its pool and listens for the result. What is raised after that costs the pool its connection.

    Args:
        headers: What must be known before.
    """

    def __init__(self, headers: AwaitedHeaders) -> None:
        self._headers = headers

    def __bool__(self) -> bool:
        len(self._headers)  # waits for them
        return False
