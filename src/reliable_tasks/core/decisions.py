"""
The protocol's table as pure functions: a record, a question, the time now.

The memory store runs these; the Lua scripts of the Redis store say the same in
one atomic step each, and a state machine drives both side by side. Each
function changes the given record in place, or returns a new one where there
was none. Order of questions for a claim: repeated, closed, older, ended, and
only then the state of the key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from reliable_tasks.core import reservations
from reliable_tasks.core.durations import HOPS_PER_REPLAY
from reliable_tasks.core.lines import line_of, retries_of
from reliable_tasks.core.records import (
    MAX_FACTS,
    Answer,
    Busy,
    Death,
    Fact,
    Finished,
    Granted,
    Outcome,
    Poisoned,
    Record,
    Reused,
    Settled,
    Stale,
    State,
    Superseded,
    Unreadable,
)

__all__ = (
    "Claim",
    "advance",
    "claim",
    "close",
    "drain",
    "end",
    "renew",
    "reopen",
    "settle",
    "spare",
)

PRUNED_AT_ONCE = 8
_KNOWN = frozenset(State)
_ENDED = frozenset({State.DONE, State.FAILED})
_OPEN = _KNOWN - _ENDED - {State.QUARANTINED}
_BUSY = frozenset({State.RUNNING, State.RETRYING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The question of one delivery; see `Store.claim`."""

    delivery: str
    job: str
    line: int
    lease_ms: int
    horizon_ms: int
    max_crashes: int
    payload: str = ""
    abandoned: Sequence[str] = ()
    turn: int = 0


def claim(record: Record | None, ask: Claim, now_us: int) -> tuple[Record, Answer]:
    """Decide whether the delivery may run; returns the record as it is afterwards."""
    if record is None:
        record = Record(State.IDLE, ask.job)
        return record, _grant(record, ask, now_us)
    if record.state not in _KNOWN:
        return record, Unreadable()
    fact = _fact(record, ask.job)
    if fact.delivery == ask.delivery:
        return record, _again(record, ask.job, fact)
    known = _answer_for_job(record, ask, fact, now_us // 1000)
    return record, known or _answer_for_key(record, ask, now_us)


def _again(record: Record, job: str, fact: Fact) -> Answer:
    """Answer a repeated question without changing anything."""
    if record.state is State.RUNNING and record.job == job:
        return Granted(record.token, len(record.suspects))
    if fact.ended:
        return Finished(State(fact.ended), fact.outcome, same_job=True, replays=fact.replays)
    if record.state is State.QUARANTINED:  # since the question was asked first
        return _poisoned(record)
    return Superseded("repeated")


def _answer_for_job(record: Record, ask: Claim, fact: Fact, now_ms: int) -> Answer | None:
    """Answer from what is known of the job itself, whatever the key does now."""
    if fact.closed:
        return Superseded("closed")
    if ask.line < fact.line:
        return Superseded("older")
    if not fact.ended:
        return None
    if fact.replays and fact.delivery in ask.abandoned:
        fact.replays -= 1
    if fact.replays >= ask.max_crashes:
        left_ms = fact.at_ms + ask.lease_ms - now_ms  # the last replay may still be at work
        return Busy(left_ms, same_job=True) if left_ms > 0 else Poisoned(fact.replays)
    fact.replays += 1
    fact.delivery, fact.at_ms = ask.delivery, now_ms
    _write(record, ask.job, fact)
    return Finished(State(fact.ended), fact.outcome, same_job=True, replays=fact.replays)


def _answer_for_key(record: Record, ask: Claim, now_us: int) -> Answer:
    """Answer a job that has not ended from the key: what runs there, later calls, its state."""
    now_ms = now_us // 1000
    runs = record.state is State.RUNNING and record.delivery not in ask.abandoned
    if runs and now_ms < record.until_ms and record.job == ask.job:
        return _busy(record, ask, now_us)
    answer = reservations.early_or_replaced(record, ask.job, ask.turn, now_ms)
    return answer or _answer_by_state(record, ask, runs, now_us)


def _answer_by_state(record: Record, ask: Claim, runs: bool, now_us: int) -> Answer:
    same_job = record.job == ask.job
    live = now_us // 1000 < record.until_ms
    if record.state is State.QUARANTINED:
        return _poisoned(record)
    is_told = live or _is_answered(record, ask)
    if is_told and not same_job and record.state is not State.IDLE:
        if record.payload and ask.payload and record.payload != ask.payload:
            reservations.drop(record, ask.job, window=False)
            return Reused()
        if record.state in _ENDED:
            reservations.drop(record, ask.job, window=False)
            left_ms = max(0, record.until_ms - now_us // 1000)
            return Finished(State(record.state), record.outcome, same_job=False, left_ms=left_ms)
    if live and (runs or (record.state is State.RETRYING and not same_job)):
        return _busy(record, ask, now_us)
    death = Death(record.delivery, record.token) if runs and not record.draining else None
    if runs:
        _suspect(record)
    if len(record.suspects) >= ask.max_crashes:
        record.state, record.draining, record.expires_ms = State.QUARANTINED, False, None
        return _poisoned(record)
    return replace(_grant(record, ask, now_us), death=death)


def _poisoned(record: Record) -> Poisoned:
    return Poisoned(len(record.suspects), Death(record.delivery, record.token))


def _is_answered(record: Record, ask: Claim) -> bool:
    """Whether the job that ran was done, or is kept, only after the call of *ask*'s message."""
    is_kept = record.state is State.DONE and record.outcome is not None
    was_called_before = -record.until_ms * 1000 < ask.turn < 0
    return is_kept and was_called_before and record.payload == ask.payload


def _busy(record: Record, ask: Claim, now_us: int) -> Busy:
    same_job = record.job == ask.job
    newer = same_job and retries_of(ask.line) > record.retries
    return Busy(record.until_ms - now_us // 1000, same_job, newer)


def _suspect(record: Record) -> None:
    if not record.draining:
        record.suspects = (*record.suspects, record.token)


def _grant(record: Record, ask: Claim, now_us: int) -> Granted:
    now_ms = now_us // 1000
    if record.job != ask.job:
        _hand_over(record, ask.job, now_ms, ask.horizon_ms)
    reservations.begin(record, ask.job, ask.turn)
    record.state = State.RUNNING
    record.token = max(record.token + 1, now_us)
    record.delivery = ask.delivery
    record.until_ms = now_ms + ask.lease_ms
    record.line = ask.line  # no older one gets here
    record.retries = retries_of(ask.line)
    record.closed, record.draining = False, False
    record.replays, record.replayed_ms = 0, 0
    record.outcome, record.payload = None, ask.payload
    record.expires_ms = reservations.covering_ms(record, record.until_ms + ask.horizon_ms)
    return Granted(record.token, len(record.suspects))


def _hand_over(record: Record, job: str, now_ms: int, horizon_ms: int) -> None:
    """Make *job* the record's own; what must be remembered of the previous one becomes a fact."""
    previous = _fact(record, record.job)
    if previous.line or previous.ended or previous.closed:
        previous.at_ms = now_ms
        if previous.closed:
            previous.outcome = None
        if previous.closed or not previous.ended:
            previous.delivery = ""
        if not previous.ended:
            previous.token = 0
        record.facts[record.job] = previous
    record.facts.pop(job, None)
    record.job = job
    _prune(record, now_ms, horizon_ms)


def _prune(record: Record, now_ms: int, horizon_ms: int) -> None:
    """Keep at most `MAX_FACTS`: drop those past the horizon, then the oldest, some at once."""
    if len(record.facts) <= MAX_FACTS:
        return
    ages = sorted((fact.at_ms, job) for job, fact in record.facts.items())
    surplus = len(ages) - MAX_FACTS + PRUNED_AT_ONCE
    for place, (at_ms, job) in enumerate(ages):
        if place < surplus or at_ms + horizon_ms <= now_ms:
            del record.facts[job]


def _fact(record: Record, job: str) -> Fact:
    """Return a copy of what the record knows of *job*."""
    if record.job == job:
        ended = str(record.state) if record.state in _ENDED else ""
        return Fact(
            line=record.line,
            ended=ended,
            closed=record.closed,
            replays=record.replays,
            at_ms=record.replayed_ms,
            outcome=record.outcome,
            delivery=record.delivery,
            token=record.token,
        )
    return replace(record.facts.get(job, Fact()))


def _write(record: Record, job: str, fact: Fact) -> None:
    """Put back what `_fact` gave, where it came from."""
    if record.job == job:
        record.line, record.closed, record.replays = fact.line, fact.closed, fact.replays
        record.delivery, record.replayed_ms = fact.delivery, fact.at_ms
    else:
        record.facts[job] = fact


def renew(record: Record | None, token: int, lease_ms: int, horizon_ms: int, now_us: int) -> bool:
    """Lengthen the lease if *token* still holds it; see `Store.renew`."""
    if record is None:
        return False
    if record.state is State.RUNNING and record.token == token:
        record.until_ms = now_us // 1000 + lease_ms
        record.expires_ms = record.until_ms + horizon_ms
        return True
    _acquit(record, token)
    return False


def _acquit(record: Record, token: int) -> None:
    """A token that was overtaken and reports back was paused, not dead."""
    if record.state is not State.QUARANTINED and token != record.token:
        record.suspects = tuple(each for each in record.suspects if each != token)


def settle(
    record: Record | None,
    *,
    token: int,
    job: str,
    line: int,
    outcome: Outcome,
    horizon_ms: int,
    now_us: int,
) -> tuple[Record, Settled | Stale]:
    """Record an outcome if *token* is current; see `Store.settle`."""
    if record is None:
        record = Record(State.RUNNING, job, token, line=line, retries=retries_of(line))
    if record.token == token and record.state == outcome.state:
        return record, Settled()
    if record.token != token or record.state is not State.RUNNING:
        _acquit(record, token)
        fact = _fact(record, job)
        if fact.ended == outcome.state and fact.token == token:
            return record, Settled()  # a repeated question, and another job came in between
        return record, Stale(drop=fact.closed or line < fact.line)
    reservations.drop(record, job, window=False)
    _apply(record, outcome, now_us // 1000, horizon_ms)
    return record, Settled()


def _apply(record: Record, outcome: Outcome, now_ms: int, horizon_ms: int) -> None:
    if outcome.died:
        _suspect(record)
    if outcome.state is State.RETRYING:
        record.line = max(record.line, line_of(record.retries + 1, 0))
    if outcome.state in _ENDED:
        record.suspects = ()
    record.state, record.draining = outcome.state, False
    record.until_ms, record.outcome = now_ms + outcome.keep_ms, outcome.data
    kept_ms = outcome.keep_ms + horizon_ms
    if outcome.state in _ENDED:
        kept_ms = max(outcome.keep_ms, horizon_ms)
    record.expires_ms = reservations.covering_ms(record, now_ms + kept_ms)


def close(
    record: Record | None, job: str, line: int | None, horizon_ms: int, now_us: int
) -> Record | None:
    """Note that nothing hangs on the job's messages any more; see `Store.close`."""
    if record is None:
        return None
    fact = _fact(record, job)
    if line is not None and fact.line >= line + HOPS_PER_REPLAY:
        return record  # an operator was quicker
    fact.closed = True
    if record.job != job:
        fact.outcome, fact.delivery = None, ""  # nobody will ask for it again
    _remember(record, job, fact, horizon_ms, now_us // 1000)
    return record


def spare(record: Record | None, job: str, delivery: str) -> None:
    """Take a replay off the count: its process lives; see `Store.spare`."""
    if record is None:
        return
    fact = _fact(record, job)
    if fact.ended and fact.replays and fact.delivery == delivery:
        fact.replays, fact.delivery = fact.replays - 1, ""
        _write(record, job, fact)


def _remember(record: Record, job: str, fact: Fact, horizon_ms: int, now_ms: int) -> None:
    """Write a fact so that it outlives the horizon."""
    if record.job != job and (fact.closed or not fact.ended):
        fact.at_ms = now_ms
    _write(record, job, fact)
    _prune(record, now_ms, horizon_ms)
    if record.expires_ms is not None:
        record.expires_ms = max(record.expires_ms, now_ms + horizon_ms)


def end(record: Record | None, job: str, killed: bool, horizon_ms: int, now_us: int) -> Record:
    """End the job by the main process's word; see `Store.end`."""
    now_ms = now_us // 1000
    if record is None:
        record = Record(State.IDLE, job)
    if record.job != job:
        fact = _fact(record, job)
        if not fact.ended:
            fact.ended, fact.closed = str(State.FAILED), True
            reservations.drop(record, job)
            _remember(record, job, fact, horizon_ms, now_ms)
        return record
    discarded_while_running = (
        record.state is State.RUNNING and now_ms < record.until_ms and not killed
    )
    if discarded_while_running or record.state not in _OPEN:
        return record
    reservations.drop(record, job)
    record.state, record.closed, record.outcome = State.FAILED, True, None
    record.token = max(record.token + 1, now_us)
    record.until_ms, record.suspects, record.draining = now_ms, (), False
    record.expires_ms = reservations.covering_ms(record, now_ms + horizon_ms)
    return record


def drain(record: Record | None, job: str) -> None:
    """Note an announced shutdown; see `Store.drain`."""
    if record is not None and record.state is State.RUNNING and record.job == job:
        record.draining = True


def advance(record: Record | None, job: str, line: int, horizon_ms: int, now_us: int) -> Record:
    """Note a published successor; see `Store.advance`."""
    now_ms = now_us // 1000
    if record is None:
        record = Record(State.IDLE, job, expires_ms=now_ms)
    fact = _fact(record, job)
    fact.line = max(fact.line, line)
    _remember(record, job, fact, horizon_ms, now_ms)
    return record


def reopen(
    record: Record | None, job: str, line: int, horizon_ms: int, now_us: int
) -> tuple[Record, bool]:
    """Let a job run again by an operator's word; see `Store.reopen`."""
    now_ms = now_us // 1000
    if record is None:
        return Record(State.IDLE, job, line=line, expires_ms=now_ms + horizon_ms), True
    if record.state not in _KNOWN:
        return record, False
    fact = _fact(record, job)
    if fact.line >= line:
        return record, fact.line == line
    if record.job == job and record.state in _BUSY and now_ms < record.until_ms:
        return record, False
    fact.line, fact.closed, fact.replays, fact.delivery = line, False, 0, ""
    if record.job == job:
        _reopen_own(record, fact, now_ms)
    else:
        _reopen_other(record, job, fact, now_ms)
        _prune(record, now_ms, horizon_ms)
    record.expires_ms = max(record.expires_ms or 0, now_ms + horizon_ms)
    return record, True


def _reopen_own(record: Record, fact: Fact, now_ms: int) -> None:
    fact.at_ms = 0
    _write(record, record.job, fact)
    if record.state is not State.DONE:
        record.state, record.until_ms, record.outcome = State.IDLE, now_ms, None
        record.suspects, record.draining = (), False


def _reopen_other(record: Record, job: str, fact: Fact, now_ms: int) -> None:
    fact.at_ms = now_ms
    if fact.ended != State.DONE:
        fact.ended, fact.outcome, fact.token = "", None, 0
    record.facts[job] = fact
    if record.state is State.QUARANTINED:
        record.state, record.suspects = State.IDLE, ()
