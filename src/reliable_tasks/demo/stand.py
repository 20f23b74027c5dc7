"""One side at work: its workers, its messages, and the blows that the plan deals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from _reliable_tasks.pids import is_taken
from reliable_tasks.demo.gateway import Scribe
from reliable_tasks.demo.journal import Entry, Kind
from reliable_tasks.demo.plan import Blow, Fault, Message
from reliable_tasks.demo.shops import open_shop
from reliable_tasks.demo.site import LEASE_SECONDS, QUEUE, Site
from reliable_tasks.demo.story import Event, Story
from reliable_tasks.demo.tally import Tally
from reliable_tasks.testing.apps import close_app
from reliable_tasks.testing.workers import WorkerFailed, WorkerProcess

__all__ = ("Stand",)

WORKERS = 3
BACKLOG = 10  # messages; a short queue, so that what is redelivered has its turn soon
SHORTEST_PAUSE, LONGEST_PAUSE = LEASE_SECONDS + 1.0, 15.0  # seconds
QUIET_SECONDS = 0.7  # with nothing in the broker or in a worker: it is over


@dataclass(frozen=True, slots=True)
class _Pause:
    """A worker that is stopped in the middle of a payment."""

    worker: WorkerProcess
    payment: int
    run: str
    since: float  # monotonic


class Stand:
    """
    Runs one side, step by step.

    Each worker has one pool process: while that is busy the worker asks the broker for nothing
    more, so that a kill never falls between kombu's two steps of taking a message. That window
    is not the library's, and a demo of some seconds would hit it too rarely to show it.

    Args:
        site: Where.
        client: A redis-py client of the site's server.
        tell: Called with each event.
    """

    def __init__(self, site: Site, client: Any, tell: Callable[[Event], None]) -> None:
        self.site, self._client, self._tell = site, client, tell
        self.plan, self._journal = site.plan, site.journal
        self.tally, self._story = Tally(site.jobs, LEASE_SECONDS), Story(site.side)
        self._to_send: Iterator[Message] = iter(self.plan.messages)
        self._sent_all = False
        self._task = open_shop(site, Scribe(site.journal))
        self._workers = [self._worker(number) for number in range(1, WORKERS + 1)]
        self._pauses: list[_Pause] = []
        self._struck: set[str] = set()
        self._quiet_since: float | None = None

    def _worker(self, number: int) -> WorkerProcess:
        return WorkerProcess(
            "reliable_tasks.demo.worker",
            name=f"{self.site.side}-{number}",
            concurrency=1,
            arguments=("--without-gossip", "--without-heartbeat"),
            env=self.site.env,
        )

    def start(self) -> None:
        """Start the workers; they need a few seconds."""
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        """Kill the workers and close the publisher's connections."""
        for worker in self._workers:
            worker.close()
        with suppress(OSError):
            close_app(self._task.app)

    def step(self) -> None:
        """Publish a few, read the news, deal blows, end pauses; call it often."""
        self._publish()
        for entry in self._journal.news():
            self._take(entry)
        self._end_pauses()
        self._note_the_dead()
        self._replace_the_dead()

    def _publish(self) -> None:
        if self._sent_all:
            return
        wanted = max(0, BACKLOG - self._queued)
        batch = list(islice(self._to_send, wanted))
        for message in batch:
            self._journal.note(Kind.SENT, message.payment)
            self._task.apply_async(
                (message.payment,), {"cents": 100 * message.payment}, task_id=message.task_id
            )
        self._sent_all = len(batch) < wanted

    def _take(self, entry: Entry) -> None:
        self.tally.add([entry])
        event = self._story.tell(entry)
        if event is not None:
            self._tell(event)
        if entry.kind is Kind.HELD:
            self._strike(entry, self.plan.faults[entry.payment])

    def _strike(self, held: Entry, fault: Fault) -> None:
        worker = next((each for each in self._workers if held.pid in each.children()), None)
        if worker is None:
            return
        facts = {"victim": _named(worker, fault.blow), "point": fault.point}
        if fault.blow is Blow.PAUSE:
            worker.pause()
            self._pauses.append(_Pause(worker, held.payment, held.run, time.monotonic()))
            self._journal.note(Kind.PAUSED, held.payment, held.run, **facts)
            return
        self._struck.add(held.run)
        if fault.blow is Blow.KILL_CHILD:
            worker.kill_child(held.pid)
        else:
            worker.kill()
            worker.start()
        self._journal.note(Kind.KILLED, held.payment, held.run, **facts)

    def _end_pauses(self) -> None:
        for pause in list(self._pauses):
            seconds = time.monotonic() - pause.since
            overtaken = self.tally.charges[pause.payment] > 0 and seconds > SHORTEST_PAUSE
            if overtaken or seconds > LONGEST_PAUSE:
                self._pauses.remove(pause)
                self._resume(pause, seconds)

    def _resume(self, pause: _Pause, seconds: float) -> None:
        victim = _named(pause.worker, Blow.PAUSE)
        self._journal.note(Kind.RESUMED, pause.payment, pause.run, victim=victim, seconds=seconds)
        self.site.sign("release", pause.payment).touch()
        pause.worker.resume()

    def _note_the_dead(self) -> None:
        """Note processes that ended in the middle of a payment without our doing."""
        for run, payment, pid in self.tally.in_hand:
            if run not in self._struck and not is_taken(pid):
                self._struck.add(run)
                facts = {"victim": f"process {pid}", "point": "by something else"}
                self._journal.note(Kind.DIED, payment, run, **facts)

    def _replace_the_dead(self) -> None:
        """Start again what ended by itself, as any supervisor would."""
        for worker in self._workers:
            if not worker.is_running:
                if not self.tally.counts[Kind.DELIVERED]:
                    raise WorkerFailed(f"{worker.name} ended at once: {_last_line(worker.log)}")
                worker.kill()
                worker.start()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left in the broker or in a worker's hands, for a moment already."""
        if not self._sent_all or self._pauses or self.tally.in_hand or self._waiting:
            self._quiet_since = None
            return False
        now = time.monotonic()
        self._quiet_since = self._quiet_since or now
        return now - self._quiet_since > QUIET_SECONDS

    @property
    def _queued(self) -> int:
        return int(self._client.llen(self.site.prefix + QUEUE))

    @property
    def _waiting(self) -> int:
        """Messages in the broker, taken by a worker or not."""
        return self._queued + int(self._client.hlen(self.site.prefix + "unacked"))


def _named(worker: WorkerProcess, blow: Blow) -> str:
    number = worker.name.partition("@")[0].rpartition("-")[2]
    return f"the pool process of worker {number}" if blow is Blow.KILL_CHILD else f"worker {number}"


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
