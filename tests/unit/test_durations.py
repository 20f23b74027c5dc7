"""How long a message waits for its turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reliable_tasks.core.durations import HOPS_PER_REPLACEMENT, outage_wait_ms, turn_wait_ms

hops = st.integers(0, 10_000)
remaining = st.integers(0, 10**7)


@given(remaining, hops, st.integers(100, 10**7), st.integers(1_000, 10**7))
def test_a_wait_is_bounded(remaining_ms: int, hop: int, lease_ms: int, longest_ms: int) -> None:
    """Never longer than the lease, what remains of it, or what the broker holds safely."""
    wait_ms = turn_wait_ms(remaining_ms, hop, lease_ms=lease_ms, longest_ms=longest_ms)

    assert 0 < wait_ms <= min(remaining_ms + 50, lease_ms + 50, longest_ms)


@given(remaining, st.integers(0, HOPS_PER_REPLACEMENT - 2), st.integers(100, 10**7))
def test_waits_grow(remaining_ms: int, hop: int, lease_ms: int) -> None:
    """Each further hop of a message waits at least as long as the one before, up to a thousand."""
    first = turn_wait_ms(remaining_ms, hop, lease_ms=lease_ms)

    assert turn_wait_ms(remaining_ms, hop + 1, lease_ms=lease_ms) >= first


def test_the_first_wait_is_short() -> None:
    """A job that takes a moment is not waited for a whole lease."""
    assert turn_wait_ms(30_000, 0, lease_ms=30_000) == 1_050


def test_a_lease_about_to_end_is_waited_out() -> None:
    """A message that waits for the end of a lease comes just after it."""
    assert turn_wait_ms(400, 5, lease_ms=30_000) == 450


def test_the_own_retry_comes_soon() -> None:
    """A retry that overtook its settle asks again after 0.2 s, doubling, at most 2 s."""
    waits = [turn_wait_ms(30_000, hop, lease_ms=30_000, newer=True) for hop in range(6)]

    assert waits == [200, 400, 800, 1_600, 2_000, 2_000]


def test_an_outage_is_waited_for_with_backoff() -> None:
    """A message that finds no store waits 1 s, doubling, at most a minute."""
    waits = [outage_wait_ms(hop) for hop in (0, 1, 5, 6, 100)]

    assert waits == [1_000, 2_000, 32_000, 60_000, 60_000]
    assert outage_wait_ms(9, longest_ms=5_000) == 5_000
