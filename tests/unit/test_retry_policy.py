"""One policy: how an attempt ended, to a wait or to the end, as tenacity's own loop has it."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import tenacity
from celery.exceptions import Ignore
from tenacity import (
    RetryCallState,
    Retrying,
    TryAgain,
    retry_always,
    retry_base,
    retry_if_exception,
    retry_if_exception_cause_type,
    retry_if_exception_message,
    retry_if_exception_type,
    retry_if_not_exception_message,
    retry_if_not_exception_type,
    retry_if_not_result,
    retry_if_result,
    retry_never,
    retry_unless_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_before_delay,
    stop_never,
    wait_chain,
    wait_combine,
    wait_exponential,
    wait_exponential_jitter,
    wait_fixed,
    wait_incrementing,
    wait_none,
    wait_random,
    wait_random_exponential,
)

from reliable_tasks.errors import ConfigurationError
from reliable_tasks.retry.attempts import (
    MAX_PAST,
    Attempts,
    Outcome,
    Past,
    Raised,
    Reason,
    RetryIn,
    Returned,
    Stop,
)
from reliable_tasks.retry.policy import RetryPolicy, read_policy
from tests.schedules import Schedule, both

NOW = 1_000.0
DOWN = Raised(ConnectionError("no route"))


class GatewayDown(Exception):
    pass


def policy(**given: Any) -> RetryPolicy:
    """A policy of `retry_task`, with its defaults."""
    defaults: dict[str, Any] = {
        "on": None, "attempts": 5, "wait": None, "stop": None, "retry": None, "max_wait": 3_600,
    }  # fmt: skip
    if "retry" not in given:
        defaults["on"] = (ConnectionError, GatewayDown)
    return read_policy(**{**defaults, **given})


# --- step by step beside tenacity's own loop ----------------------------------------------


def is_even(call: RetryCallState) -> bool:
    return call.attempt_number % 2 == 0


def by_idle_time(call: RetryCallState) -> float:
    return 1 + call.idle_for / 4


CAUSED = GatewayDown("down")
CAUSED.__cause__ = ConnectionError("down")

SCHEDULES = {
    "fixed": Schedule(),
    "none": Schedule(wait=wait_none()),
    "random": Schedule(wait=wait_random(1, 3)),
    "exponential": Schedule(wait=wait_exponential(multiplier=0.3, max=5)),
    "exponential with a least wait": Schedule(wait=wait_exponential(min=3, max=9, exp_base=3)),
    "full jitter": Schedule(wait=wait_random_exponential(multiplier=0.5, max=4)),
    "full jitter with a least wait": Schedule(wait=wait_random_exponential(min=1, max=40)),
    "exponential and jitter": Schedule(wait=wait_exponential_jitter(max=20, jitter=2)),
    "incrementing": Schedule(wait=wait_incrementing(start=1, increment=2.5, max=7)),
    "decrementing": Schedule(wait=wait_incrementing(start=5, increment=-2)),
    "chain": Schedule(wait=wait_chain(wait_fixed(1), wait_fixed(3), wait_random(5, 6))),
    "sum": Schedule(wait=wait_fixed(3) + wait_random(0, 2)),
    "sum of three": Schedule(
        wait=wait_combine(wait_fixed(1), wait_random(0, 1), wait_exponential(max=8))
    ),
    "a function of the waits so far": Schedule(wait=by_idle_time),
    "stop after a delay": Schedule(stop=stop_after_delay(10)),
    "stop before a delay": Schedule(stop=stop_before_delay(10)),
    "stop before a delay, with jitter": Schedule(
        stop=stop_before_delay(30), wait=wait_random_exponential(multiplier=2)
    ),
    "either stop": Schedule(stop=stop_after_attempt(9) | stop_after_delay(11)),
    "both stops": Schedule(stop=stop_after_attempt(3) & stop_after_delay(11)),
    "a function stops": Schedule(stop=is_even),
    "never stop, it recovers": Schedule(
        stop=stop_never, ends=(*[ConnectionError("down")] * 20, "paid")
    ),
    "another error in between": Schedule(
        ends=(ConnectionError("down"), ConnectionError("down"), KeyError("order"))
    ),
    "results": Schedule(
        retry=retry_if_result(lambda answer: answer == "pending"), ends=("pending",) * 3 + ("paid",)
    ),
    "results for ever": Schedule(retry=retry_if_not_result(bool), ends=(None,)),
    "errors or results": Schedule(
        retry=retry_if_exception_type(OSError) | retry_if_result(lambda answer: answer is None),
        ends=(ConnectionError("down"), None, TimeoutError(), None, "paid"),
    ),
    "errors and messages": Schedule(
        retry=retry_if_exception_type(OSError) & retry_if_exception_message(match="down"),
        ends=(OSError("down"), ConnectionError("down again"), OSError("up")),
    ),
    "not those errors": Schedule(
        retry=retry_if_not_exception_type((KeyError, ValueError)),
        ends=(OSError("down"), GatewayDown(), ValueError()),
    ),
    "not that message": Schedule(
        retry=retry_if_not_exception_message(message="final"),
        ends=(OSError("first"), OSError("final")),
    ),
    "until an error": Schedule(
        retry=retry_unless_exception_type(KeyError),
        ends=("again", OSError("down"), KeyError("end")),
    ),
    "causes": Schedule(
        retry=retry_if_exception_cause_type(ConnectionError), ends=(CAUSED, GatewayDown("else"))
    ),
    "a predicate": Schedule(
        retry=retry_if_exception(lambda error: "down" in str(error)),
        ends=(OSError("down"), OSError("out")),
    ),
    "always": Schedule(retry=retry_always, ends=(OSError("down"), "some", None)),
    "never": Schedule(retry=retry_never),
    "a function decides": Schedule(retry=lambda call: not is_even(call), ends=(OSError("down"),)),
    "its own word": Schedule(ends=(TryAgain(), ConnectionError("down"), TryAgain(), "paid")),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_schedule_is_tenacitys(name: str) -> None:
    """Each wait and the end are those of tenacity's own loop, though the state was in messages."""
    by_tenacity, by_messages = both(SCHEDULES[name], seed=7)

    assert by_messages == by_tenacity


def test_the_table_is_long_enough_to_be_one() -> None:
    """There are thirty schedules at least."""
    assert len(SCHEDULES) >= 30


def test_a_call_state_has_what_tenacitys_has() -> None:
    """An object that looks at anything else of the state finds it, too."""
    seen: dict[str, Any] = {}

    def look(call: RetryCallState) -> bool:
        seen.update(vars(call), since=call.seconds_since_start, shown=repr(call))
        return False

    attempts = Attempts(attempt=3, first_at=NOW - 60, waited=40.0)
    policy(stop=look, wait=wait_fixed(7)).decide(attempts, DOWN, NOW)

    assert seen["attempt_number"] == seen["outcome"].attempt_number == 3
    assert seen["since"] == pytest.approx(60)
    assert seen["idle_for"] == 40
    assert seen["upcoming_sleep"] == 7
    assert set(seen) >= set(vars(RetryCallState(Retrying(), None, (), {})))
    assert "attempt #3; slept for 40.0; last result: failed (ConnectionError" in seen["shown"]


# --- what is worth another attempt --------------------------------------------------------


def decide(given: RetryPolicy, outcome: Outcome, *, attempt: int = 1) -> RetryIn | Stop:
    return given.decide(Attempts(attempt=attempt, first_at=NOW), outcome, NOW)


UNRETRYABLE = Stop(Reason.UNRETRYABLE)


def test_classes() -> None:
    """A class means its subclasses, too; a tuple any of them."""
    for on in (OSError, (KeyError, OSError)):
        assert isinstance(decide(policy(on=on), DOWN), RetryIn)
        assert decide(policy(on=on), Raised(ValueError())) == UNRETRYABLE
        assert decide(policy(on=on), Returned(OSError())) == UNRETRYABLE


@pytest.mark.parametrize(
    ("answer", "decision"),
    [
        (False, UNRETRYABLE),
        (0, RetryIn(0)),
        (0.25, RetryIn(0.25)),
        (90, RetryIn(90)),
        (timedelta(minutes=2), RetryIn(120)),
        (True, RetryIn(4)),
    ],
)
def test_a_function_answers(answer: object, decision: object) -> None:
    """True, False, or the seconds to wait; no seconds are at once, which is not False."""
    assert decide(policy(on=lambda error: answer, wait=wait_fixed(4)), DOWN) == decision


@pytest.mark.parametrize("answer", [None, "5", -1, -0.1, float("nan"), float("inf"), object()])
def test_a_function_that_does_not_answer(answer: object) -> None:
    """What is none of the answers is said to be none, and by which function."""

    def is_transient(error: Exception) -> Any:
        return answer

    with pytest.raises(ConfigurationError, match=r"on: .*is_transient\(\): expected .* got"):
        decide(policy(on=is_transient), DOWN)


def test_a_function_is_asked_about_errors_only() -> None:
    """A result is for `retry` to judge."""
    assert decide(policy(on=lambda error: 1 / 0), Returned(None)) == UNRETRYABLE


def test_either_is_enough() -> None:
    """With `on` and `retry`, what one of them wants is tried again."""
    given = policy(on=GatewayDown, retry=retry_if_result(lambda value: value is None))

    assert isinstance(decide(given, Raised(GatewayDown())), RetryIn)
    assert isinstance(decide(given, Returned(None)), RetryIn)
    assert decide(given, Raised(OSError())) == UNRETRYABLE
    assert decide(given, Returned(7)) == UNRETRYABLE


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), Ignore()])
def test_what_is_never_tried_again(error: BaseException) -> None:
    """What ends a process, and what the caller names, whatever the options say."""
    given = policy(on=lambda error: True, retry=retry_always, never=(Ignore,))

    assert decide(given, Raised(error)) == UNRETRYABLE


# --- how long, and how often --------------------------------------------------------------


def advising(seconds: float) -> Raised:
    error = GatewayDown()
    error.retry_after = seconds  # type: ignore[attr-defined]
    return Raised(error)


def test_whose_word_it_is() -> None:
    """The function's seconds, else the server's, else the wait object's."""
    assert decide(policy(wait=wait_fixed(4)), advising(30)) == RetryIn(30)
    assert decide(policy(on=lambda error: 2, wait=wait_fixed(4)), advising(30)) == RetryIn(2)
    assert decide(policy(on=lambda error: True, wait=wait_fixed(4)), advising(30)) == RetryIn(30)


def test_whoever_asks_the_wait_is_bounded() -> None:
    """max_wait caps the object's, the function's and the server's; nobody waits less than 0."""
    for given, outcome in (
        (policy(max_wait=60, wait=wait_fixed(90)), DOWN),
        (policy(max_wait=60, wait=lambda call: float("inf")), DOWN),
        (policy(max_wait=60, on=lambda error: timedelta(days=1)), DOWN),
        (policy(max_wait=timedelta(minutes=1)), advising(86_400)),
    ):
        assert decide(given, outcome) == RetryIn(60)
    assert decide(policy(wait=lambda call: -5), DOWN) == RetryIn(0)
    assert decide(policy(max_wait=0), advising(86_400)) == RetryIn(0)


def test_a_server_that_does_not_want_it() -> None:
    """Do not retry is the end, though attempts are left."""
    error = GatewayDown()
    error.headers = {"x-should-retry": "false"}  # type: ignore[attr-defined]

    assert decide(policy(), Raised(error)) == Stop(Reason.REFUSED)
    assert decide(policy(on=lambda error: 5), Raised(error)) == Stop(Reason.REFUSED)
    assert decide(policy(on=KeyError), Raised(error)) == UNRETRYABLE


def test_attempts_count_the_first() -> None:
    """Five attempts are the first and four others; one is never followed by another."""
    assert isinstance(decide(policy(), DOWN, attempt=4), RetryIn)
    assert decide(policy(), DOWN, attempt=5) == Stop(Reason.ATTEMPTS)
    assert decide(policy(attempts=1), DOWN) == Stop(Reason.ATTEMPTS)
    assert decide(replace(policy(), attempts=2), DOWN, attempt=2) == Stop(Reason.ATTEMPTS)


def test_stop_sees_the_wait_that_comes() -> None:
    """By default no wait begins that would end an hour after the first attempt began."""
    an_hour_ago = Attempts(attempt=2, first_at=NOW - 3_500)

    assert policy(wait=wait_fixed(99)).decide(an_hour_ago, DOWN, NOW) == RetryIn(99)
    assert policy(wait=wait_fixed(101)).decide(an_hour_ago, DOWN, NOW) == Stop(Reason.STOP)
    assert policy().decide(an_hour_ago, advising(101), NOW) == Stop(Reason.STOP)
    assert policy(on=lambda error: 101).decide(an_hour_ago, DOWN, NOW) == Stop(Reason.STOP)


EVEN = {
    "the default": (None, 4, 0, 8),
    "the default's first": (None, 1, 0, 1),
    "the default's cap": (None, 30, 0, 300),
    "full jitter": (wait_random_exponential(multiplier=0.1, max=2), 3, 0, 0.4),
    "full jitter at its cap": (wait_random_exponential(multiplier=0.1, max=2), 9, 0, 2),
    "equal jitter": (
        wait_exponential(multiplier=0.5, max=5) + wait_random_exponential(multiplier=0.5, max=5),
        4, 4, 8,
    ),
    "jitter beside the wait": (wait_exponential_jitter(max=60, jitter=2), 4, 8, 10),
    "random": (wait_random(2, 5), 7, 2, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", EVEN)
def test_jitter_is_even(name: str) -> None:
    """Any wait between the bounds is as likely as another, and none is beyond them."""
    wait, attempt, least, most = EVEN[name]
    given = policy(wait=wait, attempts=100, stop=stop_never)
    random.seed(11)
    tenths = Counter[int]()
    for _ in range(4_000):
        decision = decide(given, DOWN, attempt=attempt)
        assert isinstance(decision, RetryIn)
        assert least <= decision.seconds <= most
        tenths[min(9, int(10 * (decision.seconds - least) / (most - least)))] += 1

    assert all(tenths[tenth] == pytest.approx(400, abs=95) for tenth in range(10))  # 5 sigma


# --- what cannot work ---------------------------------------------------------------------


async def is_transient(error: Exception) -> bool:
    return True


class Asynchronous(retry_base):
    """As those of tenacity.asyncio."""

    async def __call__(self, retry_state: RetryCallState) -> bool:
        return True


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"on": None}, "on: expected what is worth another attempt.*got neither"),
        ({"on": BaseException}, "on: expected classes of errors below Exception"),
        ({"on": KeyboardInterrupt}, "below Exception"),
        ({"on": ()}, r"got \(\)"),
        ({"on": (OSError, "TimeoutError")}, "below Exception"),
        ({"on": int}, "below Exception"),
        ({"on": [OSError]}, "on: expected a class of errors or a tuple of them, a retry_. object"),
        ({"on": lambda: True}, "on: expected .* a plain function that takes the error"),
        ({"on": lambda error, more: True}, "a plain function that takes the error"),
        ({"on": (OSError, KeyError), "never": (LookupError,)}, "got KeyError, which is never"),
        ({"on": "OSError"}, "got 'OSError'"),
        ({"on": 5}, "got 5"),
        ({"on": wait_fixed(5)}, "on: expected .* a plain function that takes the error"),
        ({"on": stop_never}, "on: expected"),
        ({"on": is_transient}, "on: expected .* a plain function"),
        ({"on": partial(is_transient)}, "on: expected .* a plain function"),
        ({"on": Asynchronous()}, "on: expected .* a plain function"),
        ({"retry": Asynchronous()}, "retry: expected"),
        ({"wait": 5}, r"wait: expected an object of tenacity such as wait_fixed\(5\), got 5"),
        ({"wait": wait_fixed}, "wait: expected"),
        ({"wait": stop_never}, "wait: expected"),
        ({"wait": is_transient}, "wait: expected"),
        ({"stop": 60}, r"stop: expected an object of tenacity such as stop_before_delay\(600\)"),
        ({"stop": wait_none()}, "stop: expected"),
        ({"stop": stop_after_attempt}, "stop: expected"),
        ({"retry": OSError}, r"retry: expected an object of tenacity such as retry_if_result"),
        ({"retry": retry_if_result}, "retry: expected"),
        ({"retry": stop_never}, "retry: expected"),
        ({"attempts": 0}, "attempts: expected a whole number from 1, the first included, got 0"),
        ({"attempts": True}, "got True"),
        ({"attempts": 2.0}, "got 2.0"),
        ({"attempts": None}, "got None"),
        ({"max_wait": -1}, "max_wait: expected seconds .* at least 0, got -1"),
        ({"max_wait": None}, "got None"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], expected: str) -> None:
    """A wrong value is named with what was expected, when the decorator is made."""
    with pytest.raises(ConfigurationError, match=expected):
        policy(**{"on": OSError, **given})


@pytest.mark.parametrize("answer", [None, "5", True, float("nan")])
def test_a_wait_that_is_none(answer: object) -> None:
    """A function in the place of a wait object answers seconds."""
    with pytest.raises(ConfigurationError, match="wait: expected seconds, got"):
        decide(policy(wait=lambda call: answer), DOWN)


# --- the state ----------------------------------------------------------------------------


def test_the_next_attempt() -> None:
    """It knows how many there were, since when, how they ended, and when it may begin."""
    first = Attempts.begin(NOW)
    second = first.following(DOWN, NOW + 1, 4)
    third = second.following(Returned("secret"), NOW + 6, 8)

    assert (first.attempt, first.due_at, first.waited, first.past) == (1, 0, 0, ())
    assert third == Attempts(
        attempt=3,
        first_at=NOW,
        waited=12,
        due_at=NOW + 14,
        past=(Past("ConnectionError", 1), Past(None, 6)),
    )
    assert "secret" not in json.dumps(third.encode("job"))


def test_only_the_last_attempts_are_named() -> None:
    """A message does not grow with each attempt for ever."""
    attempts = Attempts.begin(NOW)
    for _ in range(100):
        attempts = attempts.following(DOWN, NOW, 1)

    assert len(attempts.past) == MAX_PAST
    notes = attempts.account("retry_task", DOWN, NOW + 3, Reason.ATTEMPTS)
    assert notes[0].startswith("retry_task: attempt 85 ended")
    assert notes[-2].startswith("retry_task: attempt 101 ended")


def test_a_clock_that_is_behind() -> None:
    """What was waited is over, whatever the clock of this worker says."""
    attempts = Attempts(attempt=3, first_at=NOW, waited=70.0)

    assert attempts.elapsed(NOW - 500) == 70
    assert attempts.elapsed(NOW + 90) == 90
    assert policy(stop=stop_after_delay(60)).decide(attempts, DOWN, NOW - 500) == Stop(Reason.STOP)


def test_names_of_errors() -> None:
    """A class has its module before it, unless everybody knows it; a long name keeps its end."""
    assert Raised(KeyError("order")).kind == "KeyError"
    assert Raised(GatewayDown()).kind == f"{__name__}.GatewayDown"
    assert Raised(tenacity.TryAgain()).kind == "tenacity.TryAgain"
    long = type("Down" * 100, (Exception,), {"__module__": "shop"})
    assert Raised(long()).kind == ("Down" * 100)[-128:]


@pytest.mark.parametrize(
    "value",
    [
        None, [], {}, "1", 7, [1, "job"], [2, "job", 1, 0, 0, 0, []], [True, "job", 1, 0, 0, 0, []],
        [1, "other", 1, 0, 0, 0, []], [1, "job", 0, 0, 0, 0, []], [1, "job", 1.0, 0, 0, 0, []],
        [1, "job", True, 0, 0, 0, []], [1, "job", 2**60, 0, 0, 0, []], [1, "job", 1, -1, 0, 0, []],
        [1, "job", 1, float("nan"), 0, 0, []], [1, "job", 1, 0, float("inf"), 0, []],
        [1, "job", 1, 0, "0", 0, []], [1, "job", 1, 0, 0, None, []], [1, "job", 1, 10**400, 0, 0],
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_read_is_none(value: object) -> None:
    """What a stranger sends, or another message's state, makes a first attempt and no error."""
    assert Attempts.parse(value, "job") is None


@pytest.mark.parametrize(
    "past",
    [
        None,
        "past",
        [["KeyError"]],
        [["KeyError", "1"]],
        [[7, 1]],
        [["E", -1]],
        [["E" * 200, 1]],
        [["E", 1]] * 17,
    ],
)
def test_a_history_that_cannot_be_read_is_empty(past: object) -> None:
    """The count and the times are worth more than the names."""
    assert Attempts.parse([1, "job", 3, NOW, 5, 0, past], "job") == Attempts(
        attempt=3, first_at=NOW, waited=5.0
    )


def test_a_newer_release_may_say_more() -> None:
    """Fields at the end are ignored; a history longer than the count is cut."""
    encoded = [1, "job", 2, NOW, 5, 0, [["A", 1], ["B", 2]], "more", {}]

    assert Attempts.parse(encoded, "job") == Attempts(
        attempt=2, first_at=NOW, waited=5.0, past=(Past("B", 2),)
    )
