"""
One guarded execution: claim, run, settle.

The guard knows the protocol and nothing of Celery. It asks the store, and acts
through a `Message`: the one delivery in its hands. It ends in one of four ways:
a value, an error of the task, `Drop` (acknowledge, nothing more to do here), or
`Requeue` (give the delivery back to the broker).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NoReturn

from reliable_tasks.burial import Shelf
from reliable_tasks.core.durations import outage_wait_ms, turn_wait_ms
from reliable_tasks.core.lines import line_of
from reliable_tasks.core.records import (
    Answer,
    Busy,
    Death,
    Early,
    Finished,
    Granted,
    Outcome,
    Poisoned,
    Reused,
    Settled,
    Stale,
    State,
    Superseded,
)
from reliable_tasks.core.settings import Options
from reliable_tasks.core.store import Store
from reliable_tasks.errors import (
    AlreadyRunning,
    IdempotencyKeyReused,
    LeaseLost,
    Quarantined,
    ResultNotKept,
    StoreUnavailable,
)
from reliable_tasks.leases import Lease, keeper
from reliable_tasks.message import (
    PAUSE_BEFORE_REQUEUE,
    Drop,
    Event,
    Heard,
    Listener,
    Message,
    Requeue,
    Unsendable,
)
from reliable_tasks.processes import numbering

__all__ = ("Guard",)

logger = logging.getLogger("reliable_tasks")

_SETTLED = {State.DONE: "done", State.FAILED: "failed", State.RETRYING: "retrying"}

SEND_PATIENCE = 15.0  # seconds of trying again in place before a delivery goes back


class Guard:
    """
    Guards every delivery of one task.

    Args:
        store: Gives the store; asked once per delivery.
        options: The task's options.
        shelf: Where dead letters are kept.
        tell: Called with the name of an `Event`, the message, and details.
        heard: Asked whether `Event.CLAIMED` and `Event.SETTLED` are to be told.
        sleep: Replaces `time.sleep` in tests.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        options: Options,
        *,
        shelf: Shelf,
        tell: Listener,
        heard: Heard = lambda _: False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._options, self._shelf = store, options, shelf
        self._tell, self._heard, self._sleep = tell, heard, sleep
        self._process = -1

    def execute(self, message: Message) -> Any:
        """
        Run the message's body if it may run, else answer in its place.

        Returns:
            The task's result, fresh or stored.

        Raises:
            Drop: Acknowledge the delivery; it is over or has a successor.
            Requeue: Give the delivery back.
            Quarantined: The job ended its process too often.
            IdempotencyKeyReused: One key, two payloads.
            ResultNotKept: Done before, but there is no value to answer with.
        """
        store = self._store()
        if self._process != numbering.process:
            self._process = numbering.process
            keeper.introduce(store, self._shelf.prefix)
        return _Execution(
            store, self._options, message, self._shelf, self._tell, self._heard, self._sleep
        ).execute()


@dataclass(slots=True)
class _Execution:
    """One delivery on its way through the guard."""

    store: Store
    options: Options
    message: Message
    shelf: Shelf
    tell: Listener
    heard: Heard
    sleep: Callable[[float], None]
    delivery: str = field(default_factory=numbering.next)
    began_at: float = 0.0  # monotonic

    # --- asking ---------------------------------------------------------------------------

    def execute(self) -> Any:
        message, options = self.message, self.options
        asked_at = monotonic()
        try:
            answer = self.store.claim(
                message.key,
                delivery=self.delivery,
                job=message.job,
                line=self.line,
                lease_ms=options.lease_ms,
                horizon_ms=options.horizon_ms,
                max_crashes=options.max_crashes,
                payload=message.payload,
                abandoned=message.abandoned,
                turn=message.turn,
            )
        except StoreUnavailable as error:
            return self._without_store(error)
        if self.heard(Event.CLAIMED):
            self._tell_claimed(answer, asked_at)
        if type(answer) is Granted:
            if answer.death is not None:
                self.shelf.note_death(self.store, message.job, answer.death)
            return self._run(answer, asked_at)
        return self._answer(answer)

    def _tell_claimed(self, answer: Answer | None, asked_at: float) -> None:
        self._event(
            Event.CLAIMED,
            delivery=self.delivery,
            answer="unguarded" if answer is None else type(answer).__name__.lower(),
            seconds=monotonic() - asked_at,
            attempt=self.message.retries + 1,
            crashes=getattr(answer, "crashes", 0),
            token=answer.token if isinstance(answer, Granted) else None,
        )

    @property
    def line(self) -> int:
        return line_of(self.message.retries, self.message.hop)

    def _event(self, name: str, **details: Any) -> None:
        self.tell(name, self.message, details)

    # --- running --------------------------------------------------------------------------

    def _run(self, granted: Granted, asked_at: float) -> Any:
        message = self.message
        lease = Lease(
            self.store,
            message.key,
            granted.token,
            lease_ms=self.options.lease_ms,
            horizon_ms=self.options.horizon_ms,
            max_run_ms=message.max_run_ms(),
            asked_at=asked_at,
            attempt=message.retries + 1,
            crashes=granted.crashes,
            on_lost=self._lost,
        )
        try:
            keeper.hold(lease)
        except RuntimeError as error:  # no thread can be started: nothing was run yet
            keeper.let_go(lease)
            self._settle(lease, Outcome(State.IDLE))
            self._requeue("its lease cannot be renewed", error)
        self.began_at = monotonic()
        try:
            value = message.run(lease)
        except BaseException as error:
            keeper.let_go(lease)
            return self._after_error(lease, error)
        keeper.let_go(lease)
        return self._after_value(lease, value)

    def _lost(self, lease: Lease) -> None:
        self._event(Event.LEASE_LOST, token=lease.token)

    def _after_value(self, lease: Lease, value: Any) -> Any:
        unfinished = self.message.outcome_of(None)
        if unfinished is not None:
            self._settle(lease, unfinished)
            raise self.message.ending(None) or Drop
        self._settle(lease, self._done(value))
        if self.message.carries:
            self._send(lambda: self.message.send(value))
            self._close()
        return value

    def _done(self, value: Any) -> Outcome:
        data = self.message.dump(value)
        if data is not None and len(data) > self.options.max_result_bytes:
            data = None
        retention_ms = self.options.retention_for(has_key=self.message.has_key)
        return Outcome(State.DONE, data, retention_ms)

    def _after_error(self, lease: Lease, error: BaseException) -> NoReturn:
        if isinstance(error, LeaseLost) and error.key == lease.key:
            self._give_up(lease)
        unfinished = self.message.outcome_of(error)
        if unfinished is not None and unfinished.died:
            self.shelf.note_error(self.store, self.message.job, lease.attempt, error, self.delivery)
        if unfinished is None:
            self._settle(lease, self._failed(error))
            self._fail(error)
        try:
            self._settle(lease, unfinished)
        except (Drop, Requeue):
            if unfinished.state is State.RETRYING or not isinstance(error, Exception):
                raise (self.message.ending(error) or error) from None
            raise
        raise self.message.ending(error) or error

    def _failed(self, error: BaseException) -> Outcome:
        remembered = self.options.when_failed == "remember"
        retention_ms = self.options.retention_for(has_key=self.message.has_key)
        return Outcome(
            State.FAILED, self.message.dump_error(error), retention_ms if remembered else 0
        )

    def _fail(self, error: BaseException) -> NoReturn:
        """Leave with the task's own error, what hangs on the failure being sent first."""
        if self.message.carries_errors:
            self._send(lambda: self.message.send_error(error))
            self._close()
        raise error

    # --- settling -------------------------------------------------------------------------

    def _settle(self, lease: Lease, outcome: Outcome) -> None:
        """Record the outcome, or become a duplicate of oneself."""
        asked_at = monotonic()
        try:
            settled = self._record(lease, outcome)
        except StoreUnavailable as error:
            logger.error("%s: the outcome could not be recorded: %s", self.message.key, error)
            if outcome.state is State.RETRYING:
                return  # the retry is in the broker, and whichever runs next is guarded
            wait_ms = outage_wait_ms(self.message.hop, longest_ms=self._longest_ms())
            self._successor(wait_ms, self._abandoned)
        if isinstance(settled, Stale):
            self._step_aside(lease, settled, outcome)
        elif self.heard(Event.SETTLED):
            self._event(
                Event.SETTLED,
                delivery=self.delivery,
                state=_SETTLED.get(outcome.state, "released"),
                seconds=monotonic() - asked_at,
                ran=asked_at - self.began_at if self.began_at else 0.0,
            )
        lease.end()

    def _record(self, lease: Lease, outcome: Outcome) -> Settled | Stale:
        """Settle, trying again while the lease would have lasted."""
        patient_until = monotonic() + self.options.lease_ms / 1_000
        pause = 0.1
        while True:
            try:
                return self.store.settle(
                    lease.key,
                    token=lease.token,
                    job=self.message.job,
                    line=self.line,
                    outcome=outcome,
                    horizon_ms=self.options.horizon_ms,
                )
            except StoreUnavailable:
                if monotonic() + pause > patient_until:
                    raise
            self.sleep(pause)
            pause = min(pause * 2, 2.0)

    def _step_aside(self, lease: Lease, stale: Stale, outcome: Outcome) -> None:
        """The token is no longer current: this execution is a duplicate like any other."""
        lease.note(ours=False, asked_at=monotonic())
        if outcome.state is State.RETRYING:
            return  # the retry that was published is the successor
        if stale.drop:
            self._event(Event.DEDUPLICATED, reason="overtaken")
            raise Drop
        self._successor(self._turn_ms(self.options.lease_ms))

    def _give_up(self, lease: Lease) -> NoReturn:
        """The body learned that its lease is lost, and stopped."""
        self._settle(lease, Outcome(State.IDLE))
        self._successor(self._turn_ms(0))

    # --- answering in the body's place ----------------------------------------------------

    def _answer(self, answer: Answer) -> Any:
        if isinstance(answer, Superseded):
            self._event(Event.DEDUPLICATED, reason=answer.reason)
            if answer.reason == "replaced":
                self.message.revoke(answer.reason)
            raise Drop
        if isinstance(answer, Busy):
            self._wait_for_turn(answer)
        if isinstance(answer, Early):
            self._successor(min(answer.remaining_ms, self._longest_ms() or answer.remaining_ms))
        if isinstance(answer, Finished):
            try:
                return self._replay(answer)
            except Requeue:
                self._spare()
                raise
        if isinstance(answer, Poisoned):
            self._quarantine(answer)
        if isinstance(answer, Reused):
            raise IdempotencyKeyReused(self.message.key)
        return self._wait_for_turn(Busy(self.options.lease_ms, same_job=False), may_skip=False)

    def _wait_for_turn(self, busy: Busy, *, may_skip: bool = True) -> NoReturn:
        skips = self.options.when_running == "skip" and may_skip
        if skips and not busy.same_job and not self.message.flows:
            self._event(Event.DEDUPLICATED, reason="running")
            raise Drop
        if not self.message.can_wait:
            raise AlreadyRunning(self.message.key, busy.remaining_ms / 1_000)
        self._successor(self._turn_ms(busy.remaining_ms, newer=busy.newer))

    def _turn_ms(self, remaining_ms: int, *, newer: bool = False) -> int:
        return turn_wait_ms(
            remaining_ms,
            self.message.hop,
            lease_ms=self.options.lease_ms,
            newer=newer,
            longest_ms=self._longest_ms(),
        )

    def _longest_ms(self) -> int | None:
        return self.message.longest_wait_ms

    def _replay(self, finished: Finished) -> Any:
        if not finished.same_job and self.options.when_done == "skip" and not self.message.flows:
            self._event(Event.DEDUPLICATED, reason="done")
            self._close_replay(finished)
            raise Drop
        self._event(Event.REPLAYED, state=finished.state.name.lower(), same_job=finished.same_job)
        if finished.state is State.FAILED:
            return self._replay_error(finished)
        if finished.outcome is None:
            return self._replay_error(finished, ResultNotKept(self.message.key))
        try:
            value = self.message.load(finished.outcome)
        except Exception as error:  # written by another serializer, before a deploy
            logger.warning("%s: its result cannot be read: %s", self.message.key, error)
            return self._replay_error(finished, ResultNotKept(self.message.key))
        second_look_ms = self.message.second_look_ms
        if finished.same_job and finished.replays == 1 and second_look_ms:
            self._publish_successor(second_look_ms)  # first: sending takes the chord off
            self._send(lambda: self.message.send(value))
            return value
        self._send(lambda: self.message.send(value))
        self._close_replay(finished)
        return value

    def _replay_error(self, finished: Finished, error: BaseException | None = None) -> NoReturn:
        if error is None:
            stored = finished.outcome
            error = (
                ResultNotKept(self.message.key)
                if stored is None
                else self.message.load_error(stored)
            )
        self._send(lambda: self.message.send_error(error))
        self._close_replay(finished)
        raise error

    def _spare(self) -> None:
        """A replay that could not be sent is no death."""
        try:
            self.store.spare(self.message.key, job=self.message.job, delivery=self.delivery)
        except StoreUnavailable as error:  # it counts as one
            logger.warning("%s: %s", self.message.key, error)

    def _close_replay(self, finished: Finished) -> None:
        """A job that was answered has ended; another job's copy may outlast the key's retention."""
        if finished.same_job or finished.left_ms < self.options.horizon_ms:
            self._close()

    def _quarantine(self, poisoned: Poisoned) -> NoReturn:
        error = Quarantined(self.message.key, poisoned.crashes)
        try:
            self._bury(str(error), poisoned.death)
        except StoreUnavailable as outage:
            self._wait_for_store(outage)
        self._event(Event.QUARANTINED, crashes=poisoned.crashes)
        self._send(lambda: self.message.send_error(error))
        self._close()
        raise error

    def _bury(self, reason: str, death: Death | None) -> None:
        at_ms, job = round(time.time() * 1_000), self.message.job
        past = self.shelf.past(self.store, job, death)
        self.shelf.bury(
            self.store,
            job,
            self.message.letter(reason, at_ms, past),
            at_ms=at_ms,
            dropped=lambda other: self._event(Event.LETTER_DROPPED, dropped=other),
        )

    # --- without the store ----------------------------------------------------------------

    def _without_store(self, error: StoreUnavailable) -> Any:
        if self.options.when_store_down == "run":
            self._event(Event.UNGUARDED, error=error)
            if self.heard(Event.CLAIMED):
                self._tell_claimed(None, monotonic())
            lease = Lease(None, self.message.key, 0, lease_ms=self.options.lease_ms)
            return self.message.run(lease)
        return self._wait_for_store(error)

    def _wait_for_store(self, error: StoreUnavailable) -> NoReturn:
        if not self.message.can_wait:
            raise error
        self._event(Event.DEFERRED, wait=None, error=error)
        wait_ms = outage_wait_ms(self.message.hop, longest_ms=self._longest_ms())
        self._publish_or_requeue(wait_ms, self._abandoned)
        raise Drop

    @property
    def _abandoned(self) -> tuple[str, ...]:
        """Deliveries that leave the job to a successor, and may still hold it in the record."""
        return (*self.message.abandoned, self.delivery)

    # --- publishing -----------------------------------------------------------------------

    def _successor(self, wait_ms: int, abandoned: tuple[str, ...] = ()) -> NoReturn:
        """Leave the job to a successor of this message."""
        if not self.message.can_wait:
            raise LeaseLost(self.message.key, self.options.lease_ms / 1_000, 0.0)
        self._publish_successor(wait_ms, abandoned)
        raise Drop

    def _publish_successor(self, wait_ms: int, abandoned: tuple[str, ...] = ()) -> None:
        self._event(Event.DEFERRED, wait=wait_ms / 1_000)
        self._publish_or_requeue(wait_ms, abandoned)
        try:
            self.store.advance(
                self.message.key,
                job=self.message.job,
                line=self.line + 1,
                horizon_ms=self.options.horizon_ms,
            )
        except StoreUnavailable as error:  # only older copies are not recognised as such
            logger.warning("%s: %s", self.message.key, error)

    def _publish_or_requeue(self, wait_ms: int, abandoned: tuple[str, ...] = ()) -> None:
        try:
            self.message.defer(wait_ms, abandoned)
        except Exception as error:
            self._requeue("its successor could not be published", error)

    def _send(self, send: Callable[[], None]) -> None:
        """Send what hangs on the message; a failure gives the delivery back, never ends the job."""
        patient_until = monotonic() + SEND_PATIENCE
        pause = 0.5
        while True:
            try:
                return send()
            except Unsendable:
                return None
            except Exception as error:
                if monotonic() + pause > patient_until or not self.message.can_wait:
                    self._requeue("what hangs on it could not be sent", error)
            self.sleep(pause)
            pause *= 2

    def _requeue(self, why: str, error: Exception) -> NoReturn:
        logger.error("%s: %s and is given back: %s", self.message.key, why, error)
        self.sleep(PAUSE_BEFORE_REQUEUE)
        raise Requeue(why) from error

    def _close(self) -> None:
        try:
            self.store.close(
                self.message.key,
                job=self.message.job,
                horizon_ms=self.options.horizon_ms,
                line=self.line,
            )
        except StoreUnavailable as error:  # a copy would replay once more
            logger.warning("%s: %s", self.message.key, error)
