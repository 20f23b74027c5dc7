"""A schedule that any number of beats keep, by a clock on which a minute takes two seconds."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from celery import Celery
from celery.schedules import crontab, schedule
from celery.signals import after_task_publish, before_task_publish

from reliable_tasks import UniqueTask, setup
from reliable_tasks.testing import Ledger

SPEED = 30
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SINCE_VARIABLE = "BEATING_SINCE"  # when it was noon, in seconds since 1970
SKEW_VARIABLE = "BEATING_SKEW"  # seconds that this process's clock is ahead
DEATHS_VARIABLE = "BEATING_DEATHS"  # a directory; a file in it kills the first beat that finds it


def fast_now() -> datetime:
    """The time in this world."""
    elapsed = time.time() - float(os.environ.get(SINCE_VARIABLE, "0"))
    ahead = float(os.environ.get(SKEW_VARIABLE, "0"))
    return NOON + timedelta(seconds=elapsed * SPEED + ahead)


class FastCrontab(crontab):
    """A crontab of this world. Before Celery 5.7 a schedule file forgets *nowfun*."""

    def now(self) -> datetime:
        """Return the time in this world."""
        return fast_now()


app = Celery("beating", set_as_current=False)
setup(app, {"reliable_tasks_store_url": os.environ.get("BEATING_STORE")})


@app.task(base=UniqueTask, shared=False, bind=True, periodic=True)
def tick(self: Any) -> None:
    """Take effect under the name of the job."""
    Ledger.from_environment().effect(self.request.id)


SCHEDULES = {"crontab": FastCrontab(), "interval": schedule(1.0)}
kind = os.environ.get("BEATING_SCHEDULE", "crontab")
app.conf.update(
    broker_connection_retry_on_startup=True,
    beat_schedule={"each": {"task": tick.name, "schedule": SCHEDULES[kind]}},
    beat_max_loop_interval=0.05,
    beat_sync_every=1,  # a beat that is killed leaves a schedule file
)


def _die_if_told(moment: str) -> None:
    try:
        (Path(os.environ[DEATHS_VARIABLE]) / moment).unlink()
    except (FileNotFoundError, KeyError):
        return
    os.kill(os.getpid(), signal.SIGKILL)


@before_task_publish.connect
def before(**_: Any) -> None:
    """Die with the ticket in hand."""
    _die_if_told("before")


@after_task_publish.connect
def after(**_: Any) -> None:
    """Die before anybody knows that the message is in the broker."""
    _die_if_told("after")
