"""
The rows of the tables: each situation is brought about, and told in the words of its cell.

Labels make jobs unequal; a job waits before its effect while the gate of its label is held.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from uuid import UUID

from celery import chain, chord, group
from celery.canvas import Signature
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from reliable_tasks.testing import close_app, eventually
from tests.migration.libraries import EXPIRY
from tests.migration.stand import TIMEOUT, Stand
from tests.migration.tasks import build

__all__ = ("SITUATIONS", "Situation")

REFUSES = "redis://127.0.0.1:1"  # no broker there
databases = count()  # kombu keeps one pool for an address, and a closed app closes it


@dataclass(frozen=True)
class Situation:
    """
    One row.

    Args:
        words: Its first cell.
        observe: Brings it about under a label of its own, and says what is seen.
        kills: Whether it needs a worker of its own.
    """

    words: str
    observe: Callable[[Stand, str], str]
    kills: bool = False


SITUATIONS: list[Situation] = []


def situation(words: str, *, kills: bool = False) -> Callable[..., Callable[[Stand, str], str]]:
    """Make a function a row."""

    def add(observe: Callable[[Stand, str], str]) -> Callable[[Stand, str], str]:
        SITUATIONS.append(Situation(words, observe, kills))
        return observe

    return add


def in_each_mode(stand: Stand, label: str, see: Callable[[str, str], str]) -> str:
    """Tell what is seen of a task in each of the library's modes; `see` gets name and label."""
    told = []
    for number, mode in enumerate(stand.library.modes):
        try:
            seen = see(f"work{mode}", f"{label}.{number}")
        except stand.library.error_class:
            seen = stand.raises
        told.append(f"{mode}: {seen}" if mode else seen)
    return "; ".join(told)


# --- an equal call ------------------------------------------------------------------------


@situation("an equal call while the first is queued")
def queued(stand: Stand, label: str) -> str:
    first = stand.task("work").apply_async((label,), queue=label)
    second = stand.call("work", label, queue=label, first=first)
    stand.open(label)
    return f"{second}; {stand.runs(label)}"


@situation("an equal call while the first runs")
def running(stand: Stand, label: str) -> str:
    first = stand.held(label)
    second = stand.call("work", label, first=first)
    stand.release(label)
    stand.idle()
    return f"{second}; {stand.runs(label)}"


@situation("the same, where each call must be followed by a run that begins after it")
def once_more(stand: Stand, label: str) -> str:
    if stand.library.again is None:
        return "no such option"
    first = stand.held(label, "again")
    second = stand.call("again", label, first=first)
    beside = stand.begins_again(label)
    stand.release(label)
    stand.idle()
    return f"{second}; {stand.runs(label)}, {_at_a_time(beside)}"


@situation("what `.get()` of the duplicate gives")
def result_of_a_duplicate(stand: Stand, label: str) -> str:
    def get(name: str, label: str) -> str:
        stand.held(label, name)
        try:
            second = stand.task(name).delay(label)
        finally:
            stand.release(label)
        value = second.get(timeout=TIMEOUT)
        return "the first job's value" if value == label else f"`{value}`"

    return in_each_mode(stand, label, get)


@situation("an equal call after it has succeeded, and after it has failed")
def ended(stand: Stand, label: str) -> str:
    answers = []
    for name in ("work", "fails"):
        first = stand.task(name).delay(label)
        eventually(first.ready, timeout=TIMEOUT)
        stand.idle()
        answers.append(stand.call(name, label, first=first))
    return " and ".join(dict.fromkeys(answers))


@situation("an equal call during the countdown of `self.retry`")
def retry(stand: Stand, label: str) -> str:
    return _retried(stand, label, "retries")


@situation("the same with `autoretry_for`")
def autoretry(stand: Stand, label: str) -> str:
    return _retried(stand, label, "autoretries")


def _retried(stand: Stand, label: str, name: str) -> str:
    first = stand.task(name).delay(label)
    eventually(lambda: first.state == "RETRY", timeout=TIMEOUT)
    second = stand.call(name, label, first=first)
    stand.idle()
    return f"{second}; {'the retry runs' if stand.ran(first) else 'the retry is lost'}"


@situation("an equal call while the first waits for a countdown longer than the lock's expiry")
def long_countdown(stand: Stand, label: str) -> str:
    first = stand.task("brief").apply_async((label,), countdown=EXPIRY + 2)
    time.sleep(EXPIRY + 0.5)
    second = stand.call("brief", label, first=first)
    stand.idle()
    return f"{second}; {stand.runs(label)}"


@situation("an equal call while the first runs for longer than the lock's expiry")
def long_run(stand: Stand, label: str) -> str:
    first = stand.held(label, "brief")
    time.sleep(EXPIRY + 0.5)
    second = stand.call("brief", label, first=first)
    beside = stand.begins_again(label)
    stand.release(label)
    stand.idle()
    return f"{second}; {_at_a_time(beside)}"


def _at_a_time(beside: bool) -> str:
    return "two at a time" if beside else "one at a time"


# --- what makes two calls equal -----------------------------------------------------------


@situation("one call by position, one by name")
def position_or_name(stand: Stand, label: str) -> str:
    stand.call("work", label, queue=label)
    stand.call("work", kwargs={"label": label}, queue=label)
    stand.open(label)
    return stand.runs(label)


@situation("one call names a default, one leaves it out")
def default(stand: Stand, label: str) -> str:
    stand.call("work", label, "red", queue=label)
    stand.call("work", label, queue=label)
    stand.open(label)
    return stand.runs(label)


@situation("an argument that JSON changes, such as a tuple: an equal call after the job's end")
def tuple_argument(stand: Stand, label: str) -> str:
    since = time.monotonic()
    first = stand.task("listed").delay((label, 1))
    eventually(first.ready, timeout=TIMEOUT)
    stand.idle()
    return stand.blocked("listed", (label, 1), since)


@situation("an argument that is a `UUID`: two equal calls")
def uuid_argument(stand: Stand, label: str) -> str:
    try:
        for _ in range(2):
            stand.call("work", label, UUID(int=1), queue=label)
    except TypeError as error:
        return f"raises `{type(error).__name__}`"
    stand.open(label)
    return stand.runs(label)


# --- something dies -----------------------------------------------------------------------


@situation("a pool process is killed in the job", kills=True)
def child_killed(stand: Stand, label: str) -> str:
    return _killed(stand, label, "brief", whole=False)


@situation("the same with `acks_late` and `reject_on_worker_lost`", kills=True)
def child_killed_late(stand: Stand, label: str) -> str:
    return _killed(stand, label, "late", whole=False)


@situation("the whole worker is killed in the job, and started again", kills=True)
def worker_killed(stand: Stand, label: str) -> str:
    return _killed(stand, label, "brief", whole=True)


@situation("that with `acks_late` and `reject_on_worker_lost`", kills=True)
def worker_killed_late(stand: Stand, label: str) -> str:
    return _killed(stand, label, "late", whole=True)


def _killed(stand: Stand, label: str, name: str, *, whole: bool) -> str:
    first = stand.held(label, name)
    since = time.monotonic()
    if whole:
        stand.worker.kill()
        stand.worker.start()
    else:
        stand.worker.kill_child()
    stand.release(label)
    blocked = stand.blocked(name, label, since)
    if first.successful():
        blocked = "blocked until then"
    stand.worker.wait_ready()
    stand.idle()
    return f"{'the job completes' if first.successful() else 'the job is lost'}; {blocked}"


@situation("the message is delivered a second time while the job runs")
def redelivered(stand: Stand, label: str) -> str:
    first = stand.held(label)
    stand.app.send_task("work", (label,), task_id=first.id)
    eventually(lambda: stand.worker.log.count(f"[{first.id}] received") > 1, timeout=TIMEOUT)
    beside = stand.begins_again(label)
    stand.release(label)
    stand.idle()
    return f"{stand.runs(label)}, {_at_a_time(beside)}"


@situation("the publish fails")
def publish_fails(stand: Stand, label: str) -> str:
    since = time.monotonic()
    app = build(
        stand.library,
        broker=f"{REFUSES}/{next(databases)}",
        results=stand.broker.url,
        locks=stand.locks.url,
    )
    try:
        app.tasks["brief"].delay(label)
    except OperationalError:
        return stand.blocked("brief", label, since)
    finally:
        close_app(app)
    raise AssertionError("a broker that refuses connections took a message")


@situation("the producer is killed between its lock and its message")
def producer_killed(stand: Stand, label: str) -> str:
    stand.die_before_publishing("brief", label)
    return stand.blocked("brief", label, time.monotonic())


# --- a message that never runs ------------------------------------------------------------


@situation("the queued job is revoked")
def revoked(stand: Stand, label: str) -> str:
    since = time.monotonic()
    stand.task("brief").apply_async((label,), queue=label).revoke()
    stand.open(label)
    return stand.blocked("brief", label, since)


@situation("the queued job expires")
def expired(stand: Stand, label: str) -> str:
    since = time.monotonic()
    stand.task("brief").apply_async((label,), queue=label, expires=0.2)
    time.sleep(0.3)
    stand.open(label)
    return stand.blocked("brief", label, since)


@situation("the queue is purged")
def purged(stand: Stand, label: str) -> str:
    since = time.monotonic()
    stand.task("brief").apply_async((label,), queue=label)
    with stand.app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge(label) == 1
    return stand.blocked("brief", label, since)


@situation("the place of a job that is gone, by default")
def default_lifetime(stand: Stand, label: str) -> str:
    seconds = stand.library.lifetime(stand.task("untold"))
    return "blocked for ever" if seconds is None else f"blocked for {seconds / 3_600:g} h"


# --- a duplicate in a flow ----------------------------------------------------------------


def _flow(
    stand: Stand,
    label: str,
    make: Callable[[Signature, str], Signature],
    is_called: Callable[[AsyncResult], bool] = lambda _: True,
) -> str:
    """Tell how a flow ends whose part is called, as *is_called* tells, while an equal job runs."""

    def see(name: str, label: str) -> str:
        stand.held(label, name)
        flow = make(stand.task(name).si(label), label)
        try:
            result = flow.apply_async()
            eventually(lambda: is_called(result), timeout=TIMEOUT)
        finally:
            stand.release(label)
        ended = stand.end(result)
        return f"{ended}; {stand.runs(label)}" if ended == "completes" else ended

    return in_each_mode(stand, label, see)


@situation("the duplicate is a member of a group")
def in_a_group(stand: Stand, label: str) -> str:
    after = stand.task("after")
    return _flow(stand, label, lambda work, label: group(work, after.si(label=f"{label}.other")))


@situation("the duplicate is a member of a chord")
def in_a_chord(stand: Stand, label: str) -> str:
    after = stand.task("after")
    return _flow(
        stand,
        label,
        lambda work, label: chord(
            [after.si(label=f"{label}.other"), work], after.s(label=f"{label}.body")
        ),
    )


@situation("the duplicate is the first step of a chain")
def first_in_a_chain(stand: Stand, label: str) -> str:
    after = stand.task("after")
    return _flow(stand, label, lambda work, label: chain(work, after.si(label=f"{label}.next")))


@situation("the duplicate is a later step of a chain")
def later_in_a_chain(stand: Stand, label: str) -> str:
    after = stand.task("after")
    return _flow(
        stand,
        label,
        lambda work, label: chain(
            after.si(label=f"{label}.before"), work, after.si(label=f"{label}.next")
        ),
        lambda last: last.parent.parent.ready(),
    )


@situation("the duplicate has a callback (`link`)")
def with_a_callback(stand: Stand, label: str) -> str:
    def see(name: str, label: str) -> str:
        stand.held(label, name)
        link = stand.task("after").si(label=f"{label}.link")
        try:
            stand.task(name).apply_async((label,), link=link)
        finally:
            stand.release(label)
        stand.idle()
        return "it runs" if stand.ledger.counts()[f"{label}.link"] else "it is lost"

    return in_each_mode(stand, label, see)
