"""From the lines of a journal to what is told while it happens (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reliable_tasks.demo.journal import Entry, Kind
from reliable_tasks.demo.plan import Point
from reliable_tasks.demo.site import Side

__all__ = ("Event", "Story")

_LINES = {
    Kind.KILLED: ("crash", "{victim} was killed {point}"),
    Kind.DIED: ("crash", "{victim} was ended {point}"),
    Kind.PAUSED: ("pause", "{victim} is stopped {point}"),
    Kind.RESUMED: ("goes on", "{victim}, after {seconds:.1f} s"),
    Kind.REPLAYED: ("replay", "done before, its copy gets the stored answer"),
    Kind.DEFERRED: ("deferral", "not its turn, it waits {wait:.1f} s"),
    Kind.DROPPED: ("dropped", "a copy, as {reason}"),
    Kind.LEASE_LOST: ("lost lease", "was taken over, the late execution steps aside"),
    Kind.QUARANTINED: ("quarantine", "after {crashes} crashes"),
}
_REASONS = {
    "closed": "the job has ended",
    "older": "a newer one is under way",
    "overtaken": "another execution has taken over",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One line on the screen."""

    at: float  # seconds since 1970
    side: Side
    title: str
    text: str


@dataclass(slots=True)
class Story:
    """Tells what matters on one side, and remembers what it takes to tell it."""

    side: Side
    _struck: dict[int, tuple[str, float]] = field(default_factory=dict)  # payment: run, when
    _charged: set[int] = field(default_factory=set)
    _in_window: set[int] = field(default_factory=set)

    def tell(self, entry: Entry) -> Event | None:
        """Return the line for an entry, or None if it does not matter."""
        if entry.kind is Kind.STARTED:
            return self._takeover(entry)
        if entry.kind is Kind.CHARGED:
            return self._doubled(entry)
        self._remember(entry)
        if entry.kind not in _LINES:
            return None
        title, text = _LINES[entry.kind]
        return self._event(entry, title, text.format(**_readable(entry.facts)))

    def _remember(self, entry: Entry) -> None:
        if entry.kind in (Kind.KILLED, Kind.DIED, Kind.PAUSED):
            self._struck[entry.payment] = (entry.run, entry.at)
            if entry.kind is Kind.KILLED and entry.facts["point"] == Point.AFTER:
                self._in_window.add(entry.payment)

    def _takeover(self, entry: Entry) -> Event | None:
        run, at = self._struck.get(entry.payment, (entry.run, 0.0))
        if run == entry.run:
            return None
        del self._struck[entry.payment]
        title = "takeover" if self.side is Side.GUARDED else "rerun"
        return self._event(entry, title, f"runs again, {entry.at - at:.1f} s later")

    def _doubled(self, entry: Entry) -> Event | None:
        if entry.payment not in self._charged:
            self._charged.add(entry.payment)
            return None
        known = entry.payment in self._in_window
        why = ", as the crash fell before the record of the charge" if known else ""
        return self._event(entry, "DOUBLED", f"charged again{why}")

    def _event(self, entry: Entry, title: str, text: str) -> Event:
        return Event(entry.at, self.side, title, f"payment {entry.payment}: {text}")


def _readable(facts: dict[str, Any]) -> dict[str, Any]:
    reason = facts.get("reason")
    return {**facts, "reason": _REASONS.get(str(reason), reason), "wait": facts.get("wait") or 0.0}
