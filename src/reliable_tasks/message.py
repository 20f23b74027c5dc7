"""What the guard needs of one delivery, and the ways in which it leaves one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from reliable_tasks.leases import Lease

if TYPE_CHECKING:
    from reliable_tasks.core.records import Outcome

__all__ = (
    "PAUSE_BEFORE_REQUEUE",
    "Drop",
    "Event",
    "Heard",
    "Listener",
    "Message",
    "Requeue",
    "Unsendable",
)

PAUSE_BEFORE_REQUEUE = 1.0  # seconds; a broker that is down must not be hammered


class Drop(Exception):
    """This delivery is over: acknowledge it without a result."""


class Requeue(Exception):
    """Nothing could be done with this delivery: give it back to the broker."""


class Unsendable(Exception):
    """What hangs on the message can never be sent as it is; Celery reports it as a failure."""


class Event:
    """Names of what a guard tells its listener."""

    REPLAYED = "replayed"
    DEFERRED = "deferred"
    DEDUPLICATED = "deduplicated"
    SUPPRESSED = "suppressed"
    LEASE_LOST = "lease_lost"
    QUARANTINED = "quarantined"
    UNGUARDED = "unguarded"
    LETTER_DROPPED = "letter_dropped"
    CLAIMED = "claimed"
    SETTLED = "settled"


class Message(Protocol):
    """One delivery, as the guard needs it."""

    @property
    def key(self) -> str:
        """The record."""
        ...

    @property
    def job(self) -> str:
        """The task id."""
        ...

    @property
    def payload(self) -> str:
        """Digest of the arguments that must agree, or nothing."""
        ...

    @property
    def retries(self) -> int:
        """Celery's count of retries."""
        ...

    @property
    def hop(self) -> int:
        """How many successors came before, with the same retries."""
        ...

    @property
    def abandoned(self) -> tuple[str, ...]:
        """Deliveries of its forerunners that are over, though the store may not know it."""
        ...

    @property
    def turn(self) -> int:
        """Its place among the calls of a unique task; see `Store.claim`."""
        ...

    @property
    def has_key(self) -> bool:
        """Whether other jobs can share the key."""
        ...

    @property
    def can_wait(self) -> bool:
        """Whether there is a queue to wait in; False in eager mode."""
        ...

    @property
    def carries(self) -> bool:
        """Whether anything is to be sent after success: callbacks, a next link, a chord's count."""
        ...

    @property
    def carries_errors(self) -> bool:
        """Whether anything is to be sent after failure: errbacks, a chord's error, a chain's."""
        ...

    @property
    def flows(self) -> bool:
        """Whether anything waits for this message, so that it must never be skipped."""
        ...

    @property
    def second_look_ms(self) -> int | None:
        """For a chord member: when to look again whether its completer died; else None."""
        ...

    @property
    def longest_wait_ms(self) -> int | None:
        """How long the broker safely holds a delayed message."""
        ...

    def run(self, lease: Lease) -> Any:
        """Run the body."""
        ...

    def outcome_of(self, error: BaseException | None) -> Outcome | None:
        """Say what an error means; None: the job failed (or, without an error, is done)."""
        ...

    def ending(self, error: BaseException | None) -> BaseException | None:
        """Return the error with which an execution that has not ended its job is left."""
        ...

    def defer(self, wait_ms: int, abandoned: tuple[str, ...] = ()) -> None:
        """Publish a successor of this message, one hop on, that names *abandoned* deliveries."""
        ...

    def revoke(self, reason: str) -> None:
        """Let whoever waits for the result know that there will be none."""
        ...

    def send(self, value: Any) -> None:
        """Send what hangs on the message after success, and take it off the message."""
        ...

    def send_error(self, error: BaseException) -> None:
        """Send what hangs on the message after failure, and take it off the message."""
        ...

    def dump(self, value: Any) -> bytes | None:
        """Return the stored form of a result, None if it has none."""
        ...

    def load(self, data: bytes) -> Any:
        """Undo `dump`."""
        ...

    def dump_error(self, error: BaseException) -> bytes | None:
        """Return the stored form of an error, None if it has none."""
        ...

    def load_error(self, data: bytes) -> BaseException:
        """Undo `dump_error`."""
        ...

    def letter(self, reason: str, at_ms: int, past: Sequence[Mapping[str, Any]]) -> bytes:
        """Return the whole message, and what is known of its *past* attempts, to be kept."""
        ...

    def max_run_ms(self) -> int:
        """Return when renewal of this execution ends."""
        ...


Listener = Callable[[str, Message, dict[str, Any]], None]
"""Told the name of an `Event`, the message, and details."""

Heard = Callable[[str], bool]
"""Asked whether anybody wants to be told of an `Event` that comes with every execution."""
