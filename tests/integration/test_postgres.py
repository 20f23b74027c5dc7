"""The PostgreSQL that `reliable_tasks.testing` starts is real, apart, a witness, and ends."""

from __future__ import annotations

import socket
import struct
from contextlib import contextmanager

import pytest

from reliable_tasks.testing import ServerFailed, eventually, postgres_server
from reliable_tasks.testing.processes import group_of

GOODBYE = b"X\0\0\0\4"  # the message Terminate


@contextmanager
def client(database):
    """Give a socket that has logged in, with the protocol's own bytes."""
    login = f"user\0postgres\0database\0{database.name}\0\0".encode()
    with socket.create_connection(("127.0.0.1", database.server.port)) as connection:
        connection.sendall(struct.pack("!ii", len(login) + 8, 196_608) + login)
        eventually(database.backends)
        yield connection


def test_databases_are_apart(postgres, postgres_database):
    """Each test's database is empty and unseen by the others."""
    other = postgres.new_database()
    postgres_database.query("CREATE TABLE here ()")

    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert postgres_database.query(tables) == [["here"]]
    assert other.query(tables) == []
    assert other.url != postgres_database.url


def test_client_without_a_goodbye_is_counted(postgres, postgres_database):
    """The server's log is a witness of how each client of a database ended."""
    other = postgres.new_database()
    with client(postgres_database) as polite:
        polite.sendall(GOODBYE)
        eventually(lambda: not postgres_database.backends())
    assert postgres_database.unclean_ends() == 0

    with client(postgres_database):
        assert len(postgres_database.backends()) == 1

    eventually(lambda: postgres_database.unclean_ends() == 1)
    assert other.unclean_ends() == 0


@pytest.mark.parametrize("fault", ["kill", "stop", "pause"])
def test_a_fault_in_one_test_is_mended_for_the_next(postgres, postgres_database, fault):
    """Data and address outlive a kill, a stop and a pause, whoever is connected then."""
    postgres_database.query("CREATE TABLE here AS SELECT 7 AS seven")
    with client(postgres_database):
        getattr(postgres, fault)()

    postgres.ensure_running()

    assert postgres_database.query("SELECT seven FROM here") == [["7"]]


def test_wrong_statement_is_an_error(postgres):
    """What the server refuses raises, with what it said."""
    with pytest.raises(ServerFailed, match="division by zero"):
        postgres.query("SELECT 1 / 0")


@pytest.mark.parametrize("fault", ["pause", pytest.param("resume", marks=pytest.mark.chaos)])
def test_own_server_takes_settings_and_leaves_nothing(fault):
    """A server of a test's own has its settings; after it no process and no file is left."""
    with postgres_server(config=["max_connections = 20"]) as own:
        database = own.new_database()
        assert database.query("SHOW max_connections") == [["20"]]
        with client(database):
            groups = [own.pid, *database.backends()]
            getattr(own, fault)()
            own.close()

    assert not any(group_of(pid) for pid in groups)
    assert not own.directory.exists()
