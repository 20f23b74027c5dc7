"""What a forked process may do with what it inherited, kind by kind; SQLite is database enough."""

from __future__ import annotations

import gc
import logging
import os
import weakref
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import requests
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from reliable_tasks import InheritedConnection, close_on_shutdown
from reliable_tasks.pools import registry
from tests.forked import in_child

pytestmark = pytest.mark.usefixtures("nothing_registered")


class Watched:
    """An engine whose opened and closed connections are counted, in each process by itself."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.engine = create_engine(f"sqlite:///{path / 'shop.db'}", **options)
        self.opened, self.said = 0, []
        event.listen(self.engine, "connect", self._connect)
        for word in ("close", "close_detached", "reset"):
            event.listen(self.engine, word, self._said(word))

    def _connect(self, *_: Any) -> None:
        self.opened += 1

    def _said(self, word: str) -> Callable[..., None]:
        def said(*_: Any) -> None:
            self.said.append(word)

        return said


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """An engine with one idle connection."""
    watched = Watched(tmp_path)
    ask(watched.engine)
    watched.said.clear()
    yield watched
    watched.engine.dispose()


def ask(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT 1")))


def error_of(function: Callable[..., object], *arguments: object) -> str | None:
    """Return the name of the error that *function* raises."""
    try:
        function(*arguments)
    except Exception as exc:
        return type(exc).__name__
    return None


# --- reset ---------------------------------------------------------------------------------


def test_an_engine_starts_anew_in_a_child(watched: Watched) -> None:
    """The child opens a connection of its own; no destructor says goodbye to the parent's."""
    close_on_shutdown(watched.engine)
    inherited = weakref.ref(watched.engine.pool)

    def child() -> tuple[int, int, list[str]]:
        registry.reset_all()
        gc.collect()
        assert inherited() is not None
        return (
            ask(watched.engine),
            watched.opened,
            [word for word in watched.said if "close" in word],
        )

    assert in_child(child) == (1, 2, [])
    assert (ask(watched.engine), watched.opened) == (1, 1)


def test_a_sessionmaker_resets_its_engine(watched: Watched) -> None:
    """Registering what makes sessions is as good as registering the engine; nobody need keep it."""
    close_on_shutdown(sessionmaker(watched.engine))

    def child() -> int:
        registry.reset_all()
        with Session(watched.engine) as session:
            session.scalar(text("SELECT 1"))
        return watched.opened

    assert in_child(child) == 2


def test_what_is_held_at_the_fork_stays_the_parents(watched: Watched) -> None:
    """A child that drops a connection in use neither rolls the transaction back nor ends it."""
    close_on_shutdown(watched.engine)
    held = [watched.engine.connect()]
    held[0].execute(text("CREATE TABLE stock (item)"))
    held[0].commit()
    held[0].execute(text("INSERT INTO stock VALUES ('bolt')"))

    def child() -> list[str]:
        registry.reset_all()
        held.clear()
        gc.collect()
        return [word for word in watched.said if "close" in word]

    assert in_child(child) == []
    assert held[0].scalar(text("SELECT count(*) FROM stock")) == 1
    held[0].close()


def test_a_database_in_memory_is_the_childs_own() -> None:
    """Memory is copied by a fork: nothing is shared, and what is there stays."""
    engine = create_engine("sqlite://")
    close_on_shutdown(engine, fork_guard=True)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE stock (item)"))

    def child() -> int:
        registry.reset_all()
        with engine.connect() as connection:
            return int(connection.scalar(text("SELECT count(*) FROM stock")))

    assert in_child(child) == 0


def test_an_engine_that_a_child_registers_starts_anew(watched: Watched) -> None:
    """What connected before the fork is the parent's, however late somebody says so."""

    def child() -> tuple[int, int, list[str]]:
        close_on_shutdown(watched.engine)
        answer = ask(watched.engine)
        said = [word for word in watched.said if "close" in word]
        registry.close_all()
        return answer, watched.opened, said

    assert in_child(child) == (1, 2, [])
    assert (ask(watched.engine), watched.opened) == (1, 1)


def test_what_a_child_opened_before_it_registers_is_its_own(watched: Watched) -> None:
    """Only what is older than the process is dropped."""

    def child() -> tuple[int, int]:
        watched.engine.dispose(close=False)
        ask(watched.engine)
        close_on_shutdown(watched.engine)
        return ask(watched.engine), watched.opened

    assert in_child(child) == (1, 2)


def test_what_is_in_use_at_the_end_is_closed(watched: Watched) -> None:
    """A connection that somebody still holds has its goodbye as well."""
    close_on_shutdown(watched.engine)
    held = watched.engine.connect()
    held.execute(text("SELECT 1"))
    watched.said.clear()

    registry.close_all()

    assert watched.said == ["close"]


def test_a_scoped_session_forgets_the_parents_session(watched: Watched) -> None:
    """A session that was open at the fork is not continued in the child, nor rolled back there."""
    scoped = scoped_session(sessionmaker(watched.engine))
    close_on_shutdown(scoped)
    scoped.scalar(text("SELECT 1"))

    def child() -> tuple[bool, int, list[str]]:
        registry.reset_all()
        gc.collect()
        said = list(watched.said)
        is_open = scoped().in_transaction()
        scoped.scalar(text("SELECT 1"))
        return is_open, watched.opened, said

    assert in_child(child) == (False, 2, [])
    assert scoped().in_transaction()
    scoped.remove()


def test_a_scoped_session_is_closed_with_its_connection(watched: Watched) -> None:
    """The session of the thread that ends gives its connection back before the pool is closed."""
    scoped = scoped_session(sessionmaker(watched.engine))
    close_on_shutdown(scoped)
    scoped.scalar(text("SELECT 1"))

    registry.close_all()

    assert watched.said == ["reset", "close"]


def test_a_session_and_its_engine_can_both_be_registered(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever is closed first, no alarm is raised over what is closed already."""
    scoped = scoped_session(sessionmaker(watched.engine))
    close_on_shutdown(watched.engine)
    close_on_shutdown(scoped)
    scoped.scalar(text("SELECT 1"))
    lost = scoped.connection().connection.dbapi_connection
    event.listen(watched.engine, "rollback", lambda _: lost.close())  # in the middle of it

    registry.close_all()

    assert "was not closed" not in caplog.text


def test_a_scoped_session_can_be_closed_by_a_method_of_its_own(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """The method that is given as close= is called on the resource, whatever the kind needs."""
    scoped = scoped_session(sessionmaker(watched.engine))
    close_on_shutdown(scoped, close=scoped.remove)

    with caplog.at_level(logging.DEBUG, "reliable_tasks"):
        registry.close_all()

    assert "SQLAlchemy scoped_session is closed" in caplog.text


def test_an_async_engine_resets_the_engine_beneath() -> None:
    """The pool of an asynchronous engine is another one in the child."""
    engine = create_async_engine("postgresql+psycopg://nobody@db.example/shop")
    close_on_shutdown(engine)
    inherited = engine.sync_engine.pool

    def child() -> bool:
        registry.reset_all()
        return engine.sync_engine.pool is inherited

    assert in_child(child) is False


# --- the fork guard ------------------------------------------------------------------------


@pytest.fixture
def guarded(watched: Watched) -> Watched:
    """The same, with a guard that came after the connection."""
    close_on_shutdown(watched.engine, fork_guard=True)
    return watched


def test_an_idle_connection_of_the_parent_is_not_handed_out(guarded: Watched) -> None:
    """The first use in a child raises, sends and closes nothing; the next one opens its own."""

    def child() -> tuple[str | None, int, list[str]]:
        return error_of(ask, guarded.engine), ask(guarded.engine), guarded.said[:-1]

    assert in_child(child) == ("InheritedConnection", 1, [])
    assert ask(guarded.engine) == 1
    assert guarded.opened == 1


def test_a_raw_connection_is_not_handed_out_either(guarded: Watched) -> None:
    """Where no statement passes through SQLAlchemy, the guard is asked by the pool."""

    def child() -> str | None:
        return error_of(guarded.engine.raw_connection)

    assert in_child(child) == "InheritedConnection"


def test_the_error_names_both_processes(guarded: Watched) -> None:
    """The message says who opened the connection, who uses it, and what to do."""

    def child() -> tuple[bool, str]:
        with pytest.raises(InheritedConnection) as raised:
            ask(guarded.engine)
        return raised.value.used_in == os.getpid(), str(raised.value)

    is_right, said = in_child(child)
    assert is_right
    assert said.startswith(f"process {os.getpid()} opened this connection and process ")
    assert "engine.dispose(close=False)" in said


def execute(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))


def commit(connection: Connection) -> None:
    connection.commit()


@pytest.mark.parametrize("use", [execute, commit])
def test_a_connection_in_use_at_the_fork_raises(guarded: Watched, use: Callable[..., None]) -> None:
    """What the parent's transaction holds is neither used nor committed nor rolled back."""
    connection = guarded.engine.connect()
    connection.execute(text("SELECT 1"))

    def child() -> tuple[str | None, list[str], int]:
        error = error_of(use, connection)
        connection.rollback()
        connection.close()
        return error, list(guarded.said), ask(guarded.engine)

    assert in_child(child) == ("InheritedConnection", [], 1)
    assert connection.in_transaction()
    connection.close()


def test_a_rollback_in_the_child_is_not_the_parents(guarded: Watched) -> None:
    """Rolling back and closing what was inherited is quiet, and reaches no server."""
    connection = guarded.engine.connect()
    connection.execute(text("CREATE TABLE paid (cents)"))
    connection.commit()
    connection.execute(text("INSERT INTO paid VALUES (999)"))

    def child() -> tuple[str | None, list[str]]:
        return error_of(connection.rollback) or error_of(connection.close), list(guarded.said)

    assert in_child(child) == (None, [])
    connection.commit()
    assert connection.scalar(text("SELECT cents FROM paid")) == 999
    connection.close()


def test_a_lost_connection_can_be_rolled_back(guarded: Watched) -> None:
    """The guard does not stand in the way when the server has gone and a transaction is undone."""
    with guarded.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.invalidate()

        connection.rollback()

        assert connection.scalar(text("SELECT 1")) == 1


def test_what_a_child_drops_is_not_rolled_back(
    guarded: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that is garbage collected in the child stays as it is, and the log says so."""
    held = [guarded.engine.connect()]
    held[0].execute(text("SELECT 1"))

    def child() -> tuple[list[str], bool]:
        with caplog.at_level(logging.ERROR, "sqlalchemy.pool"):
            held.clear()
            gc.collect()
        return [word for word in guarded.said if "close" in word], "InheritedConn" in caplog.text

    assert in_child(child) == ([], True)
    held[0].close()


def test_a_session_raises_too(guarded: Watched) -> None:
    """The error reaches the user of an ORM session as it is."""

    def child() -> str | None:
        with Session(guarded.engine) as session:
            return error_of(session.scalar, text("SELECT 1"))

    assert in_child(child) == "InheritedConnection"


def test_a_pool_that_pings_starts_anew_by_itself(tmp_path: Path) -> None:
    """SQLAlchemy pings before it asks the guard, so with pool_pre_ping nothing is inherited."""
    watched = Watched(tmp_path, pool_pre_ping=True)
    close_on_shutdown(watched.engine, fork_guard=True)
    ask(watched.engine)

    def child() -> tuple[int, int]:
        return ask(watched.engine), watched.opened

    assert in_child(child) == (1, 2)


def test_nothing_is_raised_after_a_reset(guarded: Watched) -> None:
    """Where Celery's signal came, the guard has nothing to object to."""

    def child() -> int:
        registry.reset_all()
        return ask(guarded.engine)

    assert in_child(child) == 1


def test_a_guard_is_put_up_once(guarded: Watched) -> None:
    """Registering again, or a factory of the same engine, adds no listeners."""
    factory = sessionmaker(guarded.engine)
    close_on_shutdown(guarded.engine, fork_guard=True)
    close_on_shutdown(factory, fork_guard=True)

    listeners = list(guarded.engine.dispatch.before_cursor_execute)
    assert len(listeners) == 1


# --- HTTP ----------------------------------------------------------------------------------


@pytest.fixture
def shop() -> Iterator[str]:
    """A server that keeps connections open and answers with the port of its client."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = str(self.client_address[1]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("make", [httpx.Client, requests.Session])
def test_an_http_client_connects_anew_in_a_child(make: Callable[[], Any], shop: str) -> None:
    """The child's requests go over a connection of its own, and the parent's stays open."""
    with make() as client:
        close_on_shutdown(client)
        mine = client.get(shop).text

        def child() -> str:
            registry.reset_all()
            return str(client.get(shop).text)

        assert in_child(child) not in {mine, ""}
        assert client.get(shop).text == mine
