"""One delivery in a fake worker: the guard's `Message`, and what Celery's tracer does around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reliable_tasks.burial import Shelf
from reliable_tasks.core.records import Outcome, State
from reliable_tasks.errors import Quarantined
from reliable_tasks.guard import Guard
from reliable_tasks.leases import Lease
from reliable_tasks.message import Drop, Requeue
from tests.traces.broker import Held
from tests.traces.stepping import Steps

if TYPE_CHECKING:
    from tests.traces.world import Worker

__all__ = ("SHELF", "BrokerDown", "Delivery", "Exiting", "GivesUp", "PublishedRetry", "TaskError")


SHELF = Shelf("traces")
TICK = 0.001  # seconds that a step takes


class TaskError(Exception):
    """The task's own error."""


class BrokerDown(Exception):
    """Nothing can be published."""


class GivesUp(Exception):
    """The body hands its delivery back, as Reject(requeue=True) does."""


class PublishedRetry(Exception):
    """The body's retry is in the broker, as Celery's Retry says."""


class Exiting(BaseException):
    """The pool ends the process, as SystemExit does at a shutdown."""


class Delivery:
    """
    One message from its arrival until it is acknowledged, step by step.

    Attributes:
        lease: What was granted, or nothing.
        effects: How often the body took effect under this lease.
        is_recorded: Whether the store has answered its settle.
        is_excused: Whether another effect is allowed for it.
        overslept: Whether the lease ended while its process stood still.
        answered_us: When the store answered its claim.
        is_counted: Whether that answer is a death if nothing more is heard.
    """

    can_wait = True
    second_look_ms = None
    longest_wait_ms = None

    def __init__(self, worker: Worker, held: Held) -> None:
        self.worker, self.world, self.held = worker, worker.world, held
        self.message = letter = held.letter
        self.key, self.job, self.payload = letter.key, letter.job, letter.payload
        self.retries, self.hop, self.has_key = letter.retries, letter.hop, letter.has_key
        self.abandoned, self.turn = letter.abandoned, letter.turn
        self.carries = self.carries_errors = letter.carries
        self.lease: Lease | None = None
        self.token = self.effects = self.answered_us = 0
        self.is_recorded = self.is_excused = self.overslept = self.is_counted = False
        self._retried_in_ms: int | None = None
        self.steps = Steps(self._trace)

    def __str__(self) -> str:
        return f"{self.worker.name}: {self.message}"

    @property
    def seems_dead(self) -> bool:
        """Whether nothing was heard of it for a lease."""
        silent_ms = (self.world.clock.now_us() - self.answered_us) // 1_000
        if self.lease is None:
            is_silent = silent_ms >= self.world.options.lease_ms
        else:
            is_silent = self.lease.remaining <= 0 and not self.lease.lost
        return is_silent or not self.worker.is_awake

    # --- what a body may do ---------------------------------------------------------------

    def take_effect(self) -> None:
        """Do what must be done once."""
        self.step("effect")
        self.effects += 1
        self.world.history.took_effect(self)

    def retry(self, wait: float = 5.0) -> None:
        """Publish the job's retry and leave, as `Task.retry` does."""
        self.step("retry")
        if "retry" in self.world.outages:
            self.sleep(1.0)
            raise GivesUp
        due_us = self.world.clock.now_us() + round(wait * 1_000_000)
        self.world.publish(
            replace(self.message, retries=self.retries + 1, hop=0, due_us=due_us, abandoned=())
        )
        self._retried_in_ms = round(wait * 1_000)
        raise PublishedRetry

    def step(self, name: str) -> None:
        """Stand still before something that others can see."""
        self.steps.stop_before(name)
        self.world.clock.advance(TICK)
        self.world.log(f"{self}: {name}")

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.step("sleep")
        self.world.elapse(seconds)

    # --- Celery's tracer ------------------------------------------------------------------

    def _trace(self, _: Steps) -> None:
        guard = Guard(
            lambda: self.worker.store,
            self.world.options,
            shelf=SHELF,
            tell=self.world.hears,
            sleep=self.sleep,
        )
        try:
            value = guard.execute(self)
        except Drop:
            self._leave(give_back=False)
        except (Requeue, GivesUp):
            self._leave(give_back=True)
        except (PublishedRetry, Exiting) as error:
            self._leave(give_back=isinstance(error, Exiting))
        except Exception as error:
            self._report("F", ends=isinstance(error, Quarantined))
        else:
            assert value == f"result of {self.key}"
            self._report("S")

    def _report(self, result: str, *, ends: bool = False) -> None:
        self.step("report")
        self.world.history.reported(self.job, result, quarantined=ends)
        self._leave(give_back=False)

    def _leave(self, *, give_back: bool) -> None:
        self.step("give back" if give_back else "ack")
        if give_back:
            self.world.broker.give_back(self.held)
        else:
            self.world.broker.acknowledge(self.held)

    # --- the guard's port -----------------------------------------------------------------

    @property
    def flows(self) -> bool:
        return self.message.carries

    def run(self, lease: Lease) -> Any:
        self.lease = lease
        self.step("body")
        self.message.body(self)
        return f"result of {self.key}"

    def outcome_of(self, error: BaseException | None) -> Outcome | None:
        if self._retried_in_ms is not None:
            return Outcome(
                State.RETRYING, keep_ms=self._retried_in_ms + self.world.options.lease_ms
            )
        if isinstance(error, GivesUp):
            return Outcome(State.IDLE)
        if error is not None and not isinstance(error, Exception):
            return Outcome(State.IDLE, died=True)
        return None

    def ending(self, error: BaseException | None) -> BaseException | None:
        return error

    def defer(self, wait_ms: int, abandoned: tuple[str, ...] = ()) -> None:
        self.step("publish")
        if "publish" in self.world.outages:
            raise BrokerDown
        due_us = self.world.clock.now_us() + wait_ms * 1_000
        self.world.publish(
            replace(self.message, hop=self.hop + 1, due_us=due_us, abandoned=abandoned)
        )

    def revoke(self, reason: str) -> None:
        self.world.history.skipped.add(self.job)

    def send(self, value: Any) -> None:
        self._send("S")

    def send_error(self, error: BaseException) -> None:
        self._send("F", quarantined=isinstance(error, Quarantined))

    def _send(self, result: str, *, quarantined: bool = False) -> None:
        self.step("send")
        if "send" in self.world.outages:
            raise BrokerDown
        if self.message.carries:
            self.world.history.sent(self.job, result)
        self.world.history.reported(self.job, result, quarantined=quarantined)

    def dump(self, value: Any) -> bytes | None:
        return str(value).encode()

    def load(self, data: bytes) -> Any:
        return data.decode()

    def dump_error(self, error: BaseException) -> bytes | None:
        return type(error).__name__.encode()

    def load_error(self, data: bytes) -> BaseException:
        return TaskError(data.decode())

    def letter(self, reason: str, at_ms: int, past: Sequence[Mapping[str, Any]]) -> bytes:
        return str(self.message).encode()

    def max_run_ms(self) -> int:
        return self.world.options.max_run_for(None)
