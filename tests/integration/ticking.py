"""Beats of one schedule, a worker, and what came of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from celery.schedules import crontab

from reliable_tasks.periodic import Firing, ticket_of
from reliable_tasks.testing import BeatProcess, Ledger, Server, WorkerProcess, eventually
from tests.integration.apps.beating import (
    DEATHS_VARIABLE,
    NOON,
    SINCE_VARIABLE,
    SKEW_VARIABLE,
    tick,
)

APP = "tests.integration.apps.beating"


@dataclass
class Beats:
    """What a test of beats works with."""

    ledger: Ledger
    deaths: Path
    env: dict[str, str]
    stack: ExitStack

    def start(self, *, skew: float = 0) -> BeatProcess:
        """Start one more beat."""
        return self.stack.enter_context(
            BeatProcess(APP, env={**self.env, SKEW_VARIABLE: str(skew)})
        )

    def worker(self) -> WorkerProcess:
        """Start the worker."""
        return self.stack.enter_context(WorkerProcess(APP, pool="threads", env=self.env))

    def more(self, slots: int) -> None:
        """Wait until so many more slots have taken effect."""
        wanted = len(self.ledger.counts()) + slots
        eventually(lambda: len(self.ledger.counts()) >= wanted, timeout=20 + 4 * slots)

    def each_slot_once(self) -> int:
        """See that none is missing between the first and the last and none ran twice."""
        counts = self.ledger.counts()
        minutes = (time.time() - float(self.env[SINCE_VARIABLE])) / 2
        slots = {job_of(minute): minute for minute in range(int(minutes) + 2)}
        fired = sorted(slots[job] for job in counts)
        assert fired == list(range(fired[0], fired[-1] + 1))
        assert set(counts.values()) == {1}
        return len(fired)


def job_of(minute: int) -> str | None:
    """The task id of one slot."""
    plan = crontab(nowfun=lambda: NOON + timedelta(minutes=minute), app=tick.app)
    firing = Firing("each", tick.name, plan, None)
    ticket = ticket_of(firing, prefix="", grace_ms=1, horizon_ms=1)
    return ticket and ticket.job


@contextmanager
def running(server: Server, ledger: Ledger, directory: Path, kind: str) -> Iterator[Beats]:
    """Begin with no beat and no worker; *kind* is that of the schedule."""
    deaths = directory / "deaths"
    deaths.mkdir()
    env = {
        **ledger.env,
        **server.new_database().celery_env,
        SINCE_VARIABLE: str(time.time()),
        DEATHS_VARIABLE: str(deaths),
        "BEATING_SCHEDULE": kind,
    }
    with ExitStack() as stack:
        yield Beats(ledger, deaths, env, stack)
