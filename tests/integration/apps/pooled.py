"""An app with a pool of each kind: what becomes of their sessions stands in the server's log."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import django
from celery import Celery, shared_task
from celery.worker.control import inspect_command
from django.conf import settings
from psycopg2.pool import ThreadedConnectionPool
from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, make_url, text

from reliable_tasks import close_on_shutdown
from reliable_tasks.testing import Ledger
from tests.integration.pools_page import KIB, KINDS, VARIABLE

SAID = json.loads(os.environ[VARIABLE])
URL = make_url(SAID["url"])
OPTIONS = {"options": "-c log_disconnections=on"}

app = Celery("pooled")
app.conf.update(broker_connection_retry_on_startup=True, **SAID.get("settings", {}))

engine = create_engine(
    URL.set(drivername="postgresql+psycopg"), connect_args=OPTIONS, pool_size=1, max_overflow=1
)
psycopg_pool = ConnectionPool(SAID["url"], kwargs=OPTIONS, min_size=1, max_size=1, open=False)
psycopg2_pool = ThreadedConnectionPool(0, 2, SAID["url"], **OPTIONS)
psycopg2_pool.minconn = 1  # what it keeps, once it was used
django_database = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": URL.host,
    "PORT": URL.port,
    "USER": URL.username,
    "NAME": URL.database,
    "OPTIONS": OPTIONS,
    "CONN_MAX_AGE": None,
}
settings.configure(DATABASES={"default": django_database})
django.setup()


def ask_engine(sql: str) -> Any:
    """Ask by SQLAlchemy."""
    with engine.connect() as connection:
        return connection.execute(text(sql)).scalar()


def ask_psycopg_pool(sql: str) -> Any:
    """Ask by psycopg 3."""
    psycopg_pool.open()
    with psycopg_pool.connection() as connection:
        return connection.execute(sql).fetchone()[0]


def ask_psycopg2_pool(sql: str) -> Any:
    """Ask by psycopg2."""
    connection = psycopg2_pool.getconn()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0]
    finally:
        psycopg2_pool.putconn(connection)


def ask_django(sql: str) -> Any:
    """Ask by Django."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


ASK = dict(zip(KINDS, (ask_engine, ask_psycopg_pool, ask_psycopg2_pool, ask_django), strict=True))


def sessions() -> dict[str, int]:
    """Return the server's process behind each pool."""
    return {kind: ask("SELECT pg_backend_pid()") for kind, ask in ASK.items()}


def hang_for_ever() -> None:
    """Never come back."""
    while True:
        time.sleep(60)


def fail() -> None:
    """Say no."""
    raise ValueError("no")


if SAID.get("trouble"):
    close_on_shutdown(hang_for_ever, name="the one that hangs", timeout=0.5)
    close_on_shutdown(fail, name="the one that raises")
if SAID["closes"]:
    for resource in (engine, psycopg_pool, psycopg2_pool, "django"):
        close_on_shutdown(resource)
if SAID.get("used_before_fork"):
    sessions()


@inspect_command()
def parents_sessions(state: Any) -> dict[str, int]:
    """Return the sessions of the worker's main process."""
    return sessions()


def note(label: str) -> None:
    """Use each pool, and write down the sessions."""
    Ledger.from_environment().write("sessions", label, **sessions())


@shared_task
def use(label: str, seconds: float = 0.0) -> int:
    """Use each pool, and perhaps wait; the answer is the process's id."""
    note(label)
    time.sleep(seconds)
    return os.getpid()


@shared_task
def echo(kind: str, number: int) -> int:
    """Ask for a number, and return what comes back."""
    return ASK[kind](f"SELECT {number} FROM pg_sleep(0.002)")


@shared_task
def hang(label: str) -> None:
    """Use each pool and never end."""
    note(label)
    while True:
        time.sleep(60)


@shared_task
def swallow(label: str) -> None:
    """Use each pool and never end, not even when told to."""
    note(label)
    while True:
        with suppress(BaseException):
            time.sleep(60)


@shared_task
def grow(label: str) -> int:
    """Use each pool, and take much memory."""
    note(label)
    return len(b"1" * (KIB * 1024))


@shared_task
def leave(label: str, how: str) -> None:
    """Use each pool, and end the process."""
    note(label)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    {"exit": sys.exit, "_exit": os._exit}[how](3)
