"""Copies of what other threads change meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

from reliable_tasks.core.snapshots import snapshot


class Changing(set[str]):
    """A set into which something comes while it is first looked through."""

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        if "late" not in self:
            self.add("late")
            raise RuntimeError("Set changed size during iteration")


def test_what_comes_meanwhile_is_in_it() -> None:
    """A look that was disturbed is repeated."""
    assert sorted(snapshot(Changing({"early"}))) == ["early", "late"]
