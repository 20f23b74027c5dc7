"""
What all workers together may ask of a dependency that fails: retry budgets and circuit breakers.

Both are descriptions that a task names; what they count is in the store. A process asks it only
when something failed, for a breaker once a second besides. A store that does not answer limits
nothing.
"""

from __future__ import annotations

import logging
import math
import os
import random
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from threading import Lock
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakSet

from reliable_tasks.core.durations import Seconds, to_ms
from reliable_tasks.core.keys import limit_key
from reliable_tasks.core.limits import (
    WINDOW_S,
    BreakerTerms,
    BudgetTerms,
    Counts,
    Limiter,
    Passage,
)
from reliable_tasks.errors import ConfigurationError, StoreUnavailable

__all__ = ("CircuitBreaker", "RetryBudget")

logger = logging.getLogger("reliable_tasks")
T = TypeVar("T")

LOOK = 1.0  # seconds for which a breaker that was closed is taken to be closed
SILENCE = 10.0  # seconds for which a store that did not answer is not asked again
LONGEST_NAME = 200  # characters


class _Counter:
    """Counts by the second, for the last `WINDOW_S` seconds; a forked child begins with none."""

    def __init__(self) -> None:
        self.reset()
        _counters.add(self)

    def reset(self) -> None:
        self._lock = Lock()
        self._counts: dict[int, int] = {}

    def add(self) -> None:
        second = int(monotonic())
        with self._lock:
            if second in self._counts:
                self._counts[second] += 1
            else:
                self._counts = {**self._recent(second), second: 1}

    def take(self) -> Counts:
        """Return what was counted since the last time, as (seconds ago, how many)."""
        second = int(monotonic())
        with self._lock:
            recent, self._counts = self._recent(second), {}
        return [(second - each, count) for each, count in recent.items()]

    def _recent(self, second: int) -> dict[int, int]:
        return {at: count for at, count in self._counts.items() if at > second - WINDOW_S}


_counters: WeakSet[_Counter] = WeakSet()


def _begin_anew() -> None:
    for counter in list(_counters):
        counter.reset()


os.register_at_fork(after_in_child=_begin_anew)


class _Line:
    """The way to the store: one that does not answer is left alone for a while."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._ask_again_at = 0.0
        self._is_down = False

    def ask(self, store: Any, question: Callable[[Limiter], T]) -> T | None:
        """Return the store's answer, or None if there is none to be had."""
        if monotonic() < self._ask_again_at:
            return None
        try:
            answer = question(_limiter(store))
        except StoreUnavailable as error:
            self._ask_again_at = monotonic() + SILENCE
            if not self._is_down:
                logger.warning("%s limits nothing until its store answers: %s", self._what, error)
            self._is_down = True
            return None
        self._is_down = False
        return answer


def _limiter(store: Any) -> Limiter:
    if isinstance(store, Limiter):
        return store
    raise StoreUnavailable(
        "limit", f"{type(store).__name__} has no methods withdraw, admit, report"
    )


@dataclass(frozen=True)
class RetryBudget:
    """
    How many retries a second all workers together make: a share of the calls, and some more.

    Every job that names the budget is a call when it first runs, and each of its retries takes
    a place in the budget. Retries that exceed it wait longer; none is refused. While the store
    is down nothing is limited.

    Args:
        name: Of the dependency. All tasks with the same name share the budget.
        ratio: Retries a second for each call a second, of the last 10 s.
        minimum_per_second: Retries a second besides, at least 0.01.

    Raises:
        ConfigurationError: One of these is out of range.
    """

    name: str
    ratio: float = field(default=0.2, kw_only=True)
    minimum_per_second: float = field(default=10.0, kw_only=True)
    _calls: _Counter = field(init=False, repr=False, compare=False, default_factory=_Counter)
    _line: _Line = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_name("RetryBudget", self.name)
        _check_number("ratio", self.ratio, least=0)
        _check_number("minimum_per_second", self.minimum_per_second, least=0.01)
        object.__setattr__(self, "_line", _Line(f"retry budget {self.name!r}"))

    def called(self) -> None:
        """Note that a job calls the dependency for the first time."""
        self._calls.add()

    def wait_ms(self, store: Any, prefix: str, *, token: str, wait_ms: int) -> int:
        """
        Take a place for a retry.

        Args:
            store: Where the counting is done.
            prefix: First part of the names there.
            token: Names the retry. The same one has the same place.
            wait_ms: How long the retry would wait without a budget.

        Returns:
            How long it waits, in milliseconds; *wait_ms* if the store is down.
        """
        terms = BudgetTerms(float(self.ratio), float(self.minimum_per_second))

        def question(limiter: Limiter) -> int:
            return limiter.withdraw(
                limit_key(prefix, "budget", self.name),
                token=_short(token),
                wait_ms=wait_ms,
                calls=self._calls.take(),
                terms=terms,
            )

        answer = self._line.ask(store, question)
        return wait_ms if answer is None else answer


@dataclass(slots=True)
class _Sight:
    """What this process last heard of a breaker, in seconds of `monotonic`."""

    closed_until: float = 0.0
    open_until: float = 0.0
    probes: set[str] = field(default_factory=set)

    def note(self, passage: Passage, token: str) -> None:
        now = monotonic()
        self.open_until = now + passage.open_ms / 1_000
        self.closed_until = 0.0
        if passage.is_probe:
            self.probes.add(token)
        elif not passage.is_open:
            self.closed_until = now + LOOK
            self.probes.clear()  # those of which the end was never told

    def open_ms(self) -> int:
        return max(0, math.ceil(1_000 * (self.open_until - monotonic())))


@dataclass(frozen=True)
class CircuitBreaker:
    """
    Keeps jobs from running while what they depend on is down.

    It opens for all workers when enough runs failed with an error that is worth a retry, and no
    more succeeded. Jobs that come while it is open are put off, which uses no attempt, and come
    back spread over a time as long as it was open. Then a few probes run: it closes when all of
    them succeeded, and opens again when one fails. While the store is down it is closed.

    Args:
        name: Of the dependency. All tasks with the same name share the breaker.
        failures: How many within the window open it, at least 1.
        window: Seconds over which runs are counted, at least 1.
        open_for: Seconds for which it stays open, at least 0.1; also how long a probe may run
            before another takes its place, though it still counts when it ends.
        probes: How many runs must succeed before it closes, at least 1.

    Raises:
        ConfigurationError: One of these is out of range.
    """

    name: str
    failures: int = field(default=5, kw_only=True)
    window: Seconds = field(default=10.0, kw_only=True)
    open_for: Seconds = field(default=30.0, kw_only=True)
    probes: int = field(default=3, kw_only=True)
    _terms: BreakerTerms = field(init=False, repr=False, compare=False)
    _successes: _Counter = field(init=False, repr=False, compare=False, default_factory=_Counter)
    _line: _Line = field(init=False, repr=False, compare=False)
    _sights: dict[tuple[Any, str], _Sight] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        _check_name("CircuitBreaker", self.name)
        terms = BreakerTerms(
            failures=_count("failures", self.failures),
            window_ms=to_ms("window", self.window, least=1),
            open_for_ms=to_ms("open_for", self.open_for, least=0.1),
            probes=_count("probes", self.probes),
        )
        object.__setattr__(self, "_terms", terms)
        object.__setattr__(self, "_line", _Line(f"circuit breaker {self.name!r}"))

    def wait_ms(self, store: Any, prefix: str, *, token: str) -> int:
        """
        Ask whether a run may begin.

        Args:
            store: Where the counting is done.
            prefix: First part of the names there.
            token: Names the run.

        Returns:
            0 if it may, else in how many milliseconds to ask again.
        """
        sight = self._sight(store, prefix)
        if open_ms := sight.open_ms():
            return self._spread(open_ms)
        if monotonic() < sight.closed_until:
            return 0

        def question(limiter: Limiter) -> Passage:
            return limiter.admit(
                limit_key(prefix, "breaker", self.name),
                token=_short(token),
                successes=self._successes.take(),
                terms=self._terms,
            )

        passage = self._line.ask(store, question)
        if passage is None:
            return 0
        sight.note(passage, token)
        return self._spread(passage.open_ms) if passage.is_open else 0

    def ended(self, store: Any, prefix: str, *, token: str, failed: bool) -> int:
        """
        Note how a run ended that was let through.

        Args:
            store: As for `wait_ms`.
            prefix: As for `wait_ms`.
            token: As for `wait_ms`.
            failed: Whether it raised an error that is worth a retry.

        Returns:
            In how many milliseconds a retry may run; 0 if the breaker does not mind.
        """
        sight = self._sight(store, prefix)
        is_probe = token in sight.probes
        sight.probes.discard(token)
        if not failed and not is_probe:
            self._successes.add()
            return 0

        def word(limiter: Limiter) -> int:
            return limiter.report(
                limit_key(prefix, "breaker", self.name),
                token=_short(token),
                failed=failed,
                successes=self._successes.take(),
                terms=self._terms,
            )

        was_open = bool(sight.open_ms())
        open_ms = self._line.ask(store, word)
        if not open_ms:
            return 0
        if open_ms == self._terms.open_for_ms and not was_open:
            self._say_opened(is_probe=is_probe)
        sight.note(Passage(is_open=True, open_ms=open_ms), token)
        return self._spread(open_ms)

    def _say_opened(self, *, is_probe: bool) -> None:
        terms = self._terms
        opened = datetime.now(UTC)
        logger.warning(
            "circuit breaker %r is open until %s: %s",
            self.name,
            (opened + timedelta(milliseconds=terms.open_for_ms)).isoformat(timespec="seconds"),
            "a probe failed"
            if is_probe
            else f"at least {terms.failures} runs failed within {terms.window_ms / 1_000:g} s, "
            "and no more succeeded",
        )

    def _sight(self, store: Any, prefix: str) -> _Sight:
        place = store, prefix
        try:
            return self._sights.get(place) or self._sights.setdefault(place, _Sight())
        except TypeError:  # nothing can be remembered of a store that is not hashable
            return _Sight()

    def _spread(self, open_ms: int) -> int:
        """Return when to come back: not all at once, but over as long a time as it was open."""
        return open_ms + random.randint(1, self._terms.open_for_ms)


def _short(token: str) -> str:
    return urlsafe_b64encode(blake2b(token.encode(), digest_size=6).digest()).decode()


def _check_name(kind: str, name: Any) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise ConfigurationError(
            f"{kind}: expected a name of 1 to {LONGEST_NAME} printable characters, got {name!r}"
        )


def _check_number(option: str, value: Any, *, least: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value < 1e6:
        raise ConfigurationError(
            f"{option}: expected a number of at least {least:g}, got {value!r}"
        )


def _count(option: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{option}: expected a whole number of at least 1, got {value!r}")
    return value
