"""Celery apps of the test's own process, closed for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu import pools
from kombu.utils.collections import eqhash

__all__ = ("close_app", "connected_app")


@contextmanager
def connected_app(url: str, **conf: Any) -> Iterator[Celery]:
    """
    An app that publishes to *url* and reads results from it, closed at the end.

    Args:
        url: Broker and result backend.
        **conf: Celery settings.
    """
    app = Celery("connected", broker=url, backend=url, set_as_current=False)
    app.conf.update(conf)
    try:
        yield app
    finally:
        close_app(app)


def close_app(app: Celery) -> None:
    """
    Close every connection that *app* opened in this process.

    `Celery.close` leaves them to the garbage collector, which then warns of
    unclosed sockets in the middle of another test.
    """
    consumer = getattr(app.backend, "result_consumer", None)
    if consumer is not None:
        consumer.stop()
        consumer._pubsub = None  # noqa: SLF001 - a result that dies later must not reconnect
    if client := getattr(app.backend, "client", None):
        client.connection_pool.disconnect()
    address = eqhash(app.connection_for_write())
    app.pool.force_close_all()
    for group in (pools.connections, pools.producers):  # the next app of that address gets another
        group.pop(address, None)
    app.close()
