"""What one process does for retry budgets and circuit breakers: it counts, asks, and remembers."""

from __future__ import annotations

import logging
import multiprocessing
import re
from collections.abc import Callable
from typing import Any

import pytest

from reliable_tasks.core.keys import is_record, limit_key
from reliable_tasks.core.limits import BreakerTerms, BudgetTerms, Counts, Passage
from reliable_tasks.errors import ConfigurationError, StoreUnavailable
from reliable_tasks.retry import budget as module
from reliable_tasks.retry.budget import CircuitBreaker, RetryBudget
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing import ManualClock

OPEN_MS = 30_000


class Clock(ManualClock):
    """Moves the process and the store alike."""

    def monotonic(self) -> float:
        return self.now_us() / 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock.monotonic)
    return clock


class Asked(MemoryStore):
    """Notes what it is asked, and may be down."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.questions: list[str] = []
        self.counts: list[Counts] = []
        self.is_down = False

    def withdraw(self, key: str, *, calls: Counts, **terms: Any) -> int:
        self._note("withdraw", calls)
        return super().withdraw(key, calls=calls, **terms)

    def admit(self, key: str, *, successes: Counts, **terms: Any) -> Passage:
        self._note("admit", successes)
        return super().admit(key, successes=successes, **terms)

    def report(self, key: str, *, successes: Counts, **terms: Any) -> int:
        self._note("report", successes)
        return super().report(key, successes=successes, **terms)

    def _note(self, question: str, counts: Counts) -> None:
        self.questions.append(question)
        self.counts.append(list(counts))
        if self.is_down:
            raise StoreUnavailable(question, "refused")


@pytest.fixture
def store(clock: Clock) -> Asked:
    return Asked(clock)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "reliable_tasks")
    return lambda: caplog.messages


def fail(breaker: CircuitBreaker, store: Any, times: int = 5) -> int:
    return [breaker.ended(store, "p", token=f"run {n}", failed=True) for n in range(times)][-1]


def test_names_of_limits_are_no_records() -> None:
    """Operators who walk over the records do not meet what is counted."""
    assert limit_key("p", "budget", "a:b") == "rt1:p:=budget:a:b"
    for kind in ("budget", "breaker"):
        assert not is_record(limit_key("", kind, "gateway").encode())
    assert is_record(b"rt1::=budget")
    assert is_record(b"rt1:=budget:task:digest")


@pytest.mark.parametrize(
    "terms",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 201},
        {"name": None},
        {"ratio": -0.1},
        {"ratio": True},
        {"ratio": float("nan")},
        {"minimum_per_second": 0},
        {"minimum_per_second": "10"},
    ],
    ids=str,
)
def test_a_budget_that_cannot_work_is_refused(terms: Any) -> None:
    """It says what was expected when it is made."""
    with pytest.raises(ConfigurationError, match=r"expected .* got "):
        RetryBudget(**{"name": "a"} | terms)


@pytest.mark.parametrize(
    "terms",
    [
        {"name": "\t"},
        {"failures": 0},
        {"failures": True},
        {"probes": 1.5},
        {"window": 0.5},
        {"open_for": 0},
    ],
    ids=str,
)
def test_a_breaker_that_cannot_work_is_refused(terms: Any) -> None:
    """It says what was expected when it is made."""
    with pytest.raises(ConfigurationError, match=r"expected .* got "):
        CircuitBreaker(**{"name": "a"} | terms)


def test_descriptions_are_values() -> None:
    """Equal descriptions are equal, and print as they are written."""
    assert RetryBudget("a") == RetryBudget("a", ratio=0.2)
    assert hash(CircuitBreaker("a")) == hash(CircuitBreaker("a", probes=3))
    assert repr(RetryBudget("a")) == "RetryBudget(name='a', ratio=0.2, minimum_per_second=10.0)"


class TestBudget:
    """What a process counts and asks."""

    def test_calls_are_handed_over_when_a_retry_is_asked_for(
        self, clock: Clock, store: Asked
    ) -> None:
        """Calls cost no round trip; each is handed over once, with its age."""
        budget = RetryBudget("a")
        for _ in range(3):
            budget.called()
        clock.advance(2)
        budget.called()
        assert store.questions == []

        for token in ("job:1", "job:2"):
            budget.wait_ms(store, "p", token=token, wait_ms=0)
        assert store.counts == [[(2, 3), (0, 1)], []]

    def test_old_calls_are_forgotten(self, clock: Clock, store: Asked) -> None:
        """What was called more than ten seconds ago counts no more, and takes no room."""
        budget = RetryBudget("a")
        for _ in range(1_000):
            budget.called()
            clock.advance(1)
        budget.wait_ms(store, "p", token="job:1", wait_ms=0)

        assert store.counts == [[(age, 1) for age in range(9, 0, -1)]]

    def test_a_retry_waits_for_its_place(self, store: Asked) -> None:
        """The wait is the policy's at least; the same retry has the same place."""
        budget = RetryBudget("a", minimum_per_second=1)
        waits = [budget.wait_ms(store, "p", token=f"job-{n}:1", wait_ms=250) for n in range(3)]

        assert waits == [250, 1_000, 2_000]
        assert budget.wait_ms(store, "p", token="job-1:1", wait_ms=500) == 1_000

    def test_prefixes_are_apart(self, store: Asked) -> None:
        """Two projects on one server do not share a budget by chance."""
        budget = RetryBudget("a", minimum_per_second=1)
        for prefix in ("p", "q"):
            assert budget.wait_ms(store, prefix, token="job:1", wait_ms=0) == 0

    def test_a_store_that_is_down_limits_nothing(
        self, clock: Clock, store: Asked, warnings: Callable[[], list[str]]
    ) -> None:
        """The retry waits as if there were no budget; the store is asked again in ten seconds."""
        budget = RetryBudget("a", minimum_per_second=1)
        store.is_down = True
        for _ in range(2):
            waits = [budget.wait_ms(store, "p", token=f"{n}", wait_ms=7) for n in range(9)]
            assert waits == [7] * 9
            clock.advance(10)
        assert len(store.questions) == 2
        [warning] = warnings()
        assert warning.startswith("retry budget 'a' limits nothing until its store answers: ")

        store.is_down = False
        assert [budget.wait_ms(store, "p", token=f"{n}", wait_ms=7) for n in range(2)][1] > 900
        store.is_down = True
        budget.wait_ms(store, "p", token="x", wait_ms=7)
        assert len(warnings()) == 2

    def test_a_store_that_cannot_count_limits_nothing(
        self, warnings: Callable[[], list[str]]
    ) -> None:
        """A store of somebody's own, without these methods, is named once."""
        budget = RetryBudget("a")
        assert [budget.wait_ms(object(), "p", token="1", wait_ms=7) for _ in range(2)] == [7, 7]
        breaker = CircuitBreaker("a")
        assert (breaker.wait_ms([], "p", token="1"), fail(breaker, object())) == (0, 0)
        assert len(warnings()) == 2
        assert all("withdraw, admit, report" in warning for warning in warnings())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_counts_for_itself(store: Asked) -> None:
    """What the parent counted is not reported again by each of its children."""
    budget = RetryBudget("a")
    budget.called()
    context = multiprocessing.get_context("fork")
    pipe, end = context.Pipe()

    def child() -> None:
        budget.wait_ms(store, "p", token="1", wait_ms=0)
        end.send(store.counts)

    process = context.Process(target=child)
    process.start()
    assert pipe.recv() == [[]]
    process.join()
    budget.wait_ms(store, "p", token="1", wait_ms=0)
    assert store.counts == [[(0, 1)]]


class TestBreaker:
    """What a process asks, and what it remembers."""

    def test_a_closed_breaker_is_asked_once_a_second(self, clock: Clock, store: Asked) -> None:
        """However many runs there are; what succeeded is handed over then."""
        breaker = CircuitBreaker("a")
        for _ in range(3):
            for number in range(100):
                assert breaker.wait_ms(store, "p", token=f"{number}") == 0
                assert breaker.ended(store, "p", token=f"{number}", failed=False) == 0
            clock.advance(1)

        assert store.questions == ["admit"] * 3
        assert store.counts == [[], [(1, 100)], [(1, 100)]]

    def test_who_opens_it_knows_at_once(self, clock: Clock, store: Asked) -> None:
        """A process that reported the last failure asks nobody until the time is over."""
        breaker = CircuitBreaker("a")
        assert breaker.wait_ms(store, "p", token="first") == 0
        assert OPEN_MS < fail(breaker, store) <= 2 * OPEN_MS
        asked = len(store.questions)
        waits = {breaker.wait_ms(store, "p", token=f"{n}") for n in range(100)}

        assert len(store.questions) == asked
        assert OPEN_MS < min(waits) < 1.5 * OPEN_MS < max(waits) <= 2 * OPEN_MS
        assert len(waits) > 50
        clock.advance(20)
        assert 10_000 < breaker.wait_ms(store, "p", token="later") <= 10_000 + OPEN_MS

    def test_other_processes_know_within_a_second(self, clock: Clock, store: Asked) -> None:
        """A breaker of the same name is the same breaker."""
        one, other = CircuitBreaker("a"), CircuitBreaker("a")
        assert other.wait_ms(store, "p", token="1") == 0
        fail(one, store)
        assert other.wait_ms(store, "p", token="2") == 0
        clock.advance(1)

        assert other.wait_ms(store, "p", token="3") > OPEN_MS - 1_000

    def test_probes_close_it(self, clock: Clock, store: Asked) -> None:
        """After its time some runs are let through; when they succeed all are."""
        breaker = CircuitBreaker("a", probes=2)
        fail(breaker, store)
        clock.advance(30)
        waits = [breaker.wait_ms(store, "p", token=f"{n}") for n in range(4)]
        assert waits[:2] == [0, 0]
        assert all(0 < wait <= OPEN_MS for wait in waits[2:])

        for token in ("0", "1"):
            assert breaker.ended(store, "p", token=token, failed=False) == 0
        assert [breaker.wait_ms(store, "p", token=f"{n}") for n in range(4)] == [0] * 4

    def test_who_opens_it_says_so(
        self, clock: Clock, store: Asked, warnings: Callable[[], list[str]]
    ) -> None:
        """One line for each opening, by one process, with what an operator looks for."""
        one, other = CircuitBreaker("a", probes=1), CircuitBreaker("a", probes=1)
        other.wait_ms(store, "p", token="running")
        fail(one, store)
        clock.advance(0.5)
        other.ended(store, "p", token="running", failed=True)
        fail(other, store)
        [opened] = warnings()
        clock.advance(30)
        one.wait_ms(store, "p", token="probe")
        one.ended(store, "p", token="probe", failed=True)

        assert re.fullmatch(
            r"circuit breaker 'a' is open until 20\d\d-.*T.*\+00:00: at least 5 runs failed within "
            "10 s, and no more succeeded",
            opened,
        )
        assert warnings()[1].endswith(": a probe failed")
        assert len(warnings()) == 2

    def test_a_probe_that_fails_opens_it(self, clock: Clock, store: Asked) -> None:
        """And says for how long."""
        breaker = CircuitBreaker("a", probes=1)
        fail(breaker, store)
        clock.advance(30)
        assert breaker.wait_ms(store, "p", token="probe") == 0

        assert breaker.ended(store, "p", token="probe", failed=True) > OPEN_MS
        assert breaker.wait_ms(store, "p", token="next") > OPEN_MS

    def test_stores_are_apart(self, clock: Clock, store: Asked) -> None:
        """What is known of a breaker in one store, or project, says nothing of another."""
        breaker = CircuitBreaker("a")
        fail(breaker, store)

        assert breaker.wait_ms(Asked(clock), "p", token="1") == 0
        assert breaker.wait_ms(store, "q", token="1") == 0

    def test_a_store_that_is_down_leaves_it_closed(
        self, store: Asked, warnings: Callable[[], list[str]]
    ) -> None:
        """Everything runs, and failures open nothing."""
        breaker = CircuitBreaker("a")
        store.is_down = True

        assert breaker.wait_ms(store, "p", token="1") == 0
        assert fail(breaker, store, times=20) == 0
        assert store.questions == ["admit"]
        assert len(warnings()) == 1


def test_terms_reach_the_store(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a description says, in milliseconds, is what the store goes by."""
    seen: list[Any] = []

    class Store(MemoryStore):
        def withdraw(self, key: str, *, terms: BudgetTerms, **others: Any) -> int:
            seen.append((key, terms))
            return 0

        def admit(self, key: str, *, terms: BreakerTerms, **others: Any) -> Passage:
            seen.append((key, terms))
            return Passage()

    store = Store()
    RetryBudget("a", ratio=1, minimum_per_second=2).wait_ms(store, "p", token="t", wait_ms=0)
    breaker = CircuitBreaker("b", failures=1, window=2.5, open_for=3, probes=4)
    breaker.wait_ms(store, "p", token="t")

    assert seen == [
        ("rt1:p:=budget:a", BudgetTerms(1.0, 2.0)),
        ("rt1:p:=breaker:b", BreakerTerms(1, 2_500, 3_000, 4)),
    ]
