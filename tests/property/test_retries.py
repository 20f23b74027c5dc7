"""Policies, their state and what servers say, over values that nobody thought of."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tenacity import (
    retry_always,
    stop_after_attempt,
    stop_after_delay,
    stop_before_delay,
    stop_never,
    wait_chain,
    wait_exponential,
    wait_exponential_jitter,
    wait_fixed,
    wait_incrementing,
    wait_random,
    wait_random_exponential,
)

from reliable_tasks.retry.advice import DO_NOT_RETRY, advised
from reliable_tasks.retry.attempts import MAX_NUMBER, MAX_PAST, Attempts, Past, Raised, RetryIn
from reliable_tasks.retry.policy import RetryPolicy, read_policy
from tests.schedules import Schedule, both

SECONDS = st.floats(0, 1_000)
LIMITS = st.floats(0.1, 5_000)
NOW = 1.7e9
DOWN = Raised(ConnectionError())


def in_order(first: float, second: float) -> tuple[float, float]:
    return min(first, second), max(first, second)


def waits_of(seconds: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    """Any wait object, with numbers out of *seconds*."""
    simple = st.one_of(
        st.builds(wait_fixed, seconds | st.builds(timedelta, seconds=seconds)),
        st.builds(in_order, seconds, seconds).map(lambda bounds: wait_random(*bounds)),
        st.builds(wait_exponential, multiplier=seconds, max=seconds, exp_base=st.integers(1, 9)),
        st.builds(wait_random_exponential, multiplier=seconds, max=seconds),
        st.builds(wait_exponential_jitter, max=seconds, jitter=seconds),
        st.builds(wait_incrementing, seconds, st.integers(-100, 100), seconds),
    )
    return st.recursive(
        simple,
        lambda inner: st.one_of(
            st.builds(lambda one, other: one + other, inner, inner),
            st.lists(inner, min_size=1, max_size=4).map(lambda waits: wait_chain(*waits)),
        ),
        max_leaves=4,
    )


# Whole seconds are sums without an error, so that a limit is met exactly or not at all.
WHOLE = st.integers(0, 1_000).map(float)
RANGES = st.builds(in_order, SECONDS, SECONDS)
WAITS = waits_of(SECONDS)
STOPS = st.recursive(
    st.one_of(
        st.builds(stop_after_attempt, st.integers(1, 30)),
        st.builds(stop_after_delay, WHOLE),
        st.builds(stop_before_delay, WHOLE),
    ),
    lambda inner: st.one_of(
        st.builds(lambda one, other: one | other, inner, inner),
        st.builds(lambda one, other: one & other, inner, inner),
    ),
    max_leaves=3,
)
PASTS = st.builds(Past, st.none() | st.text(max_size=128), st.floats(0, 1e6))
STATES = st.builds(
    Attempts,
    attempt=st.integers(MAX_PAST + 1, MAX_NUMBER),
    first_at=st.floats(0, MAX_NUMBER),
    waited=st.floats(0, MAX_NUMBER),
    due_at=st.floats(0, MAX_NUMBER),
    past=st.lists(PASTS, max_size=MAX_PAST).map(tuple),
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def policy(**given: Any) -> RetryPolicy:
    defaults = {"attempts": 40, "wait": None, "stop": None, "retry": None, "max_wait": 1e9}
    return read_policy(**{"on": ConnectionError, **defaults, **given})


def lived(given: RetryPolicy, takes: list[float], seed: int) -> list[tuple[float, float]]:
    """Live through a job that always fails; return when each attempt began, and its wait before."""
    random.seed(seed)
    now, waited = NOW, 0.0
    attempts, begun = Attempts.begin(now), [(0.0, 0.0)]
    while True:
        now += takes[attempts.attempt % len(takes)]
        decision = given.decide(attempts, DOWN, now)
        if not isinstance(decision, RetryIn):
            return begun
        waited = decision.seconds
        attempts = attempts.following(DOWN, now, waited)
        now += waited
        begun.append((now - NOW, waited))


@given(
    wait=waits_of(WHOLE),
    stop=STOPS,
    ends=st.lists(st.booleans(), min_size=1, max_size=8),
    takes=WHOLE,
    seed=st.integers(0, 99),
)
def test_any_policy_is_tenacitys(
    wait: Any, stop: Any, ends: list[bool], takes: float, seed: int
) -> None:
    """Any combination waits and ends as tenacity's own loop does."""
    outcomes = tuple(ConnectionError() if fails else KeyError() for fails in ends)
    bounded = stop | stop_after_attempt(40)

    by_tenacity, by_messages = both(Schedule(wait, bounded, ends=outcomes, takes=takes), seed)

    assert by_messages == by_tenacity


@given(wait=WAITS, caps=RANGES, attempt=st.integers(1, 2_000), seed=st.integers(0, 99))
def test_caps_are_monotone(wait: Any, caps: tuple[float, float], attempt: int, seed: int) -> None:
    """A cap is the least of two, a higher one never waits less, and no wait is negative."""
    waits = []
    for cap in (*caps, 1e9):
        random.seed(seed)
        given = policy(wait=wait, attempts=10_000, max_wait=cap, stop=stop_never)
        decision = given.decide(Attempts(attempt=attempt, first_at=NOW), DOWN, NOW)
        assert isinstance(decision, RetryIn)
        waits.append(decision.seconds)

    tight, loose, free = waits
    assert 0 <= tight <= loose <= free
    assert abs(tight - min(free, caps[0])) <= 0.0005  # options are read to the millisecond


@given(
    multiplier=st.floats(0.001, 1_000),
    bounds=RANGES,
    base=st.floats(1.1, 10),
    attempt=st.integers(1, 5_000),
    seed=st.integers(0, 99),
)
def test_full_jitter_stays_in_its_bounds(
    multiplier: float, bounds: tuple[float, float], base: float, attempt: int, seed: int
) -> None:
    """Between the least wait and multiplier * base ** (attempt - 1), but never above the cap."""
    least, most = bounds
    random.seed(seed)
    wait = wait_random_exponential(multiplier=multiplier, max=most, exp_base=base, min=least)
    given = policy(wait=wait, attempts=10_000, stop=stop_never)

    decision = given.decide(Attempts(attempt=attempt, first_at=NOW), DOWN, NOW)

    assert isinstance(decision, RetryIn)
    grown = multiplier * base ** min(attempt - 1, 300)
    assert least - 1e-9 <= decision.seconds <= max(least, min(grown, most)) + 1e-9


@given(wait=WAITS, limit=LIMITS, takes=st.lists(SECONDS, min_size=1), seed=st.integers(0, 99))
def test_no_attempt_begins_after_the_limit(
    wait: Any, limit: float, takes: list[float], seed: int
) -> None:
    """With stop_before_delay every attempt begins before the limit, and waits sum up below it."""
    begun = lived(policy(wait=wait, stop=stop_before_delay(limit)), takes, seed)

    assert all(at < limit + 1e-5 for at, _ in begun[1:])
    assert sum(waited for _, waited in begun) < limit + 1e-5


@given(wait=WAITS, limit=LIMITS, takes=st.lists(SECONDS, min_size=1), seed=st.integers(0, 99))
def test_a_delay_is_passed_by_one_wait_only(
    wait: Any, limit: float, takes: list[float], seed: int
) -> None:
    """With stop_after_delay only the last attempt may begin after the limit."""
    begun = lived(policy(wait=wait, stop=stop_after_delay(limit)), takes, seed)

    assert all(at < limit + 1e-5 for at, _ in begun[1:-1])
    assert sum(waited for _, waited in begun[:-1]) < limit + 1e-5


@given(most=st.integers(1, 60), wait=WAITS, seed=st.integers(0, 99))
def test_attempts_are_never_exceeded(most: int, wait: Any, seed: int) -> None:
    """There are as many attempts as are allowed, the first included."""
    begun = lived(policy(attempts=most, wait=wait, stop=stop_never), [0.0], seed)

    assert len(begun) == most


@given(
    limit=st.floats(1, 50),
    pauses=st.floats(1, 100),
    skews=st.lists(st.floats(-1e6, 1e6), min_size=1),
)
def test_clocks_that_differ_end_it_all_the_same(
    limit: float, pauses: float, skews: list[float]
) -> None:
    """Whatever the clocks of the workers say, the waits are counted, so the time ends."""
    given = policy(attempts=10**6, wait=wait_fixed(pauses), stop=stop_before_delay(limit))
    now = NOW
    attempts = Attempts.begin(now + skews[0])
    for count in range(52):
        told = now + skews[count % len(skews)]
        assert attempts.elapsed(told) >= attempts.waited >= 0
        decision = given.decide(attempts, DOWN, told)
        if not isinstance(decision, RetryIn):
            break
        attempts = attempts.following(DOWN, told, decision.seconds)
        now += decision.seconds

    assert attempts.waited <= limit


@given(state=STATES, job=st.text(min_size=1))
def test_a_state_survives_its_message(state: Attempts, job: str) -> None:
    """What one worker wrote another reads, and nobody else."""
    encoded = json.loads(json.dumps(state.encode(job)))

    assert Attempts.parse(encoded, job) == state
    assert Attempts.parse(encoded, job + "'s other") is None


@given(value=ANY_JSON, fields=st.lists(ANY_JSON, max_size=6))
def test_any_header_can_be_read(value: Any, fields: list[Any]) -> None:
    """A stranger's header raises nothing, and what is taken from it can be decided on."""
    for said in (value, [1, "job", *fields], [1, "job", 2, *fields], [1, "job", 2, 0, 0, 0, value]):
        state = Attempts.parse(said, "job")
        if state is not None:
            assert Attempts.parse(state.encode("job"), "job") == state
            policy(retry=retry_always).decide(state, DOWN, NOW)
            state.account("retry_task", DOWN, NOW, "attempts")  # type: ignore[arg-type]


@given(
    name=st.sampled_from(["Retry-After", "X-Should-Retry", "Stripe-Should-Retry"]),
    value=st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} .*") | ANY_JSON,
    attribute=ANY_JSON | st.datetimes() | st.timedeltas(),
    pushback=ANY_JSON,
)
def test_anything_a_server_says(name: str, value: Any, attribute: Any, pushback: Any) -> None:
    """Advice is a wait, a refusal, or nothing; never an error."""
    for attributes in (
        {"headers": {name: value}},
        {"response": {"ResponseMetadata": {"HTTPHeaders": {name: value}}}},
        {"retry_after": attribute},
        {"trailing_metadata": lambda: [("grpc-retry-pushback-ms", pushback)]},
    ):
        error = ConnectionError()
        vars(error).update(attributes)
        advice = advised(Raised(error), NOW)
        assert advice in {None, DO_NOT_RETRY} or 0 <= advice < 1e12  # type: ignore[operator]
