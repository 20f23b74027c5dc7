"""The decorators of retries as users type them: a function keeps its signature."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from tenacity import (
    RetryCallState,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
    wait_random,
    wait_random_exponential,
)

from reliable_tasks import (
    CircuitBreaker,
    GaveUp,
    RetriesExhausted,
    RetryBudget,
    retry_inline,
    retry_task,
)


class GatewayDown(Exception):
    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


def is_transient(error: Exception) -> bool:
    return isinstance(error, OSError)


def when_it_says(error: GatewayDown) -> float | timedelta | bool:
    return error.retry_after


def by_attempt(call: RetryCallState) -> float:
    return call.attempt_number / 2


@retry_inline(on=GatewayDown)
def charge(order_id: int, *, cents: int = 100) -> dict[str, int]:
    return {"charged": cents, "order": order_id}


class Gateway:
    @retry_inline(on=(GatewayDown, TimeoutError), attempts=4, within=timedelta(seconds=3))
    def refund(self, order_id: int) -> str | None:
        return f"{order_id}"

    @retry_inline(on=is_transient, wait=wait_fixed(0.1) + wait_random(0, 0.1))
    def ping(self) -> None:
        """Ask whether it is there."""


@retry_inline(on=when_it_says, wait=by_attempt, stop=stop_after_attempt(2) | stop_after_delay(1))
def by_answer(order_id: int) -> int:
    return order_id


@retry_inline(
    on=retry_if_exception_type(OSError),
    retry=retry_if_result(lambda state: state == "pending"),
    wait=wait_random_exponential(max=2),
)
def state_of(order_id: int) -> str:
    return "paid"


def tell(job: GaveUp) -> None:
    assert_type(job.attempts, int)
    assert_type(job.error, BaseException)


@retry_task(
    on=GatewayDown,
    attempts=8,
    wait=wait_fixed(1) + wait_random(0, 1),
    stop=stop_after_delay(60),
    max_wait=timedelta(minutes=5),
    budget=RetryBudget("gateway"),
    breaker=CircuitBreaker("gateway"),
    give_up=tell,
    dead_letter=True,
)
def settle(order_id: int, *, cents: int = 100) -> dict[str, int]:
    return {"charged": cents, "order": order_id}


@retry_task(retry=retry_if_result(lambda state: state == "pending"))
@retry_inline(on=when_it_says)
def both(order_id: int) -> str:
    return "paid"


def calls(gateway: Gateway) -> None:
    assert_type(settle(7, cents=5), dict[str, int])
    assert_type(both(7), str)
    assert_type(charge(7, cents=5), dict[str, int])
    assert_type(charge(order_id=7), dict[str, int])
    assert_type(gateway.refund(7), str | None)
    gateway.ping()
    assert_type(by_answer(7), int)
    try:
        assert_type(state_of(7), str)
    except RetriesExhausted as error:
        assert_type(error.attempts, int)
        assert_type(error.elapsed, float)


def mistakes() -> None:
    settle("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    retry_task(on=GatewayDown, budget="gateway")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    charge("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    charge(7, 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    retry_inline(on=GatewayDown, attempts="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
