"""Budgets and breakers keep their rules, and the scripts apply the same ones."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain, count
from typing import Any

import redis
from hypothesis import given
from hypothesis import strategies as st

from reliable_tasks.core.limits import (
    LATE,
    LONGEST_S,
    Breaker,
    BreakerTerms,
    Budget,
    BudgetTerms,
    Passage,
)
from reliable_tasks.stores.scripts import load
from reliable_tasks.testing import Database

START_MS = 1_700_000_000_123
TIME = 'redis.call("TIME")'
GIVEN_TIME = '{ string.match(KEYS[2], "(%d+) (%d+)") }'

# Small and round numbers often, so that moments and counts meet.
steps = st.sampled_from([0, 1, 100, 999, 1_000, 10_000, 90_000]) | st.integers(0, 3_000)
counts = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([1, 2, 300])), max_size=3)
rates = st.builds(
    BudgetTerms,
    ratio=st.floats(0, 2) | st.sampled_from([0.0, 0.2]),
    minimum_per_second=st.floats(0.1, 50) | st.sampled_from([0.5, 10.0]),
)
waits = st.integers(0, 5_000) | st.sampled_from([0, 300_000])
withdrawals = st.lists(st.tuples(steps, st.integers(0, 40), waits, counts), max_size=60)
terms = st.builds(
    BreakerTerms,
    failures=st.integers(1, 4),
    window_ms=st.sampled_from([1_000, 10_000]) | st.integers(1_000, 20_000),
    open_for_ms=st.sampled_from([100, 1_000, 10_000]) | st.integers(100, 20_000),
    probes=st.integers(1, 3),
)
words = st.tuples(
    steps, st.sampled_from(["admit", "fail", "succeed"]), st.integers(0, 6), st.just([]) | counts
)


def named(number: int) -> str:
    return f"run-{number:04}"


@given(rates, withdrawals)
def test_no_second_has_more_retries_than_allowed(
    rate: BudgetTerms, asked: list[tuple[int, int, int, Any]]
) -> None:
    """Whatever is asked when, no second of the clock gets more than the highest rate so far."""
    budget, now_ms, due = Budget(), START_MS, Counter[int]()
    calls = 0
    for number, (step_ms, _, wait_ms, counted) in enumerate(asked):
        now_ms += step_ms
        calls += sum(count for _, count in counted)
        away_ms = budget.withdraw(named(number), wait_ms, counted, rate, now_ms)
        assert away_ms >= wait_ms
        due[(now_ms + away_ms) // 1_000] += 1

    highest = rate.minimum_per_second + rate.ratio * calls / 10
    assert max(due.values(), default=0) <= math.ceil(highest)


@given(rates, withdrawals)
def test_a_budget_asks_for_no_longer_wait_than_it_must(
    rate: BudgetTerms, asked: list[tuple[int, int, int, Any]]
) -> None:
    """A retry waits for the others before it at the lowest rate, and no longer."""
    budget, now_ms = Budget(), START_MS
    for number, (step_ms, _, wait_ms, counted) in enumerate(asked):
        now_ms += step_ms
        away_ms = budget.withdraw(named(number), wait_ms, counted, rate, now_ms)
        longest_ms = 1_000 * (number + 1) / rate.minimum_per_second
        assert away_ms <= wait_ms + longest_ms + 2_000


@given(rates, withdrawals)
def test_a_budget_forgets_what_is_over(
    rate: BudgetTerms, asked: list[tuple[int, int, int, Any]]
) -> None:
    """What is kept is the retries that are due, and the calls of ten seconds."""
    budget, now_ms, due = Budget(), START_MS, list[int]()
    for number, (step_ms, _, wait_ms, counted) in enumerate(asked):
        now_ms += step_ms
        due.append(now_ms + budget.withdraw(named(number), wait_ms, counted, rate, now_ms))
        second = now_ms // 1_000
        assert len(budget.places) == sum(each // 1_000 >= second for each in due)
        assert len(budget.calls) <= 10


@given(terms, st.lists(words, max_size=40))
def test_a_breaker_lets_no_more_probes_through_than_it_needs(
    limits: BreakerTerms, told: list[tuple[int, str, int, Any]]
) -> None:
    """While it is not closed, no more probes than it needs have a place, or are kept for ever."""
    breaker, now_ms = Breaker(), START_MS
    for step_ms, word, number, counted in told:
        now_ms += step_ms
        _tell(breaker, word, named(number), counted, limits, now_ms)
        places = [until - now_ms for until in breaker.probes.values()]
        assert sum(left_ms > 0 for left_ms in places) <= limits.probes
        assert breaker.proven < limits.probes
        if word == "admit":
            assert all(left_ms > -LATE * limits.open_for_ms for left_ms in places)
        assert breaker.open_until_ms <= now_ms + limits.open_for_ms
        assert len(breaker.failures) <= 10


def _tell(
    breaker: Breaker, word: str, token: str, counted: Any, limits: BreakerTerms, now_ms: int
) -> Passage | int:
    if word == "admit":
        return breaker.admit(token, counted, limits, now_ms)
    return breaker.report(token, word == "fail", counted, limits, now_ms)


class Server:
    """The scripts, on a server whose clock is told the time."""

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._client, self._key = client, key

    def run(self, name: str, now_ms: int, *arguments: Any) -> Any:
        text = load(name).text
        assert TIME in text
        script = self._client.register_script(text.replace(TIME, GIVEN_TIME))
        time = f"{now_ms // 1_000} {now_ms % 1_000 * 1_000 + 999}"
        return script([self._key, time], arguments)

    def withdraw(self, token: str, wait_ms: int, calls: Any, rate: BudgetTerms, now_ms: int) -> int:
        numbers = (repr(rate.ratio), repr(rate.minimum_per_second))
        return self.run("withdraw", now_ms, token, wait_ms, *numbers, *chain(*calls))

    def tell(
        self, word: str, token: str, counted: Any, limits: BreakerTerms, now_ms: int
    ) -> Passage | int:
        if word == "admit":
            told = (limits.window_ms, limits.open_for_ms, limits.probes, *chain(*counted))
            kind, open_ms = self.run("admit", now_ms, token, *told)
            return Passage(is_open=kind == 2, is_probe=kind == 1, open_ms=open_ms)
        told = (limits.failures, limits.window_ms, limits.open_for_ms, limits.probes)
        return self.run("report", now_ms, token, int(word == "fail"), *told, *chain(*counted))


def test_the_script_of_budgets_keeps_the_rules(database: Database) -> None:
    """Whatever is asked when, the server answers what the rules say, to the millisecond."""

    @given(rates, withdrawals)
    def agree(rate: BudgetTerms, asked: list[tuple[int, int, int, Any]]) -> None:
        budget, server, now_ms = Budget(), Server(client, f"budget:{next(numbers)}"), START_MS
        for step_ms, number, wait_ms, calls in asked:
            now_ms += step_ms
            question = (named(number), wait_ms, calls, rate, now_ms)
            assert server.withdraw(*question) == budget.withdraw(*question)

    numbers = count()
    with database.client() as client:
        agree()


def test_nobody_waits_longer_than_a_day_for_a_place(database: Database) -> None:
    """A calendar that is full for a day holds nothing back beyond it."""
    slow = BudgetTerms(ratio=0.0, minimum_per_second=0.01)
    with database.client() as client:
        budget, server = Budget(), Server(client, "budget")
        for number in range(900):
            question = (named(number), 0, [], slow, START_MS)
            away_ms = budget.withdraw(*question)
            assert server.withdraw(*question) == away_ms

    assert 1_000 * (LONGEST_S - 1) < away_ms < 1_000 * (LONGEST_S + 1)


def test_the_scripts_of_breakers_keep_the_rules(database: Database) -> None:
    """Whatever happens when, the server answers what the rules say, to the millisecond."""

    @given(terms, st.lists(words, max_size=40))
    def agree(limits: BreakerTerms, told: list[tuple[int, str, int, Any]]) -> None:
        breaker, server, now_ms = Breaker(), Server(client, f"breaker:{next(numbers)}"), START_MS
        for step_ms, word, number, counted in told:
            now_ms += step_ms
            question = (word, named(number), counted, limits, now_ms)
            assert server.tell(*question) == _tell(breaker, *question)

    numbers = count()
    with database.client() as client:
        agree()


def test_the_moments_at_which_a_breaker_changes(database: Database) -> None:
    """It is half-open from the end of its time on, and a probe counts until the end of its own."""
    limits = BreakerTerms(failures=1, window_ms=1_000, open_for_ms=100, probes=1)
    story = [
        (0, "fail", "failed--", 100),
        (99, "admit", "probe--1", Passage(is_open=True, open_ms=1)),
        (1, "admit", "probe--1", Passage(is_probe=True)),
        (99, "admit", "probe--2", Passage(is_open=True)),
        (1, "admit", "probe--2", Passage(is_probe=True)),
        (0, "succeed", "probe--1", 0),
        (0, "fail", "probe--2", 100),
    ]
    with database.client() as client:
        _live_through(story, limits, Server(client, "breaker"))


def test_the_moments_between_which_failures_count(database: Database) -> None:
    """A failure counts from its own slice of the window to the ninth after it."""
    limits = BreakerTerms(failures=2, window_ms=1_000, open_for_ms=100, probes=1)
    to_the_last_of_a_slice = 99 - START_MS % 100
    story = [
        (to_the_last_of_a_slice, "fail", "failed-1", 0),
        (901, "fail", "failed-2", 0),
        (999, "fail", "failed-3", 100),
    ]
    with database.client() as client:
        _live_through(story, limits, Server(client, "breaker"))


def _live_through(
    story: list[tuple[int, str, str, Passage | int]], limits: BreakerTerms, server: Server
) -> None:
    breaker, now_ms = Breaker(), START_MS
    for step_ms, word, token, expected in story:
        now_ms += step_ms
        assert _tell(breaker, word, token, [], limits, now_ms) == expected
        assert server.tell(word, token, [], limits, now_ms) == expected
