"""What the figures mean: the table's rows, the last words, the exit status (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reliable_tasks.demo.journal import Kind
from reliable_tasks.demo.tally import Tally

__all__ = ("Verdict", "rows")

NAMED_AT_MOST = 20


def rows(tally: Tally) -> Iterator[tuple[str, int]]:
    """Yield the rows of the table, from counts alone."""
    counts = tally.counts
    yield "jobs (payments)", tally.jobs
    yield "messages published", counts[Kind.SENT]
    yield "deliveries", counts[Kind.DELIVERED]
    yield "crashes", tally.crashes
    yield "pauses past the lease", counts[Kind.RESUMED]
    yield "replays", counts[Kind.REPLAYED]
    yield "deferrals", counts[Kind.DEFERRED]
    yield "leases lost", counts[Kind.LEASE_LOST]
    yield "charges", tally.charges.total()
    yield "lost", len(tally.lost)
    yield "doubled", len(tally.doubled)


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    Whether the guarded side kept its promise.

    Args:
        tally: Its figures.
        finished: Whether the broker was empty at the end.
    """

    tally: Tally
    finished: bool

    @property
    def unexplained(self) -> list[int]:
        """Payments that were doubled without a good reason."""
        return [each for each in self.tally.doubled if self.tally.reason(each) is None]

    @property
    def is_kept(self) -> bool:
        """Whether none was lost, and none doubled but in the window that is named."""
        return self.finished and not self.tally.lost and not self.unexplained

    def lines(self) -> Iterator[tuple[bool, str]]:
        """Yield sentences, and whether each is as it should be."""
        yield (
            self.finished,
            "everything was worked off" if self.finished else "not finished in time",
        )
        yield not self.tally.lost, f"lost: {_listed(self.tally.lost)}"
        yield not self.unexplained, f"doubled without a good reason: {_listed(self.unexplained)}"
        for payment in self.tally.doubled:
            if reason := self.tally.reason(payment):
                times = self.tally.charges[payment]
                yield True, f"payment {payment} was charged {times} times: {reason}"


def _listed(payments: list[int]) -> str:
    if not payments:
        return "none"
    more = f" and {len(payments) - NAMED_AT_MOST} more" if len(payments) > NAMED_AT_MOST else ""
    return "payments " + ", ".join(str(each) for each in payments[:NAMED_AT_MOST]) + more
