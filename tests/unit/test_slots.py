"""Which firing of a schedule a call is."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reliable_tasks.core.slots import Slot, dated, latest_due_ms, spaced

MINUTE = 60_000
HOUR = 60 * MINUTE


@given(
    dues=st.lists(st.integers(1, 10_000), min_size=1, unique=True),
    gap_ms=st.sampled_from([1_000, MINUTE, 24 * HOUR]),
    since=st.floats(0, 10_000),
    length=st.floats(0, 10_000),
)
def test_last_due_time(dues: list[int], gap_ms: int, since: float, length: float) -> None:
    """Wherever a scheduler begins to look, it finds the last due time up to now."""
    times = sorted(each * gap_ms for each in dues)
    since_ms = round(since * gap_ms)
    now_ms = since_ms + round(length * gap_ms)

    def due_after(moment_ms: int) -> int | None:
        return next(iter(times[bisect_right(times, moment_ms) :]), None)

    found = latest_due_ms(due_after, since_ms, now_ms)

    assert found == max((each for each in times if since_ms < each <= now_ms), default=None)


def test_dated_slot_is_kept_until_the_next_is_due() -> None:
    """A beat that comes late asks for this slot until the next is due; a copy a horizon longer."""
    due = 100 * HOUR

    assert dated(due, due + HOUR, due + MINUTE, 6 * HOUR) == Slot(
        f"due {due}", 59 * MINUTE + 6 * HOUR, is_dated=True
    )
    assert dated(due, due, due + MINUTE, 6 * HOUR).keep_ms == 6 * HOUR


@pytest.mark.parametrize(
    ("wait_ms", "keep_ms"), [(1_000, 900), (10_000, 9_000), (24 * HOUR, 24 * HOUR - MINUTE)]
)
def test_window_of_a_spaced_slot(wait_ms: int, keep_ms: int) -> None:
    """The window leaves a tenth of the interval, and at most a minute, for what is uneven."""
    assert spaced("0:00:10", wait_ms) == Slot("every 0:00:10", keep_ms, is_dated=False)
