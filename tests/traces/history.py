"""What happened, counted apart from the library, and what of it breaks a promise."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.traces.delivery import Delivery

__all__ = ("Broken", "Diverged", "History")


class Broken(AssertionError):
    """A promise was not kept."""


class Diverged(Exception):
    """The history did not come to the step that the test speaks of."""


@dataclass
class History:
    """What happened, counted apart from the library, and every promise that broke on the way."""

    effects: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    excuses: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    results: dict[str, str] = field(default_factory=dict)
    callbacks: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    tokens: dict[str, int] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)
    quarantined: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    deaths: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    unrecorded_deaths: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def took_effect(self, run: Delivery) -> None:
        """Count one effect for the key, or for the job where no key is shared."""
        self.effects[run.key].append(run.job)

    def excuse(self, key: str) -> None:
        """One more effect on *key* is within the promises."""
        self.excuses[key] += 1

    def sent(self, job: str, result: str) -> None:
        """What hangs on the job was sent."""
        self.callbacks[job] += 1

    def reported(self, job: str, result: str, *, quarantined: bool = False) -> None:
        """The result backend has an outcome; a quarantine may be told beside another."""
        before = self.results.get(job)
        if quarantined:
            self.results.setdefault(job, "Q")
            return
        if before not in (None, "Q", result):
            self.broken.append(f"{job}: {before} was overwritten by {result}")
        self.results[job] = result
