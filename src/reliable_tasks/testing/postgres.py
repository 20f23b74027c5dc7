"""
A real PostgreSQL for tests: a server of its own, with a database for each test.

    with postgres_server(config=["max_connections = 20"]) as server:
        database = server.new_database()
        engine = create_engine(database.url)
        assert database.unclean_ends() == 0

It listens on the loopback interface only, and trusts whoever reaches it there.
"""

from __future__ import annotations

import csv
import os
import pwd
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from reliable_tasks.testing.daemons import HOST, Daemon, ServerFailed, free_port, program
from reliable_tasks.testing.eventually import eventually
from reliable_tasks.testing.processes import children_of, group_of

__all__ = ("PostgresDatabase", "PostgresServer", "postgres_server")

REMEDY = "apt-get install postgresql, dnf install postgresql-server, or brew install postgresql"
DEBIAN = "/usr/lib/postgresql"  # a folder for each version, none of them on the path
LOGIN = "postgres"
READY = "ready"
NO_GOODBYE = "unexpected EOF on client connection"
# It need not survive a power cut, only `kill`; and without DEBUG1 it is silent
# about a client that goes away between two transactions.
SETTINGS = """
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
fsync = off
full_page_writes = off
shared_buffers = 16MB
autovacuum = off
log_min_messages = debug1
log_line_prefix = '%m [%p] {database} '
"""
OF_DATABASE = "database={}"


def postgres_server(*, port: int | None = None, config: Sequence[str] = ()) -> PostgresServer:
    """Start the distribution's PostgreSQL; the arguments are those of `PostgresServer`."""
    return PostgresServer(port=port, config=config)


class PostgresServer(Daemon):
    """
    One PostgreSQL server with an empty data directory of its own, started at once.

    A context manager: `close` ends the server and removes its directory. A session of
    root's runs it as ``postgres``, or as ``nobody`` where there is no such user.

    Args:
        port: Port on 127.0.0.1; a free one is found if left out.
        config: Further lines of ``postgresql.conf``, for example ``max_connections = 20``.

    Raises:
        ServerNotFound: PostgreSQL is not on the machine.
        ServerFailed: The server did not start.
    """

    _goodbye = signal.SIGINT  # ends its clients' sessions; with SIGTERM it waits for them

    def __init__(self, *, port: int | None = None, config: Sequence[str] = ()) -> None:
        self.binary = program("postgres", REMEDY, places=_places())
        folder = self.binary.resolve().parent
        self._psql = program("psql", REMEDY, places=(folder,))
        super().__init__(free_port() if port is None else port)
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self._data = self.directory / "data"
        self._numbers = count(1)
        try:
            self._initialise(program("initdb", REMEDY, places=(folder,)), config)
            self.start()
        except BaseException:
            self.close()
            raise

    def _initialise(self, initdb: Path, config: Sequence[str]) -> None:
        if self._user is not None:
            os.chown(self.directory, *self._user)
        options = ["--auth=trust", f"--username={LOGIN}", "--encoding=UTF8", "--locale=C"]
        user, group = self._user or (None, None)
        done = subprocess.run(
            [initdb, "--no-sync", f"--pgdata={self._data}", *options],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )
        if done.returncode:
            raise ServerFailed(f"initdb ended with {done.returncode}:\n{done.stdout}")
        ours = SETTINGS.format(host=HOST, port=self.port, database=OF_DATABASE.format("%d"))
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("\n".join([ours, *config, ""]))

    @property
    def _command(self) -> list[str | Path]:
        return [self.binary, "-D", self._data]

    def _answering(self) -> int | None:
        try:
            lines = (self._data / "postmaster.pid").read_text().split()
        except FileNotFoundError:
            return None
        is_ours = lines[:1] == [str(self.pid)]  # or of the one that was killed
        return self.pid if is_ours and lines[-1] == READY else None

    def query(self, sql: str, *, database: str = LOGIN) -> list[list[str]]:
        """
        Run a statement with ``psql``, which needs no driver.

        Returns:
            The rows, all values as text.

        Raises:
            ServerFailed: The server refused it, or does not answer.
        """
        where = ["--host", HOST, "--port", str(self.port), "--username", LOGIN]
        done = subprocess.run(
            [
                self._psql,
                *where,
                "--no-psqlrc",
                "--tuples-only",
                "--csv",
                "--command",
                sql,
                database,
            ],
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise ServerFailed(f"{sql}: {done.stderr}")
        return list(csv.reader(done.stdout.splitlines()))

    def url_for(self, database: str) -> str:
        """Address of a database."""
        return f"postgresql://{LOGIN}@{HOST}:{self.port}/{database}"

    def new_database(self) -> PostgresDatabase:
        """Make an empty database that nobody has got before."""
        name = f"test_{next(self._numbers)}"
        self.query(f"CREATE DATABASE {name}")
        return PostgresDatabase(self, name)

    def pause(self) -> None:
        """SIGSTOP for the server and each of its sessions."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        if not self.is_running:
            return
        for pid in (self.pid, *children_of(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL for the server and each of its sessions, as a machine that loses power."""
        sessions = children_of(self.pid) if self.is_running else []
        self._signal_all(signal.SIGKILL)
        super().kill()
        # Each leads a process group of its own; the server does not start while one lives.
        eventually(lambda: not any(group_of(pid) for pid in sessions))

    def close(self) -> None:
        """End the server at once, which frees its shared memory, and remove its data."""
        if self._process is not None:
            self.resume()
            self._process.signal(signal.SIGQUIT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        super().close()


class PostgresDatabase:
    """One database of a server that belongs to one test."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server, self.name = server, name

    @property
    def url(self) -> str:
        """Address of this database."""
        return self.server.url_for(self.name)

    def query(self, sql: str) -> list[list[str]]:
        """Run a statement here; see `PostgresServer.query`."""
        return self.server.query(sql, database=self.name)

    def backends(self) -> list[int]:
        """Process ids of the server's sessions with clients of this database, oldest first."""
        sql = "SELECT pid FROM pg_stat_activity WHERE datname = '{}' ORDER BY backend_start"
        return [int(row[0]) for row in self.server.query(sql.format(self.name))]

    def unclean_ends(self) -> int:
        """How many clients of this database went away without a goodbye, by the server's log."""
        here = OF_DATABASE.format(self.name)
        return sum(
            f" {here} " in line and NO_GOODBYE in line for line in self.server.log.splitlines()
        )


def _places() -> list[Path]:
    """Where Debian keeps the servers, the newest version first."""
    versions = [path for path in Path(DEBIAN).glob("*/bin") if path.parent.name.isdigit()]
    return sorted(versions, key=lambda path: int(path.parent.name), reverse=True)


def _unprivileged() -> tuple[int, int]:
    """The user and group that root runs the server as, for it refuses to be root."""
    try:
        user = pwd.getpwnam(LOGIN)
    except KeyError:
        user = pwd.getpwnam("nobody")
    return user.pw_uid, user.pw_gid
