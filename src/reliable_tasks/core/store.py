"""What every store of records promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from reliable_tasks.core.records import (
        Answer,
        Confirmation,
        Duplicate,
        Outcome,
        Record,
        Reservation,
        Reserved,
        Settled,
        Stale,
    )

__all__ = ("SURPLUS_AT_ONCE", "Store")

SURPLUS_AT_ONCE = 100
"""Letters that `Store.bury` names as too many, at most."""


@runtime_checkable
class Store(Protocol):
    """
    Where records live. Each method is one atomic step and may be repeated.

    Asking again with the same arguments after a lost reply gives the same
    answer and changes nothing more. Leases, retention and expiry are judged by
    the store's own clock. Every method raises `StoreUnavailable` when the store
    does not answer; the step may then have happened or not.

    Throughout, *key* is a record key (`core.keys`), *job* a task id, *line* the
    place of a message among those of its job (`lines.line_of`), *horizon_ms*
    how long no record may be forgotten after its last change.
    """

    @property
    def identity(self) -> str:
        """Names the place where the records live, without credentials."""
        ...

    def claim(
        self,
        key: str,
        *,
        delivery: str,
        job: str,
        line: int,
        lease_ms: int,
        horizon_ms: int,
        max_crashes: int,
        payload: str = "",
        abandoned: Sequence[str] = (),
        turn: int = 0,
    ) -> Answer:
        """
        Ask whether one delivery of *job* may run.

        Args:
            key: The record.
            delivery: Random, new for each delivery. The same one gets the same
                answer and the same token again.
            job: The task id.
            line: Which message of the job this is.
            lease_ms: Length of the lease if it is granted, at least 1.
            horizon_ms: See the class.
            max_crashes: Deaths and unfinished replays before quarantine, at least 1.
            payload: Digest of the arguments that jobs of one key must share, or ``""``.
            abandoned: Earlier deliveries of *job* that are over, though the store may not
                have heard of it. What they hold is free, and is no death.
            turn: What `reserve` gave the message: above 0, its place among the calls of the key;
                a later one that was published takes it. Below 0, when the call was due in
                microseconds, negated: a job that was done only after that answers it. 0: neither.

        Returns:
            `Granted` if it may run; every other answer says why not.
        """
        ...

    def renew(
        self, leases: Sequence[tuple[str, int]], *, lease_ms: int, horizon_ms: int
    ) -> list[bool]:
        """
        Lengthen the leases that are still ours, given as (key, token), to *lease_ms* from now.

        Returns, for each, whether it still was. A token that had been taken for
        dead takes its crash off the record's count by asking.
        """
        ...

    def settle(
        self, key: str, *, token: int, job: str, line: int, outcome: Outcome, horizon_ms: int
    ) -> Settled | Stale:
        """
        Record how the execution that holds *token* ended.

        A record that vanished meanwhile is written anew: nobody else ran. When
        the token is not current, nothing changes (but a suspected crash is taken back).
        """
        ...

    def close(self, key: str, *, job: str, horizon_ms: int, line: int | None = None) -> None:
        """
        Note that what hangs on the job's message was sent: its copies are dropped from now.

        With the *line* of that message, nothing is noted of a job that was reopened since.
        """
        ...

    def spare(self, key: str, *, job: str, delivery: str) -> None:
        """
        Note that a replay ended without closing the job, and that its process lives.

        What was counted when *delivery* was answered with the outcome is taken back,
        unless another delivery was answered since.
        """
        ...

    def end(self, key: str, *, job: str, killed: bool, horizon_ms: int) -> None:
        """
        Note that the job is over by the word of the worker's main process, or of who revokes it.

        The lease is freed, no crash is counted, and no copy runs again. With
        *killed* false (a message was discarded, nothing was running here) a live
        lease is left alone. A job that has an outcome keeps it.
        """
        ...

    def drain(self, jobs: Sequence[tuple[str, str]]) -> None:
        """Note for each (key, job) that its process is shutting down: a takeover is no crash."""
        ...

    def advance(self, key: str, *, job: str, line: int, horizon_ms: int) -> None:
        """Note that the message at *line* was published: older copies of the job are dropped."""
        ...

    def reserve(self, asks: Sequence[tuple[str, Reservation]]) -> list[Reserved | Duplicate]:
        """
        Ask for each (key, reservation) whether the job may be published, in one round trip.

        Each key is one atomic step of its own. A reservation stops publishes of other jobs
        of its key until the job runs, or until it is over; it grants nothing and stops no
        execution. A key that is quarantined, or whose job has ended, is never reserved:
        such a message is published, and judged when it comes to a worker.

        Returns:
            For each, `Reserved`, or the `Duplicate` that makes the publish superfluous.
        """
        ...

    def begin_reserve(self, key: str, ask: Reservation) -> Callable[[], Reserved | Duplicate]:
        """
        Ask as `reserve` does for one key, and let the caller go on before the store answers.

        Returns:
            What waits for the answer, to be called by the same thread. It may be forgotten: then
            it is not known whether the key was reserved.

        Raises:
            StoreUnavailable: Now, or when the answer is waited for.
        """
        ...

    def confirm(self, words: Sequence[tuple[str, Confirmation]]) -> None:
        """
        Note that the reserved jobs were published: each reservation lasts as long as it may wait.

        Nothing is reserved by it. It may return before the store has answered, and then
        raises nothing if it does not: the reservation only ends sooner.
        """
        ...

    def unreserve(self, key: str, *, job: str) -> None:
        """Take the job's reservation and its window back: it was not published."""
        ...

    def peek(self, key: str) -> Record | None:
        """Return the record as it is, or None."""
        ...

    def forget(self, key: str) -> bool:
        """Delete the record; returns whether there was one. For operators."""
        ...

    def scan(self, prefix: str = "") -> Iterator[str]:
        """
        Yield the keys of all records that start with *prefix*, in no order.

        Dead-letter shelves are no records, nor is what others keep in the same place.
        """
        ...

    def reopen(self, key: str, *, job: str, line: int, horizon_ms: int) -> bool:
        """
        Let a job run again by an operator's word, as the message at *line*; older ones stay older.

        Deaths and replays are forgotten, and a quarantine of the key is over. A job that failed is
        as if it had not ended; one that is done keeps its outcome, and what hangs on its message
        is sent again.

        Args:
            key: The record.
            job: The task id.
            line: Above that of every earlier message of the job.
            horizon_ms: See the class.

        Returns:
            Whether a message at *line* is to be published, now or when it was asked first. False:
            the job runs or waits for its retry, or a newer message of it exists; nothing changed.
        """
        ...

    def jot(self, name: str, line: bytes, *, most: int, keep_ms: int) -> None:
        """
        Append *line* to a short list that ends by itself, *keep_ms* after its last line.

        The oldest lines beyond *most* go. A lost reply may double a line.
        """
        ...

    def jot_each(self, lines: Sequence[tuple[str, bytes]], *, most: int, keep_ms: int) -> None:
        """Append (name, line) each to its own list as `jot` does, in one round trip."""
        ...

    def jottings(self, name: str) -> list[bytes]:
        """Return the lines of a list, the oldest first; none if there is no list."""
        ...

    def bury(
        self, shelf: str, job: str, letter: bytes, *, at_ms: int, most: int, oldest_ms: int
    ) -> list[tuple[str, int]]:
        """
        Keep *letter*, the whole message of *job*, on a shelf, in place of an earlier one.

        Nothing is dropped here: what is too much is named, to be logged and then taken off.

        Args:
            shelf: From `keys.shelf_name`.
            job: The task id.
            letter: Any bytes.
            at_ms: When it was written, in milliseconds since 1970.
            most: How many letters the shelf may hold.
            oldest_ms: How much older than *at_ms* a letter may be.

        Returns:
            (job, at_ms) of other letters that are too old or too many, the oldest first,
            `SURPLUS_AT_ONCE` at most.
        """
        ...

    def letters(self, shelf: str) -> Iterator[tuple[str, bytes]]:
        """Yield (job, letter) of all dead letters on *shelf*, in no order."""
        ...

    def letter(self, shelf: str, job: str) -> bytes | None:
        """Return the letter of one job, or None."""
        ...

    def letter_count(self, shelf: str) -> int:
        """Return how many dead letters there are on *shelf*."""
        ...

    def unbury(self, shelf: str, job: str, *, at_ms: int) -> bool:
        """Take the letter that *job* got at *at_ms* off; returns whether it was there."""
        ...
