"""What the tasks of the traces do."""

from __future__ import annotations

from tests.traces.delivery import Delivery, TaskError

__all__ = ("checks_first", "fails", "kills", "pays", "retries_once")


def pays(run: Delivery) -> None:
    """Take effect."""
    run.take_effect()


def checks_first(run: Delivery) -> None:
    """Take effect if the lease still holds."""
    assert run.lease is not None
    run.step("check")
    run.lease.check()
    run.take_effect()


def retries_once(run: Delivery) -> None:
    """Retry the first time, take effect the second time."""
    if run.retries == 0:
        run.retry()
    run.take_effect()


def fails(run: Delivery) -> None:
    """Raise."""
    run.step("raise")
    raise TaskError("no")


def kills(run: Delivery) -> None:
    """Kill the process."""
    run.step("crash")
    raise AssertionError("the test lets it live")
