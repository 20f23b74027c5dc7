"""
Fake workers that run the real guard, a fake broker, and time that only tests move.

Every execution stands still before each thing that others can see (a question to the
store, a message, the effect), and goes on when it is told to. So a test writes down
one history of the system, however unlikely, and the same one each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self
from unittest import mock

from reliable_tasks import guard, leases
from reliable_tasks.core.records import Outcome, Record, State
from reliable_tasks.core.settings import read
from reliable_tasks.message import Event
from reliable_tasks.testing.clock import ManualClock
from tests.traces.bodies import pays
from tests.traces.broker import Broker, Letter, RedisBroker
from tests.traces.delivery import SHELF, Delivery
from tests.traces.history import Broken, History
from tests.traces.places import Memory, Place
from tests.traces.worker import Switch, Worker

__all__ = ("LEASE", "World")

LEASE = 30.0  # seconds
LONGEST_DRAIN = 400  # rounds


class World:
    """
    Workers, one broker and one store; use it as a context.

    Args:
        broker: `RedisBroker` if left out.
        place: Where records live; in memory if left out.
        workers: How many.
        options: Of the task, as users write them.
    """

    horizon_ms: int | None = None
    """Replaces the horizon of all worlds."""

    has_strangers = False
    """Whether copies may come that do not know of a claim without an answer: its lease counts."""

    def __init__(
        self,
        broker: Broker | None = None,
        *,
        place: Place | None = None,
        workers: int = 3,
        **options: Any,
    ) -> None:
        self.clock, self.history = ManualClock(), History()
        self.broker = RedisBroker() if broker is None else broker
        self.place = Memory(self.clock) if place is None else place
        self.options = read({"lease_seconds": LEASE, **options})
        if self.horizon_ms is not None:
            object.__setattr__(self.options, "horizon_ms", self.horizon_ms)
        self.workers = [Worker(self, f"w{number}") for number in range(workers)]
        self.running = self.workers[0]
        self.outages: set[str] = set()
        self.letters: dict[str, Letter] = {}
        self.reserved_us: dict[str, int] = {}
        self._lines: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for module in (guard, leases):
            self._stack.enter_context(mock.patch.object(module, "monotonic", self._monotonic))
        self._stack.enter_context(mock.patch.object(guard, "keeper", Switch(self)))
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.run is not None:
                worker.run.steps.kill()
        self._stack.close()

    def _monotonic(self) -> float:
        return self.clock.now_us() / 1_000_000

    def log(self, line: str) -> None:
        """Note what happens, for whoever must understand a failure."""
        self._lines.append(line)

    def told(self) -> str:
        """Return what happened, one line a step."""
        return "\n".join(self._lines)

    # --- messages -------------------------------------------------------------------------

    def calls(
        self, job: str, body: Callable[[Delivery], None] = pays, *, key: str = "", **more: Any
    ) -> None:
        """Publish a new message, as a producer does."""
        letter = Letter(job, f"rt1:t:{key or job}", body, has_key=bool(key), **more)
        self.letters.setdefault(job, letter)
        self.publish(letter)

    def publish(self, letter: Letter) -> None:
        """Put a message into the broker."""
        self.log(f"broker: published {letter}")
        self.broker.publish(letter)

    def due(self) -> list[tuple[int, Letter]]:
        """Return the messages that may be executed now."""
        now_us = self.clock.now_us()
        return [(tag, letter) for tag, letter in self.broker.ready if letter.due_us <= now_us]

    def restores(self, worker: Worker | None = None) -> None:
        """Let the broker take back what *worker* holds, or all that nobody works on."""
        working = {each.run.held.tag for each in self.workers if each.run is not None}
        for tag, held in list(self.broker.unacked.items()):
            mine = held.consumer is worker and worker is not None
            if mine or (worker is None and tag not in working):
                self.log(f"broker: takes back {held.letter}")
                self.broker.restore(tag)

    # --- time and faults ------------------------------------------------------------------

    def elapse(self, seconds: float = LEASE + 1) -> None:
        """Let time pass; whoever is awake renews in time."""
        self.log(f"{seconds:g} s pass")
        tick = self.options.lease_ms / 3_000
        while seconds > 0:
            step, seconds = min(tick, seconds), seconds - tick
            self.clock.advance(step)
            self.place.advance(step)
            for worker in self.workers:
                self._renew(worker)

    def _renew(self, worker: Worker) -> None:
        run = worker.run
        if not worker.is_paused:
            worker.keeper.renew_all()
        if run is not None and run.lease is not None:
            run.overslept = run.lease.remaining <= 0 and not run.lease.lost

    def is_down(self, operation: str) -> bool:
        """Whether the store does not answer."""
        return "store" in self.outages or f"store.{operation}" in self.outages

    @contextmanager
    def without(self, *outages: str) -> Iterator[None]:
        """Break ``store``, ``store.settle``, ``send``, ``publish`` or ``retry`` for a while."""
        self.log(f"without {outages}")
        self.outages.update(outages)
        try:
            yield
        finally:
            self.outages.difference_update(outages)

    def flush(self) -> None:
        """Lose all records."""
        self.log("store: flushed")
        for key in {letter.key for letter in self.letters.values()}:
            self.history.excuse(key)
        self.history.tokens.clear()
        self.history.results.clear()
        self.place.flush()

    # --- what is judged at once -----------------------------------------------------------

    def granted(self, run: Delivery, before: Record | None, token: int) -> None:
        """Judge a grant: one live lease, rising tokens, nothing that has ended, no early retry."""
        history, key = self.history, run.key
        if history.results.get(run.job) is not None:
            history.broken.append(f"{run.job} runs again after {history.results[run.job]}")
        if token <= history.tokens.get(key, 0):
            history.broken.append(f"the tokens of {key} do not rise")
        history.tokens[key] = token
        live = before is not None and self.place.now_ms() < before.until_ms
        live = live and before.delivery not in run.abandoned
        if before is not None and live and before.state == State.RUNNING:
            history.broken.append(f"{key} has two live leases")
        if before is not None and live and before.state == State.RETRYING:
            self._judge_turn(run, before)
        for other in self.executions():
            if other is not run and other.key == key and other.token and not other.is_recorded:
                self._superseded(other)

    def _judge_turn(self, run: Delivery, before: Record) -> None:
        if before.job != run.job or run.retries <= before.retries:
            self.history.broken.append(f"{run.message} runs in place of the waiting retry")

    def _superseded(self, run: Delivery) -> None:
        """Only whoever has not renewed for a lease may be overtaken, and may do harm unfenced."""
        lease = run.lease
        is_late = lease is None or run.overslept or lease.remaining <= self.place.ahead()
        if is_late or run.is_excused:
            self.excuse(run)
        else:
            self.history.broken.append(f"{run} lost its lease while it was awake")

    def excuse(self, run: Delivery) -> None:
        """Let *run* lose its lease, and another one take effect."""
        if not run.is_excused:
            run.is_excused = True
            self.history.excuse(run.key)

    def executions(self) -> list[Delivery]:
        """Return what runs now."""
        return [worker.run for worker in self.workers if worker.run is not None]

    def died(self, run: Delivery, *, announced: bool) -> None:
        """Count a death, and excuse the effect that was not recorded."""
        is_unrecorded = run.lease is not None and not run.is_recorded
        if not announced and (is_unrecorded or run.steps.ahead not in ("claim", "ack")):
            self.history.deaths[run.key] += 1
        elif announced and run.is_excused and run.lease is not None and not run.lease.lost:
            self.history.deaths[run.key] += 1  # overtaken; it cannot say any more that it lived
        if run.token and is_unrecorded:
            # One that was overtaken and has said so since is not counted a second time.
            self.history.unrecorded_deaths[run.key] += not announced and not run.is_excused
            if run.effects:
                self.excuse(run)

    def recorded(self, run: Delivery, outcome: Outcome) -> None:
        """An execution ended with an outcome; one that gave its job back may do it again."""
        if outcome.state is State.IDLE and run.effects:
            self.history.excuse(run.key)
        if outcome.state in (State.DONE, State.FAILED):
            self.history.unrecorded_deaths[run.key] = 0

    def left(self, run: Delivery) -> None:
        """Excuse an effect whose record found no store; such an end counts as a death, too."""
        if run.lease is not None and run.token and not run.is_recorded:
            self.history.deaths[run.key] += 1
            if run.effects:
                self.excuse(run)

    # --- the end --------------------------------------------------------------------------

    def hears(self, event: str, message: Any, details: dict[str, Any]) -> None:
        """Take an event of the guard and judge it."""
        self.history.events.append(event)
        if event == Event.DEDUPLICATED and details["reason"] in ("running", "done"):
            self._judge_skip(message)

    def poisoned(self, asking: Delivery) -> None:
        """Judge a quarantine: it has its deaths, or executions of which nothing is heard."""
        key = asking.key
        if key in self.history.quarantined:
            return
        self.history.quarantined.add(key)
        runs = [run for run in self.executions() if run.key == key and run is not asking]
        silent = sum(run.seems_dead for run in runs)
        if self.history.deaths[key] + silent < self.options.max_crashes:
            self.history.broken.append(f"{asking.job} was quarantined without its deaths")

    def _judge_skip(self, run: Delivery) -> None:
        """Only another job of the key may be a reason, and only if nobody waits for this one."""
        record = self.place.store.peek(run.key)
        if record is None or record.job == run.job:
            self.history.broken.append(f"{run.job} was skipped because of itself")
        if run.message.carries:
            self.history.broken.append(f"{run.job} was skipped, though something waits for it")
        self.history.skipped.add(run.job)

    def is_finished(self, letter: Letter) -> bool:
        """Whether the job came to an end that its caller can see."""
        job = letter.job
        buried = any(job == each for each, _ in self.place.store.letters(SHELF.name))
        result = self.history.results.get(job)
        sent = not letter.carries or self.history.callbacks[job] > 0
        return buried or job in self.history.skipped or (result is not None and sent)

    def ends(self) -> World:
        """
        Let everything go on without further faults, then judge.

        A process that is paused or hung stays so: nothing may wait for it.

        Raises:
            Broken: A promise was not kept.
        """
        for _ in range(LONGEST_DRAIN):
            if not self._goes_on():
                break
        self.judge()
        for letter in self.letters.values():
            if not self.is_finished(letter):
                left = self.broker.ready or self.broker.unacked or self.executions()
                how = "stuck" if left else "lost"
                raise Broken(f"{letter.job} is {how}:\n{self.told()}")
        return self

    def _goes_on(self) -> bool:
        """Let one thing happen; returns whether there was one."""
        for worker in self.workers:
            if worker.run is not None and worker.is_awake:
                worker.finishes()
                return True
        if all(map(self.is_finished, self.letters.values())) and not self.broker.ready:
            return False
        due = self.due()
        if due:
            self._free_worker().receive(due[0][0])
        elif self.broker.ready:
            soonest_us = min(letter.due_us for _, letter in self.broker.ready)
            self.elapse((soonest_us - self.clock.now_us()) / 1_000_000)
        else:
            return self._takes_back()
        return True

    def _free_worker(self) -> Worker:
        for worker in self.workers:
            if worker.run is None:
                return worker
        self.workers.append(Worker(self, f"w{len(self.workers)}"))
        return self.workers[-1]

    def _takes_back(self) -> bool:
        """The broker takes back what no live process works on, and what hangs."""
        for worker in self.workers:
            if not worker.is_awake:
                self.broker.disconnect(worker)
        for tag in list(self.broker.unacked):
            self.broker.restore(tag)
        return bool(self.broker.ready)

    def judge(self) -> None:
        """Raise `Broken` if a promise was not kept so far."""
        for key, deaths in self.history.unrecorded_deaths.items():
            if deaths > self.options.max_crashes:
                self.history.broken.append(f"{key} ended {deaths} processes")
        for key, jobs in self.history.effects.items():
            allowed = 1 + self.history.excuses[key]
            most = len(jobs) if self._answers_others(key) else max(map(jobs.count, jobs))
            if most > allowed:
                self.history.broken.append(f"{key} took effect {most} times, {allowed} allowed")
        if self.history.broken:
            raise Broken("; ".join(self.history.broken) + "\n" + self.told())

    def _answers_others(self, key: str) -> bool:
        letters = [letter for letter in self.letters.values() if letter.key == key]
        return letters[0].has_key and self.options.retention_ms != 0
