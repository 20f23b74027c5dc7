"""Who is at an address, found out without a driver: by the first bytes that are answered."""

from __future__ import annotations

import errno
import socket
import ssl
from dataclasses import dataclass

from reliable_tasks.doctor.probes.bounded import NoAnswer, ask

__all__ = ("USUAL_PORTS", "Caller", "look_up")

USUAL_PORTS = {"redis": 6379, "rabbitmq": 5672}

REDIS_PING = b"*1\r\n$4\r\nPING\r\n"
AMQP_HELLO = b"AMQP\x00\x00\x09\x01"
GREETINGS = {"redis": (REDIS_PING,), "rabbitmq": (AMQP_HELLO, REDIS_PING)}
"""What is said, each on a connection of its own: a Redis waits for more of what it cannot read."""
TLS_ALERT = b"\x15\x03"
NOBODY = (errno.ECONNREFUSED, errno.ENOENT)


@dataclass(frozen=True, slots=True)
class Caller:
    """
    What was found at an address.

    Args:
        trouble: ``host``, ``refused``, ``silent`` or ``other``; None: somebody answered.
        speaks: ``redis``, ``rabbitmq``, ``http``, ``tls``, ``plain`` (no TLS), or ``unknown``;
            empty if nobody answered.
        detail: In words.
    """

    trouble: str | None
    speaks: str = ""
    detail: str = ""


def look_up(host: str, port: int, kind: str, *, tls: bool, timeout: float) -> Caller:
    """
    Say who is at *host* and *port*.

    Args:
        host: A name or number.
        port: The port.
        kind: Who is expected, ``"redis"`` or ``"rabbitmq"``.
        tls: Whether TLS is expected; no certificate is checked.
        timeout: Seconds for the name, for the connection, and for each answer.
    """
    try:
        ask(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), seconds=timeout)
    except (NoAnswer, OSError, UnicodeError) as error:
        return Caller("host", detail=f"{host}: {error}")
    answers = [
        _greeted((host, port), greeting, tls=tls, timeout=timeout / len(GREETINGS[kind]))
        for greeting in GREETINGS[kind]
    ]
    return next((each for each in answers if each.trouble != "silent"), answers[0])


def _greeted(address: tuple[str, int], greeting: bytes, *, tls: bool, timeout: float) -> Caller:
    connection = None
    try:
        connection = socket.create_connection(address, timeout)
        if tls:
            connection = _unchecked().wrap_socket(connection)
        connection.sendall(greeting)
        answer = connection.recv(64)
    except ssl.SSLError as error:
        return Caller(None, "plain", f"no TLS there: {error.reason or error}")
    except TimeoutError:
        how = "accepts connections and does not answer" if connection else "does not even accept"
        return Caller("silent", detail=f"{address[0]}:{address[1]} {how}")
    except OSError as error:
        return _failed(address, error, has_accepted=connection is not None)
    finally:
        if connection is not None:
            connection.close()
    said = f"it answered {answer[:24]!r}" if answer else "it hung up"
    return Caller(None, _language(answer), said)


def _failed(address: tuple[str, int], error: OSError, *, has_accepted: bool) -> Caller:
    words = f"{address[0]}:{address[1]}: {error.strerror or error}"
    if has_accepted:
        return Caller(None, "unknown", words)
    return Caller("refused" if error.errno in NOBODY else "other", detail=words)


def _language(answer: bytes) -> str:
    if answer.startswith((b"+PONG", b"-", b"$", b"+")):
        return "redis"
    if answer.startswith(b"AMQP") or answer[:3] == b"\x01\x00\x00":
        return "rabbitmq"
    if answer.startswith(b"HTTP/"):
        return "http"
    if answer.startswith(TLS_ALERT):
        return "tls"
    return "unknown"


def _unchecked() -> ssl.SSLContext:
    """Return a context that takes any certificate: it is only asked whether there is one."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
