"""From the lines of a journal to the figures of the table (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from reliable_tasks.demo.journal import Entry, Kind

__all__ = ("Tally",)


@dataclass(slots=True)
class _Execution:
    """One run of the body, as far as its process got."""

    payment: int
    pid: int
    charged_at: float | None = None
    paused_at: float | None = None


@dataclass(slots=True)
class Tally:
    """
    Counts what happened on one side.

    Args:
        jobs: Payments that were asked for, numbered from 1.
        lease_seconds: A pause that is longer than this is longer than the lease.
    """

    jobs: int
    lease_seconds: float
    counts: Counter[Kind] = field(default_factory=Counter)
    charges: Counter[int] = field(default_factory=Counter)
    _chargers: dict[int, list[str]] = field(default_factory=dict)  # payment: runs, in order
    _running: dict[str, _Execution] = field(default_factory=dict)
    _excuses: dict[str, str] = field(default_factory=dict)  # by run

    def add(self, entries: Iterable[Entry]) -> None:
        """Count further lines."""
        for entry in entries:
            self.counts[entry.kind] += 1
            self._follow(entry)

    def _follow(self, entry: Entry) -> None:
        if entry.kind is Kind.DELIVERED:
            self._running[entry.run] = _Execution(entry.payment, entry.pid)
        if entry.kind is Kind.CHARGED:
            self.charges[entry.payment] += 1
            self._chargers.setdefault(entry.payment, []).append(entry.run)
        execution = self._running.get(entry.run)
        if execution is not None:
            self._follow_on(execution, entry)

    def _follow_on(self, execution: _Execution, entry: Entry) -> None:
        if entry.kind is Kind.CHARGED:
            execution.charged_at = entry.at
        elif entry.kind is Kind.PAUSED:
            execution.paused_at = entry.at
        elif entry.kind is Kind.RESUMED:
            self._judge_pause(execution, entry)
        elif entry.kind in (Kind.KILLED, Kind.DIED):
            if execution.charged_at is not None:
                self._excuse(entry, "was killed")
            del self._running[entry.run]
        elif entry.kind is Kind.LEFT:
            del self._running[entry.run]

    def _judge_pause(self, execution: _Execution, resumed: Entry) -> None:
        paused_at, charged_at = execution.paused_at, execution.charged_at
        if paused_at is None or charged_at is None:
            return  # the charge comes after the pause: there is time to learn of the take-over
        if resumed.at - paused_at > self.lease_seconds:
            self._excuse(resumed, f"was paused for {resumed.at - paused_at:.1f} s")

    def _excuse(self, entry: Entry, what: str) -> None:
        victim = entry.facts["victim"]
        self._excuses[entry.run] = f"{victim} {what} between the charge and its record"

    @property
    def in_hand(self) -> list[tuple[str, int, int]]:
        """Run, payment and process id of each delivery in the hands of a pool process."""
        return [(run, each.payment, each.pid) for run, each in self._running.items()]

    @property
    def crashes(self) -> int:
        """Processes that ended in the middle of a payment."""
        return self.counts[Kind.KILLED] + self.counts[Kind.DIED]

    @property
    def charged(self) -> int:
        """Payments that took effect, once or more."""
        return sum(1 for payment in range(1, self.jobs + 1) if self.charges[payment])

    @property
    def lost(self) -> list[int]:
        """Payments that never took effect."""
        return [payment for payment in range(1, self.jobs + 1) if not self.charges[payment]]

    @property
    def doubled(self) -> list[int]:
        """Payments that took effect more than once."""
        return sorted(payment for payment, count in self.charges.items() if count > 1)

    def reason(self, payment: int) -> str | None:
        """Why a payment took effect more than once: what befell each execution but the last."""
        befell = [self._excuses.get(run) for run in self._chargers.get(payment, [])[:-1]]
        reasons = [each for each in befell if each is not None]
        return "; ".join(reasons) if reasons and len(reasons) == len(befell) else None
