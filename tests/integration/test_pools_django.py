"""A Django project with Celery on a real PostgreSQL, beside Celery's own fixup for Django."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery
from celery.utils import uuid

from reliable_tasks.testing import (
    PostgresDatabase,
    PostgresServer,
    Server,
    WorkerProcess,
    connected_app,
    eventually,
)

SITE = "tests.integration.django_site"
TIMEOUT = 60.0
TASKS = 20
CHILDREN = 2
PERSISTENT = {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
POOLED = {"OPTIONS": {"pool": {"min_size": 2, "max_size": 2}}, "CONN_HEALTH_CHECKS": True}
EACH = 2  # sessions of a process at most

each_way = pytest.mark.parametrize("way", [PERSISTENT, POOLED], ids=["persistent", "pooled"])


@dataclass(slots=True)
class Project:
    """The project, its worker and its database."""

    app: Celery
    worker: WorkerProcess
    postgres: PostgresDatabase

    def order(self, label: str = "", seconds: float = 0.0) -> Any:
        """Publish an order."""
        arguments = (label or uuid(), seconds)
        return self.app.send_task(f"{SITE}.orders.tasks.order", arguments)

    def parents_session(self) -> int:
        """Let the worker's main process use its connection; return the session."""
        inspect = self.app.control.inspect([self.worker.name], timeout=TIMEOUT, limit=1)
        answer: int = inspect._request("parents_session")[self.worker.name]
        return answer

    def sessions(self, count: int = TASKS, seconds: float = 0.0) -> list[int]:
        """Let *count* orders be written; return the server's process behind each."""
        results = [self.order(seconds=seconds) for _ in range(count)]
        return [result.get(timeout=TIMEOUT, interval=0.05) for result in results]


def environment(database: PostgresDatabase, way: dict[str, Any]) -> dict[str, str]:
    """Return what tells the project where its database is, and how to connect."""
    where = {"HOST": "127.0.0.1", "PORT": database.server.port, "NAME": database.name}
    options = {"options": "-c log_disconnections=on", **way.get("OPTIONS", {})}
    engine = {"ENGINE": "django.db.backends.postgresql", "USER": "postgres"}
    return {
        "DJANGO_SETTINGS_MODULE": f"{SITE}.settings",
        "DJANGO_SITE_DATABASE": json.dumps({**engine, **where, **way, "OPTIONS": options}),
    }


@pytest.fixture(scope="module")
def migrated(postgres: PostgresServer) -> PostgresDatabase:
    """A database with the project's tables, which others are copied from."""
    postgres.ensure_running()
    database = postgres.new_database()
    paths = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, "PYTHONPATH": paths, **environment(database, PERSISTENT)}
    command = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    subprocess.run(command, check=True, env=env)
    return database


@pytest.fixture
def postgres_database(migrated: PostgresDatabase) -> PostgresDatabase:
    """A database of this test with the project's tables."""
    database = migrated.server.new_database()
    database.server.query(f"DROP DATABASE {database.name}")
    database.server.query(f"CREATE DATABASE {database.name} TEMPLATE {migrated.name}")
    return database


StartProject = Callable[..., AbstractContextManager[Project]]


@pytest.fixture
def project(valkey: Server, postgres_database: PostgresDatabase) -> StartProject:
    """Starts a worker of the project with a way to connect."""

    @contextmanager
    def start(way: dict[str, Any], *, closes: bool = True, **worker: Any) -> Iterator[Project]:
        env = {
            **environment(postgres_database, way),
            **({"DJANGO_SITE_CLOSES": "1"} if closes else {}),
        }
        database = valkey.new_database()
        told = {"concurrency": CHILDREN, **worker, "env": {**env, **database.celery_env}}
        with connected_app(database.url) as app, WorkerProcess(SITE, **told) as process:
            yield Project(app, process, postgres_database)

    return start


class TestKept:
    """Sessions are kept from task to task."""

    @pytest.mark.hooks
    @each_way
    def test_connections_are_kept(self, project: StartProject, way: dict[str, Any]) -> None:
        """A child keeps its session from task to task, gets another if it ends, and closes it."""
        with project(way) as site:
            kept = set(site.sessions())
            assert len(kept) <= CHILDREN * EACH

            for session in kept:
                site.postgres.query(f"SELECT pg_terminate_backend({session})")
            others = set(site.sessions())
            assert len(others) <= CHILDREN * EACH
            assert not others & kept
            site.worker.terminate()

            assert site.postgres.query("SELECT count(*) FROM orders_order") == [[str(2 * TASKS)]]
            eventually(lambda: not site.postgres.backends())
            assert site.postgres.unclean_ends() == 0

    @pytest.mark.chaos
    def test_failed_task(self, project: StartProject) -> None:
        """A task that the database refuses leaves a connection that the next one can use."""
        with project(POOLED, concurrency=1) as site:
            kept = set(site.sessions(3))
            refused = [site.order("the same label") for _ in range(2)][1]

            with pytest.raises(Exception, match="duplicate key"):
                refused.get(timeout=TIMEOUT, interval=0.05)

            assert len({*kept, *site.sessions(3)}) <= EACH


class TestProcesses:
    """What is kept belongs to one process, thread or greenlet."""

    def test_parents_sessions_live_on(self, project: StartProject) -> None:
        """A child that is forked later, uses Django and ends takes nothing from the parent."""
        arguments = ["--max-tasks-per-child=1"]
        with project(POOLED, concurrency=1, arguments=arguments) as site:
            site.parents_session()
            eventually(lambda: len(site.postgres.backends()) == EACH)
            parents = site.postgres.backends()
            site.app.control.pool_grow(1, reply=True, timeout=TIMEOUT, limit=1)

            assert not set(parents) & set(site.sessions(2, seconds=0.5))

            assert site.parents_session() in parents
            assert set(parents) <= set(site.postgres.backends())
            site.worker.terminate()
            assert site.postgres.unclean_ends() == 0

    @pytest.mark.chaos
    def test_threads(self, project: StartProject) -> None:
        """Each thread keeps its session, and all are closed."""
        with project(PERSISTENT, pool="threads") as site:
            assert len(set(site.sessions())) <= CHILDREN
            site.worker.terminate()

            assert site.postgres.unclean_ends() == 0

    @pytest.mark.chaos
    def test_greenlets(self, project: StartProject) -> None:
        """A greenlet ends with its task, and so does its session, whatever the settings say."""
        with project(PERSISTENT, pool="gevent") as site:
            results = [site.order() for _ in range(TASKS)]
            while not all(result.ready() for result in results):
                assert len(site.postgres.backends()) < TASKS / 2
            eventually(lambda: not site.postgres.backends())


@pytest.mark.chaos
class TestFixupAlone:
    """What Celery does by itself."""

    @each_way
    def test_what_happens_without(self, project: StartProject, way: dict[str, Any]) -> None:
        """Celery's fixup alone takes a new session of the server for each task."""
        with project(way, closes=False) as site:
            assert len(set(site.sessions())) == TASKS
