"""Every way that a process with open sessions can end, with pools registered and without."""

from __future__ import annotations

import pytest

from reliable_tasks.testing import PostgresDatabase, eventually
from tests.integration.pooling import SETUPS, TIMEOUT, Begin, observe
from tests.integration.pools_page import KINDS, WITHOUT, summary, table

each_setup = pytest.mark.parametrize("name", SETUPS)


@each_setup
def test_with(begin: Begin, name: str) -> None:
    """Each kind of pool is closed, or not, as its cell of the table says."""
    seen = observe(begin, name, closes=True)

    assert seen == {row: {kind: table()[row][kind] for kind in KINDS} for row in seen}


@each_setup
def test_without(begin: Begin, name: str) -> None:
    """Where nothing is registered the sessions end as the column beside it says."""
    seen = observe(begin, name, closes=False)

    assert {row: summary(ends) for row, ends in seen.items()} == {
        row: table()[row][WITHOUT] for row in seen
    }


@pytest.mark.timeout(600)
def test_soak(begin: Begin, postgres_database: PostgresDatabase) -> None:
    """2,000 tasks on children that are replaced every 25 leave no session, and none breaks off."""
    worker = {"concurrency": 4, "arguments": ["--max-tasks-per-child=25"]}
    with begin(worker=worker, closes=True, used_before_fork=True) as stand:
        parents = stand.parents_sessions()
        before = len(postgres_database.backends())

        results = [stand.send("use", f"job-{number}") for number in range(2_000)]
        children = {result.get(timeout=300, interval=0.05) for result in results}

        assert len(children) >= 2_000 / 25
        assert set(stand.ledger.counts("sessions").values()) == {1}
        # The last children hold what theirs are, and nobody else's.
        held = before + len(KINDS) * 4
        eventually(lambda: len(postgres_database.backends()) <= held, timeout=TIMEOUT)
        assert stand.parents_sessions() == parents
        stand.worker.terminate()

        eventually(lambda: not postgres_database.backends())
        assert postgres_database.unclean_ends() == 0
