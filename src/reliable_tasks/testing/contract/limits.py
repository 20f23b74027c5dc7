"""What every store promises that counts for retry budgets and circuit breakers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from uuid import uuid4

import pytest

from reliable_tasks.core.limits import (
    BreakerTerms,
    BudgetTerms,
    Counts,
    Limiter,
    Passage,
)
from reliable_tasks.testing.contract.support import SOON_MS, Elapse, Fixtures

__all__ = ("LimiterContract",)

BUDGET = BudgetTerms(ratio=0.2, minimum_per_second=10.0)
BREAKER = BreakerTerms(failures=3, window_ms=600_000, open_for_ms=600_000, probes=2)
SOON_OVER = replace(BREAKER, open_for_ms=SOON_MS)
ANY_RUN = "any-run."  # eight characters, as all tokens
LATE_MS = 5_000  # for which a test may stop, as far as what it asks next is concerned


@dataclass
class OneBudget:
    """A budget of a store."""

    store: Limiter
    key: str = field(default_factory=lambda: f"rt1:contract:=budget:{uuid4().hex}")
    _tokens: count[int] = field(default_factory=count)

    def withdraw(
        self,
        token: str | None = None,
        wait_ms: int = 0,
        calls: Counts = (),
        terms: BudgetTerms = BUDGET,
    ) -> int:
        """Take a place, under a new token if none is given."""
        return self.store.withdraw(
            self.key,
            token=token or f"{next(self._tokens):08}",
            wait_ms=wait_ms,
            calls=calls,
            terms=terms,
        )


@dataclass
class OneBreaker:
    """A breaker of a store."""

    store: Limiter
    elapse: Elapse
    key: str = field(default_factory=lambda: f"rt1:contract:=breaker:{uuid4().hex}")

    def admit(
        self, token: str = ANY_RUN, successes: Counts = (), terms: BreakerTerms = BREAKER
    ) -> Passage:
        """Ask whether a run may begin."""
        return self.store.admit(self.key, token=token, successes=successes, terms=terms)

    def report(
        self,
        token: str,
        *,
        failed: bool = True,
        successes: Counts = (),
        terms: BreakerTerms = BREAKER,
    ) -> int:
        """Tell how a run ended."""
        return self.store.report(
            self.key, token=token, failed=failed, successes=successes, terms=terms
        )

    def open(self, terms: BreakerTerms = BREAKER) -> int:
        """Let as many runs fail as it takes."""
        return [self.report(f"failed-{number}", terms=terms) for number in range(3)][-1]

    def half_open(self) -> None:
        """Let it have been open for its time."""
        self.open(SOON_OVER)
        self.elapse(ms=2 * SOON_MS)


class LimiterContract(Fixtures):
    """
    What a store promises that counts for retry budgets and circuit breakers.

    A subclass provides the fixture `store`; if time can be moved, also `elapse`.
    """

    @pytest.fixture
    def budget(self, store: Limiter) -> OneBudget:
        """A budget that no other test uses."""
        return OneBudget(store)

    @pytest.fixture
    def breaker(self, store: Limiter, elapse: Elapse) -> OneBreaker:
        """A breaker that no other test uses."""
        return OneBreaker(store, elapse)

    def test_is_a_limiter(self, store: Limiter) -> None:
        """It has every method of the protocol."""
        assert isinstance(store, Limiter)

    def test_what_exceeds_a_budget_is_due_later(self, budget: OneBudget) -> None:
        """A hundred retries at ten a second take ten seconds; none is refused."""
        due_ms = [budget.withdraw() for _ in range(100)]

        assert 0 <= due_ms[0] < 1_000
        assert 8_500 - LATE_MS < due_ms[-1] <= 10_000

    def test_calls_make_room_for_retries(self, budget: OneBudget) -> None:
        """A share of the calls of the last ten seconds is allowed besides."""
        calls = [(0, 1_000), (9, 1_000)]
        due_ms = [budget.withdraw(calls=calls), *(budget.withdraw() for _ in range(199))]

        assert 3_500 - LATE_MS < due_ms[-1] <= 5_000

    def test_a_retry_is_never_due_before_its_own_wait(self, budget: OneBudget) -> None:
        """The budget adds to a wait and takes nothing away."""
        assert budget.withdraw(wait_ms=60_000) >= 60_000
        assert budget.withdraw(wait_ms=60_000) >= 60_000

    def test_who_waits_long_stands_in_nobodys_way(self, budget: OneBudget) -> None:
        """A place far away leaves the near ones free."""
        budget.withdraw(wait_ms=3_600_000)

        assert budget.withdraw() < 1_000

    def test_the_same_retry_has_the_same_place(self, budget: OneBudget) -> None:
        """A question that is repeated takes no other place, and counts no calls again."""
        for _ in range(100):
            first = budget.withdraw("the-same", calls=[(0, 1_000)], wait_ms=600_000)
            assert 600_000 - LATE_MS < first <= 601_000

        assert [budget.withdraw() for _ in range(90)][-1] > 2_000 - LATE_MS

    def test_a_rate_below_one_a_second(self, budget: OneBudget) -> None:
        """Where little is allowed a place may be many seconds away."""
        slow = BudgetTerms(ratio=0.0, minimum_per_second=0.1)
        due_ms = [budget.withdraw(terms=slow) for _ in range(10)]

        assert 80_000 < due_ms[-1] <= 110_000

    def test_budgets_are_apart(self, budget: OneBudget, store: Limiter) -> None:
        """What one budget gives away is nothing to another."""
        for _ in range(100):
            budget.withdraw()

        assert OneBudget(store).withdraw() < 1_000

    def test_a_breaker_is_closed_at_first(self, breaker: OneBreaker) -> None:
        """Where nothing failed everything runs."""
        assert breaker.admit() == Passage()
        assert breaker.report("run-----", failed=False) == 0

    def test_failures_open_a_breaker(self, breaker: OneBreaker) -> None:
        """With the last failure that it takes nothing runs any more."""
        assert breaker.report("failed-a") == breaker.report("failed-b") == 0
        assert breaker.admit() == Passage()
        assert breaker.report("failed-c") == BREAKER.open_for_ms

        passage = breaker.admit()
        assert (passage.is_open, passage.is_probe) == (True, False)
        assert BREAKER.open_for_ms - LATE_MS < passage.open_ms <= BREAKER.open_for_ms

    def test_a_repeated_failure_counts_once(self, breaker: OneBreaker) -> None:
        """Whoever reports again what was reported opens nothing."""
        assert {breaker.report("the-same") for _ in range(5)} == {0}
        breaker.report("failed-b")
        assert breaker.report("failed-b") == 0
        assert breaker.report("failed-c") > 0

    def test_as_many_successes_keep_it_closed(self, breaker: OneBreaker) -> None:
        """A few failures among many runs are no outage."""
        breaker.admit(successes=[(0, 2), (1, 1)])
        assert [breaker.report(f"failed-{n}", successes=[(0, 1)]) for n in range(5)] == [0] * 5
        assert [breaker.report(f"more---{n}") > 0 for n in range(3)] == [False, False, True]

    def test_who_began_before_changes_nothing_while_it_is_open(self, breaker: OneBreaker) -> None:
        """Runs that fail while it is open do not keep it open longer; successes do not close it."""
        breaker.open()
        left_ms = breaker.report("failed-z", terms=replace(BREAKER, open_for_ms=9_000_000))

        assert 0 < left_ms <= BREAKER.open_for_ms
        assert 0 < breaker.report("finished", failed=False) <= BREAKER.open_for_ms
        assert breaker.admit().is_open

    def test_a_few_probes_run_when_it_was_open(self, breaker: OneBreaker) -> None:
        """As many as must succeed are let through, and the others wait."""
        breaker.half_open()

        assert breaker.admit("probe--1") == breaker.admit("probe--2") == Passage(is_probe=True)
        assert breaker.admit("too-late") == Passage(is_open=True)
        assert breaker.admit("probe--1") == Passage(is_probe=True)

    def test_probes_that_succeed_close_it(self, breaker: OneBreaker) -> None:
        """When all have succeeded everything runs; one success counts once."""
        breaker.half_open()
        for probe in ("probe--1", "probe--2"):
            breaker.admit(probe)

        for _ in range(2):
            assert breaker.report("probe--1", failed=False) == 0
            assert breaker.admit() == Passage(is_open=True)
        assert breaker.report("probe--2", failed=False) == 0
        assert breaker.admit() == Passage()

    def test_what_failed_before_does_not_count_after(self, breaker: OneBreaker) -> None:
        """A breaker that closed begins anew."""
        breaker.half_open()
        for probe in ("probe--1", "probe--2"):
            breaker.admit(probe)
            breaker.report(probe, failed=False)

        assert [breaker.report(f"again--{n}") > 0 for n in range(3)] == [False, False, True]

    def test_a_probe_that_fails_opens_it_again(self, breaker: OneBreaker) -> None:
        """One failure is enough then, and what other probes find counts no more."""
        breaker.half_open()
        for probe in ("probe--1", "probe--2"):
            breaker.admit(probe)

        assert breaker.report("probe--1") == BREAKER.open_for_ms
        assert breaker.report("probe--2", failed=False) > 0
        assert breaker.admit("probe--2").open_ms > 0

    def test_only_probes_decide(self, breaker: OneBreaker) -> None:
        """Who began before it opened changes nothing while probes are under way."""
        breaker.half_open()
        breaker.admit("probe--1")

        assert breaker.report(ANY_RUN) == breaker.report(ANY_RUN, failed=False) == 0
        assert breaker.admit("probe--2") == Passage(is_probe=True)

    def test_a_probe_of_which_nothing_is_heard_is_replaced(self, breaker: OneBreaker) -> None:
        """The place of a probe that died is free after the time for which the breaker opens."""
        breaker.half_open()
        for probe in ("probe--1", "probe--2"):
            breaker.admit(probe, terms=SOON_OVER)
        breaker.elapse(ms=2 * SOON_MS)

        assert breaker.admit("probe--3") == Passage(is_probe=True)
        assert breaker.admit("probe--4") == Passage(is_probe=True)
        assert breaker.admit("probe--1") == Passage(is_open=True)

    def test_slow_probes_close_it_too(self, breaker: OneBreaker) -> None:
        """Whoever succeeds after its place was given away has proven as much, once."""
        breaker.half_open()
        for probe in ("probe--1", "probe--2"):
            breaker.admit(probe, terms=SOON_OVER)
        breaker.elapse(ms=2 * SOON_MS)
        for probe in ("probe--3", "probe--4"):
            breaker.admit(probe)

        for _ in range(2):
            assert breaker.report("probe--1", failed=False) == 0
            assert breaker.admit() == Passage(is_open=True)
        assert breaker.report("probe--2", failed=False) == 0
        assert breaker.admit() == Passage()

    def test_a_slow_probe_that_fails_opens_it_again(self, breaker: OneBreaker) -> None:
        """A failure counts as late as a success."""
        breaker.half_open()
        for probe in ("probe--1", "probe--2"):
            breaker.admit(probe, terms=SOON_OVER)
        breaker.elapse(ms=2 * SOON_MS)
        breaker.admit("probe--3")

        assert breaker.report("probe--1") == BREAKER.open_for_ms

    def test_breakers_are_apart(self, breaker: OneBreaker, store: Limiter, elapse: Elapse) -> None:
        """One that is open is nothing to another."""
        breaker.open()

        assert OneBreaker(store, elapse).admit() == Passage()
