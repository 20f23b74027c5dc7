"""Any history: what can happen next, and a choice among it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from reliable_tasks.core.records import Record, State
from tests.traces.broker import RabbitBroker
from tests.traces.worker import Worker
from tests.traces.world import LEASE, World

__all__ = ("FAULTS", "Schedule")

FAULTS = {
    "kill": 2,
    "pause": 2,
    "hang": 1,
    "restore": 3,
    "duplicate": 2,
    "lost reply": 2,
    "late reply": 1,
    "outage": 2,
    "drain": 1,
    "revoke": 1,
}
"""How many faults of a kind one history may have."""

OUTAGES = (
    "store",
    "store.claim",
    "store.settle",
    "store.advance",
    "store.close",
    "send",
    "publish",
)

Move = tuple[str, Callable[[], object]]


@dataclass
class Schedule:
    """Plays a world by numbers: each one picks what happens next."""

    world: World
    spent: Counter[str] = field(default_factory=Counter)

    def play(self, choices: Sequence[int]) -> None:
        """Let one thing happen for each number, then let everything end, and judge twice."""
        self.world.has_strangers = True
        for choice in choices:
            moves = [*self._steps(), *self._faults()]
            _, act = moves[choice % len(moves)]
            act()
        self.world.outages.clear()
        self.world.ends()
        self._late_zombies()

    def _late_zombies(self) -> None:
        """What was paused wakes when all is over, and spoils nothing."""
        for worker in self.world.workers:
            if worker.is_paused:
                worker.goes_on()
        self.world.ends()

    def _steps(self) -> Iterator[Move]:
        """What happens without faults; the first is the most ordinary."""
        world = self.world
        awake = [each for each in world.workers if each.run is not None and each.is_awake]
        for worker in awake:
            yield "step", worker.go
        free = next((each for each in world.workers if each.run is None), None)
        if free is not None:
            for tag, _ in world.due():
                yield "receive", lambda tag=tag: free.receive(tag)
        yield "time", lambda: world.elapse(LEASE / 2)
        yield "time", lambda: world.elapse(LEASE + 1)

    def _faults(self) -> Iterator[Move]:
        world = self.world
        for worker in world.workers:
            if worker.run is None:
                continue
            yield from self._at(worker)
        for tag in list(world.broker.unacked):
            yield from self._once("restore", lambda tag=tag: world.broker.restore(tag))
        for letter in list(world.letters.values()):
            yield from self._once("duplicate", lambda letter=letter: world.publish(letter))
        for outage in OUTAGES:
            if outage not in world.outages:
                yield from self._once("outage", lambda outage=outage: world.outages.add(outage))
        if world.outages:
            yield "mended", world.outages.clear

    def _at(self, worker: Worker) -> Iterator[Move]:
        """What can happen to one execution."""
        world, run = self.world, worker.run
        assert run is not None
        yield from self._once("kill", worker.is_killed)
        if worker.is_paused:
            yield "wake", worker.goes_on
            if isinstance(world.broker, RabbitBroker):
                yield "silent", lambda: world.broker.disconnect(worker)
            return
        if not worker.is_awake:
            return
        yield from self._once("pause", worker.is_stopped)
        if worker.ahead == "effect":
            yield from self._once("hang", worker.hangs)
            yield from self._once("drain", lambda: self._shut_down(worker))
            yield from self._once("revoke", lambda: self._revoke(worker))
        if worker.ahead in ("claim", "settle", "close", "advance"):
            step = worker.ahead
            yield from self._once("lost reply", lambda: worker.store.loses_reply_to.add(step))
            yield from self._once("late reply", lambda: worker.store.answers_too_late.add(step))

    def _revoke(self, worker: Worker) -> None:
        """The main process ends the job, and with it the process that runs it."""
        world, run = self.world, worker.run
        assert run is not None
        horizon_ms = world.options.horizon_ms
        world.place.store.end(run.key, job=run.job, killed=True, horizon_ms=horizon_ms)
        record = world.place.store.peek(run.key)
        assert record is not None
        if record.state is State.FAILED:  # an outcome like any other
            world.history.unrecorded_deaths[run.key] = 0
        if run.job in world.history.results:
            pass  # Celery leaves a result that is there
        elif _ended(record, run.job) != State.DONE:  # else its result comes, over the revoke's
            world.history.reported(run.job, "F")
            world.history.sent(run.job, "F")
        for other in world.executions():  # a revoke goes to all workers, if not at once
            if other is not run and other.job == run.job and other.token and not other.is_recorded:
                world.excuse(other)
        worker.is_killed(announced=True)

    def _shut_down(self, worker: Worker) -> None:
        assert worker.run is not None
        self.world.place.store.drain([(worker.run.key, worker.run.job)])
        worker.is_killed(announced=True)

    def _once(self, fault: str, act: Callable[[], object]) -> Iterator[Move]:
        if self.spent[fault] < FAULTS[fault]:

            def spend() -> None:
                self.spent[fault] += 1
                self.world.log(f"fault: {fault}")
                act()

            yield fault, spend


def _ended(record: Record, job: str) -> str:
    """Return how *job* ended by its record, or nothing."""
    if record.job == job:
        return record.state
    return record.facts[job].ended if job in record.facts else ""
