"""The rules of the protocol, each with a way to take it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol
from unittest import mock

import pytest

from reliable_tasks.core import decisions, reservations
from reliable_tasks.core.records import (
    Busy,
    Early,
    Fact,
    Finished,
    Reserved,
    Stale,
    State,
    Superseded,
    Waiting,
)
from reliable_tasks.errors import LeaseLost
from reliable_tasks.guard import _Execution
from reliable_tasks.leases import Lease
from tests.traces.broker import Broker
from tests.traces.delivery import Delivery
from tests.traces.history import Broken
from tests.traces.world import World

__all__ = ("RULES", "TRACES", "Play", "protects", "without")

NEVER_OLDER = 10**18  # a line above all others

Rule = Callable[[], Any]
RULES: dict[str, Rule] = {}


def rule(takes_out: Callable[[], Any]) -> Rule:
    """Enter a rule under the name of what takes it out."""
    RULES[takes_out.__name__] = takes_out
    return takes_out


class Play(Protocol):
    """Makes the world of a trace."""

    def __call__(self, broker: Broker | None = None, **options: Any) -> World:
        """Take the broker and the task's options."""
        ...


Trace = Callable[[Play], None]
TRACES: dict[str, Trace] = {}


def protects(rules: str, *, breaks: str) -> Callable[[Trace], Callable[[str], None]]:
    """
    Make two tests of a trace: it keeps its promise, and breaks it when its rule is taken out.

    Args:
        rules: A name in `RULES`, or several with a plus between them, taken out together.
        breaks: What is then said of the promise.
    """

    def made(trace: Trace) -> Callable[[str], None]:
        TRACES[trace.__name__] = trace

        @pytest.mark.parametrize("rule", ["kept", f"without-{rules}"])
        def test(rule: str) -> None:
            if rule == "kept":
                trace(World)
                return
            with without(*rules.split("+")), pytest.raises(Broken, match=breaks):
                trace(World)

        test.__name__, test.__doc__ = trace.__name__, trace.__doc__
        test.__module__, test.__qualname__ = trace.__module__, trace.__qualname__
        return test

    return made


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Take rules out."""
    if not names:
        yield
        return
    with RULES[names[0]](), without(*names[1:]):
        yield


@rule
def zsucc() -> Any:
    """The zombie's way out: it raises LeaseLost to Celery instead."""

    def raises(self: Any, lease: Lease, *_: object) -> None:
        raise LeaseLost(lease.key, 30.0, 0.0)

    return mock.patch.multiple(_Execution, _step_aside=raises, _give_up=raises)


@rule
def samewait() -> Any:
    """A copy of the running job waits, whatever when_running says."""
    original = _Execution._wait_for_turn

    def waits(self: Any, busy: Busy, **more: Any) -> None:
        original(self, replace(busy, same_job=False), **more)

    return mock.patch.object(_Execution, "_wait_for_turn", waits)


@rule
def samedone() -> Any:
    """A copy of a job that is done gets its outcome, whatever when_done says."""
    original = _Execution._replay

    def replays(self: Any, finished: Finished) -> Any:
        return original(self, replace(finished, same_job=False))

    return mock.patch.object(_Execution, "_replay", replays)


@rule
def flowsafe() -> Any:
    """What something waits for is never skipped."""
    return mock.patch.object(Delivery, "flows", False)


@rule
def closed() -> Any:
    """A job that was answered in full drops its copies."""
    return mock.patch.object(decisions, "close", lambda record, *_: record)


@rule
def tomb() -> Any:
    """A job that ended is remembered, even if other jobs are not told of it."""
    apply, hand_over = decisions._apply, decisions._hand_over

    def forgets(record: Any, outcome: Any, now_ms: int, horizon_ms: int) -> None:
        apply(record, outcome, now_ms, horizon_ms)
        if outcome.state is State.FAILED or (outcome.state is State.DONE and not outcome.keep_ms):
            record.expires_ms = now_ms - 1

    def hands_over(record: Any, job: str, *more: Any) -> None:
        previous = record.job
        hand_over(record, job, *more)
        record.facts.pop(previous, None)

    return mock.patch.multiple(decisions, _apply=forgets, _hand_over=hands_over)


@rule
def line() -> Any:
    """Older copies of a job are dropped."""
    answer, settle = decisions._answer_for_job, decisions.settle

    def never_older(record: Any, ask: Any, fact: Fact, now_ms: int) -> Any:
        fact.line = min(fact.line, ask.line)
        return answer(record, ask, fact, now_ms)

    def settles(record: Any, **question: Any) -> Any:
        record, settled = settle(record, **question)
        if isinstance(settled, Stale) and not decisions._fact(record, question["job"]).closed:
            settled = Stale(drop=False)
        return record, settled

    return mock.patch.multiple(decisions, _answer_for_job=never_older, settle=settles)


@rule
def ttl() -> Any:
    """No record is forgotten before the last copy of its message can have turned up."""
    return mock.patch.object(World, "horizon_ms", 0)


@rule
def maxrun() -> Any:
    """An execution that hangs is not renewed for ever."""
    return mock.patch.object(Lease, "is_past_max_run", False)


@rule
def ledger() -> Any:
    """A pause is no death."""
    return mock.patch.object(decisions, "_acquit", return_value=None)


@rule
def replaycap() -> Any:
    """Replays that never close are counted like crashes."""
    answer = decisions._answer_for_job

    def uncounted(record: Any, ask: Any, fact: Fact, now_ms: int) -> Any:
        fact.replays = 0
        return answer(record, ask, fact, now_ms)

    return mock.patch.object(decisions, "_answer_for_job", uncounted)


@rule
def pubsafe() -> Any:
    """What cannot be sent gives the delivery back; Celery's own way is to end the job."""

    def raises(self: Any, why: str, error: Exception) -> None:
        raise error

    return mock.patch.object(_Execution, "_requeue", raises)


@rule
def anew() -> Any:
    """A record that vanished is written anew by the settle of its execution."""
    settle = decisions.settle

    def settles(record: Any, **question: Any) -> Any:
        if record is None:
            return decisions.advance(None, "nobody", 0, 0, 0), Stale(drop=False)
        return settle(record, **question)

    return mock.patch.object(decisions, "settle", settles)


@rule
def repeat() -> Any:
    """The same question gets the same answer."""

    def busy(record: Any, job: str, fact: Fact) -> Any:
        return Busy(record.until_ms, same_job=True)

    return mock.patch.object(decisions, "_again", busy)


@rule
def abandoned() -> Any:
    """An execution that is over, and could not say so, is no death."""
    claim = decisions.claim

    def claims(record: Any, ask: Any, now_us: int) -> Any:
        return claim(record, replace(ask, abandoned=()), now_us)

    return mock.patch.object(decisions, "claim", claims)


@rule
def drain() -> Any:
    """A deploy that was announced is no crash."""
    return mock.patch.object(decisions, "drain", return_value=None)


@rule
def end() -> Any:
    """A job ends by the word of the main process."""

    def ignored(record: Any, *_: Any) -> Any:
        return record or decisions.Record(State.IDLE, "nobody")

    return mock.patch.object(decisions, "end", ignored)


@rule
def spare() -> Any:
    """A replay that could not be sent is no death."""
    return mock.patch.object(decisions, "spare", return_value=None)


@rule
def atwork() -> Any:
    """A replay of which nothing was heard yet is no death for the length of a lease."""
    answer = decisions._answer_for_job

    def at_once(record: Any, ask: Any, fact: Fact, now_ms: int) -> Any:
        fact.at_ms = 0
        return answer(record, ask, fact, now_ms)

    return mock.patch.object(decisions, "_answer_for_job", at_once)


@rule
def grace() -> Any:
    """A reservation ends by itself."""

    def lasts(record: Any, at_ms: int) -> None:
        record.expires_ms = None

    def waiting(record: Any, now_ms: int) -> Any:
        return record.waiting

    return mock.patch.multiple(reservations, _waiting=waiting, _keep_until=lasts)


@rule
def lengthens() -> Any:
    """A confirmation reserves nothing."""
    confirm = reservations.confirm

    def creates(record: Any, word: Any, now_us: int) -> None:
        if record is not None and record.waiting is None:
            now_ms = now_us // 1_000
            record.waiting = Waiting(word.job, now_ms + word.keep_ms, now_us, due_ms=now_ms)
        confirm(record, word, now_us)

    return mock.patch.object(reservations, "confirm", creates)


@rule
def own() -> Any:
    """A job is no duplicate of itself."""
    by_waiting = reservations._by_waiting

    def strange(record: Any, waiting: Any, ask: Any, now_ms: int) -> Any:
        return by_waiting(record, waiting, replace(ask, job=f"not {ask.job}"), now_ms)

    return mock.patch.object(reservations, "_by_waiting", strange)


@rule
def published() -> Any:
    """A call takes the place of another one only when it is published."""
    reserve = reservations._reserve

    def reserves(record: Any, *more: Any) -> Any:
        answer = reserve(record, *more)
        record.latest = record.waiting.turn
        return answer

    return mock.patch.object(reservations, "_reserve", reserves)


@rule
def order() -> Any:
    """A call that was replaced does not run after the one in its place."""
    return mock.patch.object(reservations, "early_or_replaced", _answers_no(Superseded))


@rule
def early() -> Any:
    """Later calls put a job off that is in the broker already."""
    return mock.patch.object(reservations, "early_or_replaced", _answers_no(Early))


def _answers_no(kind: type[Early | Superseded]) -> Callable[..., Any]:
    original = reservations.early_or_replaced

    def answers(*question: Any) -> Any:
        answer = original(*question)
        return None if isinstance(answer, kind) else answer

    return answers


@rule
def plain() -> Any:
    """A message that no later call may replace has no turn."""
    reserve = reservations._reserve

    def reserves(record: Any, *more: Any) -> Reserved:
        return replace(reserve(record, *more), turn=record.waiting.turn)

    return mock.patch.object(reservations, "_reserve", reserves)


@rule
def answered() -> Any:
    """A job that will be answered by what was done before makes no later call a duplicate."""
    return mock.patch.object(reservations, "_will_be_answered", return_value=False)


@rule
def frees() -> Any:
    """A message that was discarded holds nobody up."""
    return mock.patch.object(reservations, "drop", return_value=None)


@rule
def begins() -> Any:
    """A job that runs waits no longer."""
    return mock.patch.object(reservations, "begin", return_value=None)


@rule
def givesback() -> Any:
    """A publish that failed holds nobody up."""
    return mock.patch.object(reservations, "unreserve", lambda record, job: record)
