"""Counts that the processes of a worker share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reliable_tasks.counting import NAMES, Counts, kind_of_retry, row_of
from tests.forked import in_child


def test_children_count_together() -> None:
    """What a forked child has counted is in its parent's sums, also after its death."""
    counts = Counts()
    counts.add("replays")

    in_child(lambda: (counts.add("replays"), counts.add("retries")))

    assert counts.totals() == {**dict.fromkeys(NAMES, 0), "replays": 2, "retries": 1}


@pytest.mark.parametrize(("index", "row"), [(None, 0), (0, 1), (7, 8), (1_023, 0)])
def test_each_place_in_the_pool_has_a_row(index: int | None, row: int) -> None:
    """The main process has the first row, each child that of its place."""
    process = SimpleNamespace() if index is None else SimpleNamespace(index=index)

    assert row_of(process) == row


@pytest.mark.parametrize(
    ("wait", "reason", "name"),
    [(1.5, None, "retries"), (2.0, "breaker", "deferrals"), (None, "attempts", "given_up")],
)
def test_retries_are_told_apart(wait: float | None, reason: str | None, name: str) -> None:
    """Who counts retries leaves out what is put off and what is given up."""
    assert kind_of_retry(wait, reason) == name
