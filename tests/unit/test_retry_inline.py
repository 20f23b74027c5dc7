"""A blip of a few seconds is retried in place, by tenacity's own loop."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from tenacity import (
    TryAgain,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
    wait_none,
)

from reliable_tasks import (
    ConfigurationError,
    LeaseLost,
    RetriesExhausted,
    retry_inline,
    retry_task,
)
from reliable_tasks.retry.switch import Switch, turned


class GatewayDown(Exception):
    def __init__(self, *args: Any, retry_after: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits, none of which takes any time, though the clock goes on by it."""
    waits: list[float] = []
    now = 1_000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        waits.append(float(seconds))

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("time.monotonic", lambda: now)
    return waits


def failing(*outcomes: Any) -> Callable[..., Any]:
    """A function whose calls end so, one after the other; the last one for ever."""
    left = iter(outcomes)
    last = outcomes[-1]

    def call() -> Any:
        outcome = next(left, last)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return call


def test_a_blip_is_over_at_the_second_attempt(slept: list[float]) -> None:
    """The caller gets the result, after one short wait."""
    call = retry_inline(on=GatewayDown)(failing(GatewayDown(), GatewayDown(), "paid"))

    assert call() == "paid"
    assert len(slept) == 2
    assert slept[0] <= 0.1
    assert slept[1] <= 0.2


def test_the_last_error_is_raised_as_it_is(slept: list[float]) -> None:
    """Three attempts by default, each of which the error's notes name without its text."""
    error = GatewayDown("card 4111")
    call = retry_inline(on=(GatewayDown, TimeoutError), wait=wait_fixed(1))(
        failing(TimeoutError("card 4111"), error)
    )

    with pytest.raises(GatewayDown) as raised:
        call()

    assert raised.value is error
    assert raised.value.__notes__ == [
        "retry_inline: attempt 1 ended after 0.0 s: TimeoutError",
        f"retry_inline: attempt 2 ended after 1.0 s: {__name__}.GatewayDown",
        f"retry_inline: attempt 3 ended after 2.0 s: {__name__}.GatewayDown",
        "retry_inline: not tried again: that was the last attempt",
    ]
    assert slept == [1, 1]


def test_other_errors_pass_at_once(slept: list[float]) -> None:
    """What `on` does not name is a failure like any other, without notes."""
    call = retry_inline(on=GatewayDown)(failing(KeyError("order")))

    with pytest.raises(KeyError) as raised:
        call()

    assert slept == []
    assert not hasattr(raised.value, "__notes__")


@pytest.mark.parametrize(
    "error",
    [
        Ignore(), Reject("no"), Retry(), SoftTimeLimitExceeded(), LeaseLost("k", 30, 41),
        KeyboardInterrupt(), SystemExit(1),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_is_no_failure_of_the_call_passes(slept: list[float], error: BaseException) -> None:
    """Celery's own way out, the end of a task's time and a lost lease end the attempts."""
    call = retry_inline(on=Exception, retry=retry_if_exception_type(BaseException))(failing(error))

    with pytest.raises(type(error)):
        call()

    assert slept == []


def test_a_result_can_be_tried_again(slept: list[float]) -> None:
    """`retry` looks at results; one that passes is the answer."""
    wants = retry_if_result(lambda answer: answer == "pending")

    assert retry_inline(retry=wants)(failing("pending", "paid"))() == "paid"
    with pytest.raises(RetriesExhausted) as raised:
        retry_inline(retry=wants, wait=wait_fixed(1))(failing("pending"))()
    assert (raised.value.attempts, raised.value.elapsed) == (3, 2.0)
    assert raised.value.__notes__[0] == (
        "retry_inline: attempt 1 ended after 0.0 s: an unwanted result"
    )


def test_the_word_of_tenacity_is_kept(slept: list[float]) -> None:
    """TryAgain is tried again, whatever `on` says."""
    assert retry_inline(on=GatewayDown)(failing(TryAgain(), "paid"))() == "paid"
    with pytest.raises(TryAgain):
        retry_inline(on=GatewayDown)(failing(TryAgain()))()


def test_a_server_that_asks_for_patience_is_heard(slept: list[float]) -> None:
    """A wait that fits is waited, to the millisecond."""
    call = retry_inline(on=GatewayDown)(failing(GatewayDown(retry_after=2.5), "paid"))

    assert call() == "paid"
    assert slept == [2.5]


@pytest.mark.parametrize("seconds", [5, 30, 86_400])
def test_patience_that_does_not_fit_is_the_queues(slept: list[float], seconds: float) -> None:
    """A server that asks for more than `within` ends the attempts with its error at once."""
    error = GatewayDown(retry_after=seconds)

    with pytest.raises(GatewayDown) as raised:
        retry_inline(on=GatewayDown, attempts=9)(failing(error))()

    assert slept == []
    assert raised.value is error
    assert "would come next" in raised.value.__notes__[-1]


def test_no_wait_begins_that_ends_too_late(slept: list[float]) -> None:
    """`within` bounds the total, however many attempts there are."""
    call = retry_inline(on=GatewayDown, attempts=100, wait=wait_fixed(0.9), within=4)

    with pytest.raises(GatewayDown):
        call(failing(GatewayDown()))()

    assert slept == [0.9] * 4


def test_a_stop_of_tenacity_holds_beside_the_total(slept: list[float]) -> None:
    """A `stop` object, or a function in its place, ends the attempts earlier."""
    for stop in (stop_after_attempt(2), lambda call: call.attempt_number >= 2):
        slept.clear()
        with pytest.raises(GatewayDown):
            retry_inline(on=GatewayDown, attempts=9, stop=stop)(failing(GatewayDown()))()
        assert len(slept) == 1

    with pytest.raises(GatewayDown):
        retry_inline(on=GatewayDown, attempts=100, stop=stop_after_delay(60), wait=wait_fixed(1))(
            failing(GatewayDown())
        )()
    assert len(slept) == 1 + 4


@dataclass(frozen=True)
class Frozen(Exception):
    """An error that takes no notes."""

    order: int


def test_an_error_that_takes_no_notes(slept: list[float]) -> None:
    """What cannot be noted is left out; the error is the body's."""
    with pytest.raises(Frozen):
        retry_inline(on=Frozen)(failing(Frozen(7)))()


def test_a_mistake_in_an_option_hides_no_error(slept: list[float]) -> None:
    """Where a function of the user fails, its error stands beside the body's."""
    for given in ({"on": lambda error: 1 / 0}, {"on": OSError, "wait": lambda call: 1 / 0}):
        with pytest.raises(ZeroDivisionError) as raised:
            retry_inline(**given)(failing(OSError("down")))()  # type: ignore[arg-type]
        assert isinstance(raised.value.__context__, OSError)


def test_a_call_inside_a_call_counts_for_itself(slept: list[float]) -> None:
    """A function that calls itself, or runs in other threads, has attempts of its own each time."""
    ran: list[int] = []

    @retry_inline(on=GatewayDown, wait=wait_none())
    def call(depth: int) -> None:
        ran.append(depth)
        if depth:
            try:
                call(depth - 1)
            except GatewayDown as error:
                raise GatewayDown from error
        raise GatewayDown

    with pytest.raises(GatewayDown):
        call(1)
    assert ran == [1, 0, 0, 0] * 3

    ran.clear()
    threads = [threading.Thread(target=pytest.raises, args=(GatewayDown, call, 0)) for _ in "abc"]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert ran == [0] * 9


def test_tests_turn_waits_and_attempts(slept: list[float]) -> None:
    """The switch holds for the calls in its block."""
    call = retry_inline(on=GatewayDown, attempts=5)(failing(GatewayDown()))

    with turned(Switch(waits=False, attempts=2)), pytest.raises(GatewayDown) as raised:
        call()

    assert slept == []
    assert len(raised.value.__notes__) == 3


def test_the_signature_is_kept() -> None:
    """Name, arguments and documentation are the function's own; a method stays one."""

    class Gateway:
        @retry_inline(on=GatewayDown)
        def charge(self, order: int, *, cents: int = 5) -> str:
            """Take the money."""
            return f"{order}: {cents}"

    assert Gateway().charge(7, cents=2) == "7: 2"
    assert (
        str(inspect.signature(Gateway().charge)) == "(order: 'int', *, cents: 'int' = 5) -> 'str'"
    )
    assert Gateway.charge.__doc__ == "Take the money."


async def fetch() -> None:
    """Wait for nothing."""


def generator() -> Iterator[int]:
    yield 1


async def both() -> Any:
    yield 1


class Called:
    async def __call__(self) -> None:
        """Wait for nothing."""


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (fetch, r"got the asynchronous fetch\(\). Run it with asyncio.run"),
        (both, r"got the asynchronous both\(\)"),
        (Called(), "got the asynchronous Called"),
        (generator, r"got the generator generator\(\). Calling it runs nothing"),
        (
            staticmethod(len),
            "expected a plain function, got a staticmethod. Put @retry_inline below",
        ),
        (classmethod(len), "got a classmethod"),  # type: ignore[arg-type]
        (GatewayDown, "expected a function, got <class"),
        ("charge", "expected a function, got 'charge'"),
    ],
)
def test_what_cannot_be_called_again_is_refused(function: Any, expected: str) -> None:
    """A coroutine function, a generator and a class are no functions that can fail."""
    with pytest.raises(ConfigurationError, match=f"^retry_inline: .*{expected}"):
        retry_inline(on=GatewayDown)(function)


def test_a_task_is_refused() -> None:
    """Above @app.task the decorator would retry what publishes, if anything."""
    app = Celery("unit", broker="memory://", set_as_current=False)
    task = app.task(name="shop.charge", shared=False)(generator)

    with pytest.raises(ConfigurationError, match=r"task shop.charge. Put @retry_inline below @app"):
        retry_inline(on=GatewayDown)(task)
    with pytest.raises(ConfigurationError, match=r"got the task shop\.charge"):
        retry_inline(on=GatewayDown)(task.s())
    app.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"within": 10.1}, "within: expected at most 10 s, got 10.1 s. .* with @retry_task"),
        ({"within": timedelta(minutes=1)}, "got 60 s"),
        ({"within": 0}, "within: expected seconds .* at least 0.001, got 0"),
        ({"within": "5"}, "got '5'"),
        ({"attempts": 0}, "attempts: expected a whole number from 1"),
        ({"on": None}, "on: expected what is worth another attempt"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(given: dict[str, Any], expected: str) -> None:
    """A wrong value is named with what was expected, when the function is decorated."""
    with pytest.raises(ConfigurationError, match=expected):
        retry_inline(**{"on": GatewayDown, **given})


def test_nothing_of_tenacity_runs_without_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt is a plain call: what succeeds pays nothing for the loop."""
    monkeypatch.delattr("reliable_tasks.retry.loop.Retrying")

    assert retry_inline(on=OSError)(failing("paid"))() == "paid"


def test_the_first_attempt_counts_towards_the_total(slept: list[float]) -> None:
    """Time is counted from its beginning, not from its failure."""

    @retry_inline(on=OSError, wait=wait_fixed(1), within=5, attempts=9)
    def slow() -> None:
        time.sleep(4.5)
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011 - any
        slow()

    assert slept == [4.5]


def test_attempts_in_place_come_first() -> None:
    """Around retry_task it would run what was given up, or kept among the dead letters."""
    with pytest.raises(ConfigurationError, match="put @retry_inline below @retry_task"):
        retry_inline(on=OSError)(retry_task(on=OSError)(failing("paid")))
