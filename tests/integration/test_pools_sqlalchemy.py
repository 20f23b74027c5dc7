"""SQLAlchemy on a real PostgreSQL: fork guard, open sessions, sizes, asynchronous engines."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from reliable_tasks import InheritedConnection, close_on_shutdown
from reliable_tasks.pools import registry
from reliable_tasks.testing import (
    PostgresDatabase,
    Server,
    WorkerProcess,
    connected_app,
    eventually,
)

pytestmark = pytest.mark.integration

APP = "tests.integration.apps.inheriting"
ASK = text("SELECT pg_backend_pid()")


@pytest.mark.hooks
def test_a_worker_with_engines_that_were_used_before_the_fork(
    valkey: Server, postgres_database: PostgresDatabase
) -> None:
    """
    The guard raises, a session is not continued, and both processes end with a goodbye.

    At its start the worker names the pools that are too large, and what it cannot reset.
    """
    database = valkey.new_database()
    env = {**database.celery_env, "SHOP_DATABASE": postgres_database.url}
    with (
        connected_app(database.url) as app,
        WorkerProcess(APP, env=env, concurrency=2) as worker,
    ):
        eventually(lambda: "connections to postgresql on" in worker.log, message=lambda: worker.log)
        with pytest.raises(InheritedConnection):
            app.send_task(f"{APP}.use_guarded").get(timeout=60)
        found = app.send_task(f"{APP}.use_session").get(timeout=60)
        assert set(found["parents"]) <= set(postgres_database.backends())
        assert found["mine"] not in found["parents"]
        worker.terminate()
        log = worker.log

    eventually(lambda: not postgres_database.backends())
    assert postgres_database.unclean_ends() == 0
    assert "can open 184 connections to postgresql on" in log
    assert "(2 processes with at most 92 each), and it allows" in log
    assert "the search is neither reset nor closed in the pool's processes" in log


@pytest.mark.usefixtures("nothing_registered")
def test_an_async_engine_says_goodbye_after_its_loop(postgres_database: PostgresDatabase) -> None:
    """The loop that opened the connections is over; they are closed all the same."""
    url = postgres_database.url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_async_engine(url)
    close_on_shutdown(engine)

    async def ask() -> int:
        async with engine.connect() as connection:
            return int((await connection.execute(ASK)).scalar_one())

    mine = asyncio.run(ask())
    assert mine in postgres_database.backends()
    registry.close_all()

    eventually(lambda: mine not in postgres_database.backends())
    assert postgres_database.unclean_ends() == 0
