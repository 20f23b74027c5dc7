"""The same schedule by tenacity's own loop, and by our policy with its state in messages."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_fixed,
)

from reliable_tasks.retry.attempts import Attempts, Outcome, Raised, Reason, RetryIn, Returned, Stop
from reliable_tasks.retry.policy import read_policy

BEGIN = 1_000.0


class Clock:
    """A clock that sleepers and bodies move."""

    def __init__(self) -> None:
        self.now = BEGIN

    def sleep(self, seconds: float) -> None:
        self.now += seconds


TWO_SECONDS = wait_fixed(2)
SEVEN_ATTEMPTS = stop_after_attempt(7)
NO_CONNECTION = retry_if_exception_type(ConnectionError)


@dataclass(frozen=True)
class Schedule:
    """What both are given: objects of tenacity, and how the calls end, the last one for ever."""

    wait: Any = TWO_SECONDS
    stop: Any = SEVEN_ATTEMPTS
    retry: Any = NO_CONNECTION
    ends: tuple[Any, ...] = (ConnectionError("down"),)
    takes: float = 0.5  # seconds that a call lasts


def called(schedule: Schedule, clock: Clock) -> Callable[[], Any]:
    left = iter(schedule.ends)

    def call() -> Any:
        clock.sleep(schedule.takes)
        end = next(left, schedule.ends[-1])
        if isinstance(end, BaseException):
            raise end
        return end

    return call


def by_tenacity(schedule: Schedule, clock: Clock) -> list[Any]:
    """Return the waits of tenacity's loop, and what came out of it."""
    steps: list[Any] = []

    def sleep(seconds: float) -> None:
        steps.append(float(seconds))
        clock.sleep(seconds)

    loop = Retrying(sleep=sleep, wait=schedule.wait, stop=schedule.stop, retry=schedule.retry)
    try:
        result = loop(called(schedule, clock))
    except RetryError as error:
        return [*steps, "given up", error.last_attempt.attempt_number]
    except Exception as error:
        return [*steps, type(error)]
    return [*steps, result]


def by_messages(schedule: Schedule, clock: Clock) -> list[Any]:
    """Return the same of our policy, whose state goes through a message after each attempt."""
    ours = read_policy(
        on=None,
        retry=schedule.retry,
        attempts=10**6,
        wait=schedule.wait,
        stop=schedule.stop,
        max_wait=1e9,
    )
    call = called(schedule, clock)
    steps: list[Any] = []
    message = json.dumps(Attempts.begin(clock.now).encode("job"))
    while True:
        attempts = Attempts.parse(json.loads(message), "job")
        assert attempts is not None
        outcome = ended(call)
        match ours.decide(attempts, outcome, clock.now):
            case RetryIn(seconds):
                steps.append(seconds)
                message = json.dumps(attempts.following(outcome, clock.now, seconds).encode("job"))
                clock.sleep(seconds)
            case Stop(Reason.UNRETRYABLE):
                is_value = isinstance(outcome, Returned)
                return [*steps, outcome.value if is_value else type(outcome.error)]
            case Stop():
                return [*steps, "given up", attempts.attempt]


def ended(call: Callable[[], Any]) -> Outcome:
    try:
        return Returned(call())
    except Exception as error:
        return Raised(error)


def both(schedule: Schedule, seed: int) -> tuple[list[Any], list[Any]]:
    """Return the steps of each, which are the same if our policy is right."""
    runs = []
    for run in (by_tenacity, by_messages):
        clock = Clock()
        random.seed(seed)
        with patch("time.monotonic", lambda clock=clock: clock.now):
            runs.append(run(schedule, clock))
    return runs[0], runs[1]
