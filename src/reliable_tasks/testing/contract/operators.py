"""What operators ask, and what is kept of quarantined jobs."""

from __future__ import annotations

from copy import deepcopy

import pytest

from reliable_tasks.core.keys import message_key, shelf_name
from reliable_tasks.core.records import (
    State,
)
from reliable_tasks.testing.contract.support import (
    HORIZON_MS,
    KEEP_MS,
    ODD_NAMES,
    Fixtures,
    OneKey,
    same,
)

__all__ = ("Operators",)


class Operators(Fixtures):
    """What operators ask, and what is kept of quarantined jobs."""

    def test_nothing_is_found_where_nothing_is(self, key: OneKey) -> None:
        """A key that was never used has no record, and looking makes none."""
        assert key.store.peek(key.key) is None
        assert not key.store.forget(key.key)
        assert list(key.store.scan(key.key)) == []

    def test_a_forgotten_record_is_gone(self, key: OneKey) -> None:
        """After an operator forgets a key its jobs may run again, with higher tokens."""
        token = key.run(data=b"result", keep_ms=KEEP_MS)

        assert key.store.forget(key.key)
        assert not key.store.forget(key.key)
        key.elapse(ms=1)
        assert key.start() > token

    def test_looking_changes_nothing(self, key: OneKey) -> None:
        """What was looked at is a copy."""
        key.run("a", data=b"result")
        key.start("b")
        found = key.record
        before = deepcopy(found)
        found.state, found.token = State.DONE, 1
        found.facts["a"].closed = True
        found.facts["c"] = found.facts["a"]

        assert same(key.record, before)

    def test_scanning_finds_every_record_once(self, key: OneKey) -> None:
        """All keys with the prefix are found, in any number, and no others."""
        keys = [f"{key.key}:{number}" for number in range(1_200)]
        for name in keys:
            key.store.advance(name, job="job", line=0, horizon_ms=HORIZON_MS)

        assert sorted(key.store.scan(f"{key.key}:")) == sorted(keys)
        assert sorted(key.store.scan(f"{key.key}:119")) == sorted(
            f"{key.key}:{number}" for number in (119, *range(1_190, 1_200))
        )
        assert set(keys) <= set(key.store.scan())

    def test_a_shelf_is_no_record(self, key: OneKey) -> None:
        """A project's dead letters are not found among its records."""
        prefix = key.key.replace(":", "-")
        record = message_key(prefix, "dead-letters", "job")
        key.store.advance(record, job="job", line=0, horizon_ms=HORIZON_MS)
        key.store.bury(shelf_name(prefix), "job", b"letter")

        assert list(key.store.scan(f"rt1:{prefix}:")) == [record]

    @pytest.mark.parametrize("odd", ["*", "?", "[ab]", "[^a]", "\\", "{a}", "a-z", "^"])
    def test_a_prefix_is_taken_literally(self, key: OneKey, odd: str) -> None:
        """Characters that are special in patterns are not special here."""
        prefix = f"{key.key}:{odd}"
        names = [f"{prefix}:x", f"{key.key}:a:x", f"{key.key}:b:x", f"{key.key}:other"]
        for name in names:
            key.store.advance(name, job="job", line=0, horizon_ms=HORIZON_MS)

        assert list(key.store.scan(prefix)) == [f"{prefix}:x"]

    def test_dead_letters_are_kept_whole(self, key: OneKey) -> None:
        """Every letter comes back as it was buried, once per job, from its own shelf."""
        shelf, other = f"{key.key}:shelf", f"{key.key}:other"
        letters = {
            f"{name}-{number}": name.encode() * number for number, name in enumerate(ODD_NAMES)
        }
        letters |= {f"job-{number}": bytes(range(256)) for number in range(600)}
        for job, letter in letters.items():
            key.store.bury(shelf, job, letter)
        key.store.bury(other, "job-0", b"of another shelf")
        for _ in range(2):
            key.store.bury(shelf, "job-1", b"again")
        letters["job-1"] = b"again"

        assert sorted(key.store.letters(shelf)) == sorted(letters.items())
        assert list(key.store.letters(other)) == [("job-0", b"of another shelf")]

    def test_an_empty_shelf_has_no_letters(self, key: OneKey) -> None:
        """Looking for dead letters where none were buried finds none."""
        assert list(key.store.letters(f"{key.key}:shelf")) == []
