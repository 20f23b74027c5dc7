"""A producer of unique jobs, which a test takes from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reliable_tasks.core.records import Confirmation, Duplicate, Reservation, Reserved
from tests.traces.bodies import pays
from tests.traces.delivery import Delivery
from tests.traces.history import Broken
from tests.traces.world import World

__all__ = ("GRACE", "Producer")

GRACE = 10.0  # seconds
KEY = "shared"
HOUR_MS = 3_600_000


class Producer:
    """
    Calls one job: reserve, publish, confirm. Whoever stops in between has died.

    Args:
        world: Where.
        job: The task id.
        body: What the job does.
        is_dated: Whether the message says when it was called.
        reservation: Further terms of `Reservation`.
    """

    def __init__(
        self,
        world: World,
        job: str,
        body: Callable[[Delivery], None] = pays,
        *,
        is_dated: bool = False,
        **reservation: Any,
    ) -> None:
        self.world, self.job, self.body, self.is_dated = world, job, body, is_dated
        self.key = f"rt1:t:{KEY}"
        self.ask = Reservation(job, round(GRACE * 1_000), **reservation)
        self.answer: Reserved | Duplicate | None = None

    def calls(self) -> Producer:
        """Reserve, publish if the job is no duplicate, and confirm."""
        self.reserves()
        return self.publishes().confirms() if isinstance(self.answer, Reserved) else self

    def reserves(self, *, lost_replies: int = 0) -> Producer:
        """
        Ask, and ask again for each lost reply.

        Raises:
            Broken: Nothing is there of which the job could be a duplicate.
        """
        for _ in range(lost_replies + 1):
            [self.answer] = self.world.place.store.reserve([(self.key, self.ask)])
            self.world.log(f"{self.job} is called: {self.answer}")
        if isinstance(self.answer, Reserved):
            self.world.reserved_us[self.job] = self.world.clock.now_us()
        elif not self._is_there(self.answer.job):
            raise Broken(f"{self.job} is blocked by {self.answer.job}:\n{self.world.told()}")
        return self

    def _is_there(self, job: str) -> bool:
        """Whether *job* is in the broker, runs, or may still be on its way."""
        if job == self.job:
            return False
        world = self.world
        grace_us = world.reserved_us.get(job, -1e18) + GRACE * 1_000_000
        letters = [letter for _, letter in world.broker.ready]
        letters += [held.letter for held in world.broker.unacked.values()]
        runs = [run.message for run in world.executions()]
        return world.clock.now_us() < grace_us or any(each.job == job for each in letters + runs)

    def publishes(self) -> Producer:
        """Put the message into the broker."""
        assert isinstance(self.answer, Reserved)
        due_us = self.world.clock.now_us() + self.answer.delay_ms * 1_000
        turn = -self.answer.called_us if self.is_dated else self.answer.turn
        self.world.calls(self.job, self.body, key=KEY, carries=False, turn=turn, due_us=due_us)
        return self

    def confirms(self) -> Producer:
        """Say that it was published."""
        self.world.log(f"{self.job} is confirmed")
        word = Confirmation(self.job, HOUR_MS)
        self.world.place.store.confirm([(self.key, word)])
        return self

    def fails(self) -> Producer:
        """Take the job back, which could not be published."""
        self.world.log(f"{self.job} could not be published")
        self.world.reserved_us.pop(self.job)
        self.world.place.store.unreserve(self.key, job=self.job)
        return self
