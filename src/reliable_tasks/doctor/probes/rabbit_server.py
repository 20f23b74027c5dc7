"""A RabbitMQ: whether it lets us in, and what it says of itself."""

from __future__ import annotations

import ssl
from contextlib import suppress
from time import monotonic
from typing import Any

from amqp.exceptions import AccessRefused, NotAllowed, NotFound

from reliable_tasks.doctor.facts import Link, Place, RabbitServer
from reliable_tasks.doctor.probes.bounds import bounds
from reliable_tasks.doctor.probes.reach import Address, failed, said_of

__all__ = ("probe_rabbit",)


def probe_rabbit(app: Any, place: Place, url: str, timeout: float) -> Link:
    """
    Log in to the virtual host of a RabbitMQ.

    Args:
        app: The Celery app, whose settings say what else is needed.
        place: As the settings name it.
        url: One host of it, with credentials.
        timeout: Seconds for each answer.
    """
    connection = app.connection_for_write(url, **bounds("amqp", timeout))
    begun = monotonic()
    try:
        opened = connection.transport.establish_connection()  # Kombu's own way tries again
    except Exception as error:  # whatever amqp and the system raise
        return _refused(place, connection, error, timeout)
    version = opened.server_properties.get("version")
    with suppress(Exception):  # it may be gone already
        opened.close()
    server = RabbitServer(version=None if version is None else str(version))
    return Link(place=place, seconds=monotonic() - begun, rabbit=server)


def _refused(place: Place, connection: Any, error: Exception, timeout: float) -> Link:
    """Take the server's word for it if it said one, else look who is there."""
    if isinstance(error, AccessRefused):
        return Link(place=place, trouble="password", detail=said_of(error))
    if isinstance(error, NotAllowed | NotFound):
        return Link(place=place, trouble="vhost", detail=said_of(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        return Link(place=place, trouble="tls", detail=said_of(error))
    host, port = connection.hostname or "localhost", connection.port or 5672
    return failed(place, Address("rabbitmq", host, int(port), bool(connection.ssl)), error, timeout)
