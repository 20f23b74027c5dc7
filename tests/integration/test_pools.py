"""Pools on a real PostgreSQL: after a fork, and on each way that a process can end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from celery.exceptions import TimeoutError as NoAnswer
from celery.utils import uuid
from psycopg.rows import dict_row
from psycopg2.extras import RealDictCursor
from psycopg2.pool import ThreadedConnectionPool
from psycopg_pool import ConnectionPool

from reliable_tasks.pools.recognise import recognise
from reliable_tasks.testing import PostgresDatabase, eventually
from tests.integration.pooling import SETUPS, TIMEOUT, Begin, Stand, idle, observe
from tests.integration.pools_page import KINDS, WITHOUT, summary, table

CHILDREN = 4
# The other ways to end are in tests/chaos.
WITH = (
    "children",
    "gevent, cold",
)


def used_at_once(stand: Stand) -> dict[int, dict[str, int]]:
    """Use the pools in all children at the same time; return their sessions."""
    for result in [stand.send("use", uuid(), 1.0) for _ in range(CHILDREN)]:
        result.get(timeout=TIMEOUT, interval=0.05)
    return {entry.pid: entry.details for entry in stand.ledger.entries("sessions")}


class TestFork:
    """The parent has used its pools before the children are forked."""

    def test_nobody_shares_a_session(
        self, begin: Begin, postgres_database: PostgresDatabase
    ) -> None:
        """Each child has sessions of its own, and gets the answers to its own questions."""
        options = {"closes": True, "used_before_fork": True}
        with begin(worker={"concurrency": CHILDREN}, **options) as stand:
            parents = stand.parents_sessions()
            of_children = used_at_once(stand)

            assert len(of_children) == CHILDREN
            for kind in KINDS:
                sessions = [parents[kind], *(each[kind] for each in of_children.values())]
                assert len(set(sessions)) == CHILDREN + 1, kind
                assert not any(wrong_answers(stand, kind))
            stand.worker.terminate()

            eventually(lambda: not postgres_database.backends())
            assert postgres_database.unclean_ends() == 0

    @pytest.mark.hooks
    def test_parents_sessions_live_on(self, begin: Begin) -> None:
        """A child that uses its pools and ends takes nothing from the parent."""
        options = {"closes": True, "used_before_fork": True}
        with begin(worker={"arguments": ["--max-tasks-per-child=1"]}, **options) as stand:
            parents = stand.parents_sessions()

            stand.ends(idle(stand))

            assert stand.parents_sessions() == parents

    @pytest.mark.parametrize("kind", ["SQLAlchemy", "psycopg_pool"])
    def test_what_happens_without(self, begin: Begin, kind: str) -> None:
        """Children that do not drop what they inherit share one session: answers go astray."""
        options = {"closes": False, "used_before_fork": True}
        with begin(worker={"concurrency": CHILDREN}, **options) as stand:
            assert any(wrong_answers(stand, kind))


def wrong_answers(stand: Stand, kind: str, questions: int = 60) -> Iterator[bool]:
    """Let all children ask at once; say of each question whether it went wrong."""
    results = [(number, stand.send("echo", kind, number)) for number in range(questions)]
    for number, result in results:
        with suppress(NoAnswer):  # the session may be stuck as well
            answer = result.get(timeout=5.0, interval=0.02, propagate=False)
            yield not (result.successful() and answer == number)
            continue
        yield True


class TestEnd:
    """PostgreSQL says how its clients went: with a goodbye, or cut off."""

    @pytest.mark.parametrize("name", WITH)
    def test_with(self, begin: Begin, name: str) -> None:
        """Each kind of pool is closed, or not, as its cell of the table says."""
        seen = observe(begin, name, closes=True)

        assert seen == {row: {kind: table()[row][kind] for kind in KINDS} for row in seen}

    @pytest.mark.chaos
    def test_without(self, begin: Begin) -> None:
        """Without the handlers the server sees prefork children break off, however they end."""
        seen = observe(begin, "children", closes=False)

        assert {row: summary(ends) for row, ends in seen.items()} == {
            row: table()[row][WITHOUT] for row in seen
        }

    def test_rows(self) -> None:
        """Every way to end has its row, and every row is tested."""
        rows = [(setup.pool, words) for setup in SETUPS.values() for words in setup.ends]

        assert list(table()) == rows


class TestTrouble:
    """One that cannot be closed is no reason to keep the others open."""

    def test_one_hangs_and_one_raises(self, begin: Begin) -> None:
        """The others say goodbye, the two are named in the log, and the worker ends."""
        with begin(closes=True, trouble=True) as stand:
            label = idle(stand)
            stand.worker.terminate()

            assert set(stand.ends(label).values()) == {"closed"}
            log = stand.worker.log
        assert "the one that hangs was not closed: it took more than 0.5 s" in log
        assert "the one that raises was not closed: ValueError('no')" in log


class TestSizes:
    """The server is asked how many connections it allows, whatever the pool is made for."""

    @pytest.mark.parametrize("cls", [ConnectionPool, ThreadedConnectionPool])
    def test_most_allowed(self, postgres_database: PostgresDatabase, cls: type) -> None:
        """Over a connection that does not stay, and that gives rows of its own kind."""
        makes = {
            ConnectionPool: {"kwargs": {"row_factory": dict_row}, "open": False},
            ThreadedConnectionPool: {"cursor_factory": RealDictCursor},
        }
        sizes = () if cls is ConnectionPool else (0, 1)
        pool = cls(*sizes, postgres_database.url, **makes[cls])
        kind = recognise(pool)
        assert kind.capacity is not None

        most = kind.capacity(pool).ask()

        assert [[str(most)]] == postgres_database.query("SHOW max_connections")
        eventually(lambda: not postgres_database.backends())
