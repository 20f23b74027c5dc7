"""Fake worker processes: each has a way to the store, a keeper of leases, and one slot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reliable_tasks.core.records import (
    Answer,
    Finished,
    Granted,
    Outcome,
    Poisoned,
    Record,
    Settled,
    Stale,
)
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.leases import Lease, LeaseKeeper
from tests.traces.delivery import Delivery
from tests.traces.history import Broken, Diverged

if TYPE_CHECKING:
    from reliable_tasks.core.store import Store
    from tests.traces.world import World

__all__ = ("Switch", "Worker")


def _is_last(delivery: str, record: Record | None, job: str) -> bool:
    """Whether the store remembers *delivery*: of each job that it keeps it knows the last one."""
    if record is None or record.job == job:
        return record is not None and record.delivery == delivery
    return job in record.facts and record.facts[job].delivery == delivery


class SteppingStore:
    """One process's way to the store, with a halt before each question, and faults."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._world = worker, worker.world
        self._inner = worker.world.place.store
        self.loses_reply_to: set[str] = set()
        self.answers_too_late: set[str] = set()

    @property
    def identity(self) -> str:
        return self._inner.identity

    def claim(self, key: str, **question: Any) -> Answer:
        return self._ask("claim", lambda: self._claim(key, question))

    def _claim(self, key: str, question: dict[str, Any]) -> Answer:
        run, world = self._run, self._world
        before = self._inner.peek(key)
        answer = self._inner.claim(key, **question)
        run.answered_us = world.clock.now_us()
        if run.is_counted and not _is_last(question["delivery"], before, run.job):
            world.history.deaths[key] += 1  # asked again, but another delivery came in between
        run.is_counted = isinstance(answer, Granted | Finished)
        if isinstance(answer, Granted) and answer.token != run.token:
            world.granted(run, before, answer.token)
            run.token = answer.token
        if isinstance(answer, Poisoned):
            world.poisoned(run)
        return answer

    def settle(self, key: str, *, outcome: Outcome, **question: Any) -> Settled | Stale:
        return self._ask("settle", lambda: self._settle(key, outcome, question))

    def _settle(self, key: str, outcome: Outcome, question: dict[str, Any]) -> Settled | Stale:
        settled = self._inner.settle(key, outcome=outcome, **question)
        if isinstance(settled, Settled) and not self._run.is_recorded:
            self._world.recorded(self._run, outcome)
        self._run.is_recorded = True
        return settled

    def spare(self, key: str, **question: Any) -> None:
        self._ask("spare", lambda: self._spare(key, question))

    def _spare(self, key: str, question: dict[str, Any]) -> None:
        record = self._inner.peek(key)
        if record is not None and not _is_last(question["delivery"], record, question["job"]):
            self._world.history.deaths[key] += 1  # another replay came in between
        self._inner.spare(key, **question)

    def renew(self, held: Sequence[tuple[str, int]], **terms: Any) -> list[bool]:
        if self._world.is_down("renew"):
            raise StoreUnavailable("renew", "down")
        return self._inner.renew(held, **terms)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*args: Any, **kwargs: Any) -> Any:
            return self._ask(name, lambda: getattr(self._inner, name)(*args, **kwargs))

        return ask

    @property
    def _run(self) -> Delivery:
        assert self._worker.run is not None
        return self._worker.run

    def _ask(self, name: str, question: Callable[[], Any]) -> Any:
        self._run.step(name)
        if self._world.is_down(name):
            if name in ("close", "spare"):  # what is not noted counts as a death
                self._world.history.deaths[self._run.key] += 1
            raise StoreUnavailable(name, "down")
        if name in self.loses_reply_to:
            self.loses_reply_to.remove(name)
            question()
            self._run.step(f"{name} again")
        if name in self.answers_too_late:
            self.answers_too_late.remove(name)
            is_death = name in ("close", "spare") or (name == "claim" and self._world.has_strangers)
            self._world.history.deaths[self._run.key] += is_death
            question()
            raise StoreUnavailable(name, "no answer in time")
        return question()


class HandKeeper(LeaseKeeper):
    """Renews when it is told to, not by itself."""

    def __init__(self) -> None:
        self._reset()

    def _start(self) -> None:
        """No thread."""


class Switch:
    """Stands for the keeper of whichever process runs now."""

    def __init__(self, world: World) -> None:
        self._world = world

    def hold(self, lease: Lease) -> None:
        self._world.running.keeper.hold(lease)

    def let_go(self, lease: Lease) -> None:
        self._world.running.keeper.let_go(lease)

    def introduce(self, store: Store, prefix: str) -> None:
        """Nobody asks who the processes are."""


class Worker:
    """A worker with one slot, whose process a test steps, kills, pauses and hangs."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.keeper, self.store = HandKeeper(), SteppingStore(self)
        self.run: Delivery | None = None
        self.is_paused = self.is_hung = False

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def is_awake(self) -> bool:
        """Whether its execution can go on."""
        return not (self.is_paused or self.is_hung)

    def takes(self, job: str | None = None, **which: int) -> Worker:
        """Receive the first message that is there, or the first that fits."""
        for tag, letter in self.world.due():
            if job in (None, letter.job) and all(getattr(letter, k) == v for k, v in which.items()):
                return self.receive(tag)
        raise Diverged(f"no message {job} {which} among {self.world.broker.ready}")

    def receive(self, tag: int) -> Worker:
        """Receive the message with *tag*."""
        assert self.run is None
        self.run = Delivery(self, self.world.broker.receive(self, tag))
        self.world.log(f"{self.run}: received")
        self.go()
        return self

    def go(self) -> None:
        """Take one step."""
        assert self.run is not None
        assert self.is_awake
        if self.ahead == "crash":
            self.is_killed()
            return
        self.world.running = self
        self.run.steps.go()
        if self.run.steps.is_over:
            self.world.left(self.run)
            self.run = None

    @property
    def ahead(self) -> str:
        """The step before which its execution stands; nothing when it is free."""
        return self.run.steps.ahead if self.run is not None else ""

    def until(self, *steps: str) -> Worker:
        """Go on and stand still before one of *steps*; nothing stands for the end."""
        for _ in range(100):
            if self.ahead in steps:
                return self
            if self.run is None:
                break
            self.go()
        raise Diverged(f"{self.name} did not come to {steps}:\n{self.world.told()}")

    def finishes(self) -> Worker:
        """Go on to the end of the delivery."""
        for _ in range(200):
            if self.run is None:
                return self
            self.go()
        raise Broken(f"{self.name} does not come to an end:\n{self.world.told()}")

    def is_killed(self, *, announced: bool = False) -> Worker:
        """End the process here and now; another takes its place."""
        if self.run is not None:
            self.world.log(f"{self.run}: killed before {self.ahead}")
            self.world.died(self.run, announced=announced)
            self.run.steps.kill()
        self.run = None
        self.keeper, self.store = HandKeeper(), SteppingStore(self)
        self.is_paused = self.is_hung = False
        self.world.broker.disconnect(self)
        return self

    def is_stopped(self) -> Worker:
        """Pause the whole process, as SIGSTOP does: it renews nothing."""
        self.world.log(f"{self.run}: paused before {self.ahead}")
        self.is_paused = True
        return self

    def goes_on(self) -> Worker:
        """Wake a paused process."""
        self.world.log(f"{self.run}: wakes")
        self.is_paused = False
        return self

    def hangs(self) -> Worker:
        """Let the body never come back, while the process goes on renewing."""
        self.world.log(f"{self.run}: hangs before {self.ahead}")
        self.is_hung = True
        return self
