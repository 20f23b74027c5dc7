"""
A real RabbitMQ for tests: a node of its own, apart from every other on the machine.

    with rabbitmq_server() as server:
        here = server.new_vhost()
        app.conf.broker_url = here.url
        here.cut()
        server.kill()
        server.restart()

Name, ports, data, plugins, cookie and port mapper (``epmd``) are the session's own,
and all of them listen on the loopback interface only.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
from base64 import b64decode
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kombu.connection import Connection

from reliable_tasks.testing.daemons import HOST, Daemon, ServerFailed, free_port, program
from reliable_tasks.testing.eventually import eventually
from reliable_tasks.testing.processes import Process

__all__ = ("QueueState", "RabbitMQServer", "VirtualHost", "rabbitmq_server")

REMEDY = "apt-get install rabbitmq-server, dnf install rabbitmq-server, or brew install rabbitmq"
# What packages put on the path changes to a user of its own first, and needs root for that.
PLACES = (Path("/usr/lib/rabbitmq/bin"),)
LOGIN = "guest"  # name and password; RabbitMQ takes it from the loopback interface only
# Two schedulers start sooner than one for each core.
FLAGS = "+S 2:2 +SDio 1 -kernel inet_dist_use_interface {127,0,0,1}"
TICK_MS = 200  # how often a quorum queue counts its messages; by default every 5 s
NO_MORE = "/dev/null"


@dataclass(frozen=True, slots=True)
class QueueState:
    """
    What a queue holds.

    Args:
        ready: Messages that wait for a consumer.
        unacknowledged: Messages that a consumer holds.
        consumers: How many consume.
    """

    ready: int
    unacknowledged: int
    consumers: int


def rabbitmq_server(*, port: int | None = None, config: Sequence[str] = ()) -> RabbitMQServer:
    """Start the distribution's RabbitMQ; the arguments are those of `RabbitMQServer`."""
    return RabbitMQServer(port=port, config=config)


class RabbitMQServer(Daemon):
    """
    One RabbitMQ node with an empty data directory of its own, started at once.

    A context manager: `close` kills the node and removes its directory. What is durable
    outlives `kill` and `restart`, but see `sync`.

    Args:
        port: AMQP port on 127.0.0.1; a free one is found if left out.
        config: Further lines of ``rabbitmq.conf``, for example ``consumer_timeout = 5000``.

    Raises:
        ServerNotFound: RabbitMQ, or a program of Erlang that it needs, is not on the machine.
        ServerFailed: The node did not start.
    """

    def __init__(self, *, port: int | None = None, config: Sequence[str] = ()) -> None:
        self.binary = program("rabbitmq-server", REMEDY, places=PLACES)
        self._erl_call = program("erl_call", REMEDY)
        epmd = program("epmd", REMEDY)
        super().__init__(free_port() if port is None else port)
        self.node = f"reliable-tasks-{self.port}@localhost"
        self._epmd_port, self._dist_port = free_port(), free_port()
        self._numbers = count(1)
        self._write("rabbitmq.conf", *self._settings(), *config)
        self._write("advanced.config", f"[{{rabbit, [{{quorum_tick_interval, {TICK_MS}}}]}}].")
        self._write("enabled_plugins", "[].")
        self._write(".erlang.cookie", secrets.token_hex(16))
        command = [str(epmd), "-port", str(self._epmd_port), "-address", HOST]
        self._epmd = Process(command, log=self.directory / "epmd.log")
        try:
            eventually(self._has_epmd, message="the port mapper epmd")
            self.start()
        except BaseException:
            self.close()
            raise

    def _write(self, name: str, *lines: str) -> None:
        path = self.directory / name
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)

    def _settings(self) -> list[str]:
        return [
            f"listeners.tcp.1 = {HOST}:{self.port}",
            "log.file = false",
            "log.console = true",
            "log.console.use_colors = off",
        ]

    @property
    def _env(self) -> Mapping[str, str]:
        here = self.directory
        foreign = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
            "HOME": str(here),  # of the cookie
            "LC_ALL": "C.UTF-8",
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the node, so signals reach it
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": NO_MORE,
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(here / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(here / "data"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": FLAGS,
        }

    @property
    def _command(self) -> list[Path]:
        return [self.binary]

    def _has_epmd(self) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex((HOST, self._epmd_port)) == 0

    def _answering(self) -> int | None:
        try:
            is_up, pid = self.evaluate("[rabbit:is_running(), list_to_binary(os:getpid())]")
        except ServerFailed:
            return None  # no node of this name yet
        return int(pid) if is_up else None

    def evaluate(self, expression: str) -> Any:
        """
        Evaluate Erlang inside the node; some 5 ms, where ``rabbitmqctl`` takes half a second.

        Args:
            expression: Without the final dot; its value must have a form in JSON, where
                atoms and binaries are strings.

        Raises:
            ServerFailed: The node does not answer, or the expression failed.
        """
        command = [str(self._erl_call), "-sname", self.node, "-e"]
        done = subprocess.run(
            command,
            input=f"base64:encode_to_string(iolist_to_binary(rabbit_json:encode({expression}))).\n",
            env=self._env,
            capture_output=True,
            check=False,
            encoding="utf-8",
            timeout=30,
        )
        answer = re.fullmatch(r'\{ok, "(.*)"\}', done.stdout.strip())
        if answer is None:
            raise ServerFailed(f"{self.node}, asked {expression}: {done.stdout}{done.stderr}")
        return json.loads(b64decode(answer[1]))

    def sync(self) -> None:
        """
        Write down what RabbitMQ itself writes only every half second.

        A node that is killed within that time after a quorum queue was declared has lost
        the queue for good, confirmed messages included: it answers each use with a timeout.
        """
        self.evaluate("[dets:sync(T) || T <- dets:all()]")

    @property
    def url(self) -> str:
        """Address of the default virtual host."""
        return self.url_for("/")

    def url_for(self, vhost: str) -> str:
        """Address of a virtual host."""
        return f"amqp://{LOGIN}:{LOGIN}@{HOST}:{self.port}/{quote(vhost, safe='')}"

    def new_vhost(self) -> VirtualHost:
        """Make a virtual host that nobody has got before: isolation without a purge."""
        name = f"test-{next(self._numbers)}"
        vhost, by = _binary(name), _binary("reliable-tasks")
        everything = ", ".join([_binary(".*")] * 3)
        self.evaluate(
            f"[rabbit_vhost:add({vhost}, {by}), rabbit_auth_backend_internal:set_permissions("
            f"{_binary(LOGIN)}, {vhost}, {everything}, {by})]"
        )
        return VirtualHost(self, name)

    def close(self) -> None:
        """Kill the node and its port mapper, and remove its data."""
        self._epmd.kill()
        super().close()


class VirtualHost:
    """One virtual host of a server that belongs to one test."""

    def __init__(self, server: RabbitMQServer, name: str) -> None:
        self.server, self.name = server, name

    @property
    def url(self) -> str:
        """Address of this virtual host."""
        return self.server.url_for(self.name)

    @property
    def celery_env(self) -> dict[str, str]:
        """The variable that makes this virtual host Celery's broker."""
        return {"CELERY_BROKER_URL": self.url}

    def connection(self, **options: Any) -> Connection:
        """Return a connection of kombu's to this virtual host, not yet open."""
        return Connection(self.url, **options)

    def queues(self) -> dict[str, QueueState]:
        """What each queue holds, by name."""
        items = "[messages_ready, messages_unacknowledged, consumers]"
        rows = self.server.evaluate(
            f"[[N, R, U, C] || Q <- rabbit_amqqueue:list({_binary(self.name)}), "
            "[{_, {_, _, _, N}}, {_, R}, {_, U}, {_, C}] <- "
            f"[catch rabbit_amqqueue:info(Q, [name | {items}])]]"  # one may go meanwhile
        )
        return {name: QueueState(*counts) for name, *counts in rows}

    def connections(self) -> int:
        """How many connections are open here."""
        return int(self.server.evaluate(f"length({self._connections})"))

    def delete(self) -> None:
        """
        Delete it with all its queues; its connections are closed. Nothing on a node that is down.

        A node at rest still counts the messages of every quorum queue, 28 of them for Celery's
        delayed delivery: some twenty virtual hosts make it slow.
        """
        if self.server.is_running:
            name, by = _binary(self.name), _binary("reliable-tasks")
            self.server.evaluate(f"rabbit_vhost:delete({name}, {by})")

    def cut(self) -> None:
        """Drop every connection without a goodbye, as a network that breaks does."""
        self.server.evaluate(f"[exit(P, kill) || P <- {self._connections}]")

    @property
    def _connections(self) -> str:
        where = "proplists:get_value(vhost, rabbit_networking:connection_info(P, [vhost]))"
        return f"[P || P <- rabbit_networking:connections(), {where} =:= {_binary(self.name)}]"


def _binary(text: str) -> str:
    """Return a literal of Erlang."""
    return f"<<{json.dumps(text)}/utf8>>"
