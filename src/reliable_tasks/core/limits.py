"""
Retry budgets and circuit breakers: the rules, as every store applies them (pure).

A budget is a calendar. Each second of it has as many places as retries are allowed, and
each retry takes the first free place at or after the moment at which it wants to run. So
in no second more retries are due than allowed, whatever their waits were, and none is
refused: what exceeds the budget is due later, by a day at most.

A breaker counts failures and successes in ten slices of its window. It opens when enough
calls failed and no more succeeded. When it has been open for its time, it lets a few
probes through; if all of them succeed it closes, and the first that fails opens it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

__all__ = (
    "LATE",
    "LONGEST_S",
    "TOKEN_LENGTH",
    "WINDOW_S",
    "Breaker",
    "BreakerTerms",
    "Budget",
    "BudgetTerms",
    "Counts",
    "Limiter",
    "Passage",
)

TOKEN_LENGTH = 8  # characters of the name of a run
WINDOW_S = 10  # over which a budget counts calls
RISE = 1.1  # of the rate, at which the calendar is worth looking through anew
LONGEST_S = 86_400  # that the calendar of a budget is full: what comes then is not held back
SLICES = 10  # of a breaker's window
LATE = 60  # times `open_for` that a probe whose place is free again may still tell how it ended

Counts: TypeAlias = Sequence[tuple[int, int]]
"""What one process counted: (seconds ago, how many), for the last `WINDOW_S` seconds."""


@dataclass(frozen=True, slots=True)
class BudgetTerms:
    """How many retries a second are allowed: so many, and a share of the calls besides."""

    ratio: float
    minimum_per_second: float


@dataclass(frozen=True, slots=True)
class BreakerTerms:
    """When a breaker opens, for how long, and how many probes must succeed to close it."""

    failures: int
    window_ms: int
    open_for_ms: int
    probes: int


@dataclass(frozen=True, slots=True)
class Passage:
    """
    What a breaker answers to one who wants to run.

    Attributes:
        is_open: Whether the run must not begin.
        is_probe: Whether the run decides over the breaker; its end must be reported.
        open_ms: How long the breaker stays open. 0 while probes are under way.
    """

    is_open: bool = False
    is_probe: bool = False
    open_ms: int = 0


@runtime_checkable
class Limiter(Protocol):
    """
    A store that also counts for budgets and breakers.

    Each method is one atomic step, judged by the store's own clock. *token* names a run:
    `TOKEN_LENGTH` characters of ASCII; asking again with the same one gives the same answer
    and counts nothing twice. Every method raises `StoreUnavailable` when the store does not
    answer.
    """

    def withdraw(
        self, key: str, *, token: str, wait_ms: int, calls: Counts, terms: BudgetTerms
    ) -> int:
        """
        Take the first free place of the budget *key* that is *wait_ms* away or more.

        Args:
            key: The budget (`core.keys.limit_key`).
            token: Names the retry.
            wait_ms: How long the retry would wait if it were the only one.
            calls: What was called since the same process asked last.
            terms: How many retries are allowed.

        Returns:
            How far the place is away, in milliseconds.
        """
        ...

    def admit(self, key: str, *, token: str, successes: Counts, terms: BreakerTerms) -> Passage:
        """
        Ask the breaker *key* whether a run may begin.

        Args:
            key: The breaker.
            token: Names the run.
            successes: Runs that succeeded since the same process asked last.
            terms: Of the breaker.
        """
        ...

    def report(
        self, key: str, *, token: str, failed: bool, successes: Counts, terms: BreakerTerms
    ) -> int:
        """
        Tell the breaker *key* that a run failed, or how a probe ended.

        Returns:
            For how many milliseconds the breaker is open now; 0 if it is not.
        """
        ...


# --- the budget ---------------------------------------------------------------------------


@dataclass(slots=True)
class Budget:
    """What a store keeps of a budget; seconds are those since 1970."""

    calls: dict[int, int] = field(default_factory=dict)  # second: how many
    taken: dict[int, list[str]] = field(default_factory=dict)  # second: tokens
    places: dict[str, int] = field(default_factory=dict)  # token: when it is due, in ms
    free_from: int = 0  # no place was free before this second when it was last looked for
    free_at: float = 0.0  # the rate at which that was so

    def withdraw(
        self, token: str, wait_ms: int, calls: Counts, terms: BudgetTerms, now_ms: int
    ) -> int:
        """See `Limiter`."""
        second, due_ms = now_ms // 1_000, now_ms + wait_ms
        self._forget(second)
        if token in self.places:
            return max(0, self.places[token] - now_ms)
        _count(self.calls, second, calls)
        rate = terms.minimum_per_second + terms.ratio * self._calls_at(second) / WINDOW_S
        if self.free_from < second or rate > RISE * self.free_at:
            self.free_from, self.free_at = self._free(second, second, rate), rate
        start = max(due_ms // 1_000, self.free_from)
        found = self._free(second, start, rate)
        if start == self.free_from:
            self.free_from, self.free_at = found, min(rate, self.free_at)
        place_ms = max(due_ms, self._place_ms(found, rate))
        self.taken.setdefault(found, []).append(token)
        self.places[token] = place_ms
        return place_ms - now_ms

    def _calls_at(self, second: int) -> int:
        return sum(self.calls.get(second - age, 0) for age in range(WINDOW_S))

    def _forget(self, second: int) -> None:
        """Forget the seconds that are over, but for the calls in the window."""
        for past in [each for each in self.taken if each < second]:
            for token in self.taken.pop(past):
                del self.places[token]
        for past in [each for each in self.calls if each <= second - WINDOW_S]:
            del self.calls[past]

    def _free(self, now: int, start: int, rate: float) -> int:
        """Return the first second from *start* in which a place is free, or the last of all."""
        last, second = max(start, now + LONGEST_S), start
        while second < last and len(self.taken.get(second, ())) >= _places(second, rate):
            second += 1
        return second

    def _place_ms(self, second: int, rate: float) -> int:
        """Return when the next of the second's places is due: they are evenly spread."""
        taken, places = len(self.taken.get(second, ())), _places(second, rate)
        return second * 1_000 + min(1_000 * taken // max(1, places), 999)


def _places(second: int, rate: float) -> int:
    """Return how many places a second has; a rate of 0.5 gives every other second one."""
    return int(rate * (second + 1)) - int(rate * second)


# --- the breaker --------------------------------------------------------------------------


@dataclass(slots=True)
class Breaker:
    """What a store keeps of a breaker; slices are tenths of its window since 1970."""

    open_until_ms: int = 0  # 0: closed. In the past: half-open
    failures: dict[int, list[str]] = field(default_factory=dict)  # slice: tokens
    successes: dict[int, int] = field(default_factory=dict)  # slice: how many
    probes: dict[str, int] = field(default_factory=dict)  # token: has its place until, in ms
    proven: int = 0  # probes that succeeded

    def admit(self, token: str, successes: Counts, terms: BreakerTerms, now_ms: int) -> Passage:
        """See `Limiter`."""
        if not self.open_until_ms:
            self._add(successes, terms, now_ms)
            return Passage()
        if now_ms < self.open_until_ms:
            return Passage(is_open=True, open_ms=self.open_until_ms - now_ms)
        kept_from = now_ms - LATE * terms.open_for_ms
        self.probes = {each: until for each, until in self.probes.items() if kept_from < until}
        if self.probes.get(token, 0) <= now_ms:
            under_way = sum(now_ms < until for until in self.probes.values())
            if under_way + self.proven >= terms.probes:
                return Passage(is_open=True)
            self.probes[token] = now_ms + terms.open_for_ms
        return Passage(is_probe=True)

    def report(
        self, token: str, failed: bool, successes: Counts, terms: BreakerTerms, now_ms: int
    ) -> int:
        """See `Limiter`."""
        if not self.open_until_ms:
            self._add(successes, terms, now_ms)
            if failed:
                self._note(token, terms, now_ms)
        elif now_ms >= self.open_until_ms and self.probes.pop(token, None) is not None:
            if failed:
                self._open(terms, now_ms)
            else:
                self._prove(terms)
        return max(0, self.open_until_ms - now_ms)

    def _add(self, successes: Counts, terms: BreakerTerms, now_ms: int) -> None:
        for age, count in successes:
            at = _slice(now_ms - 1_000 * age, terms)
            self.successes[at] = self.successes.get(at, 0) + count
        self._forget(_slice(now_ms, terms))

    def _note(self, token: str, terms: BreakerTerms, now_ms: int) -> None:
        """Count a failure, once, and open if that was one too many."""
        if not any(token in tokens for tokens in self.failures.values()):
            self.failures.setdefault(_slice(now_ms, terms), []).append(token)
        failed = sum(len(tokens) for tokens in self.failures.values())
        if failed >= max(terms.failures, sum(self.successes.values())):
            self._open(terms, now_ms)

    def _open(self, terms: BreakerTerms, now_ms: int) -> None:
        self._reset()
        self.open_until_ms = now_ms + terms.open_for_ms

    def _prove(self, terms: BreakerTerms) -> None:
        self.proven += 1
        if self.proven >= terms.probes:
            self._reset()

    def _reset(self) -> None:
        self.open_until_ms = self.proven = 0
        for each in (self.failures, self.successes, self.probes):
            each.clear()

    def _forget(self, at: int) -> None:
        """Forget the slices outside of the window that ends with *at*."""
        for slices in (self.failures, self.successes):
            for other in [each for each in slices if not at - SLICES < each <= at]:
                del slices[other]


def _slice(moment_ms: int, terms: BreakerTerms) -> int:
    return moment_ms * SLICES // terms.window_ms


def _count(counted: dict[int, int], second: int, calls: Counts) -> None:
    for age, count in calls:
        counted[second - age] = counted.get(second - age, 0) + count
