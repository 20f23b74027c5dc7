from __future__ import annotations

import time
from typing import Any

from celery import shared_task
from celery.worker.control import inspect_command
from django.db import connection, transaction

from tests.integration.django_site.orders.models import Order


@inspect_command()
def parents_session(state: Any) -> int:
    """Return the session of the worker's main process."""
    return session()


def session() -> int:
    """Return the server's process behind the connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend: int = cursor.fetchone()[0]
    return backend


@shared_task
def order(label: str, seconds: float = 0.0) -> int:
    """Write a row, and return which process of the server did."""
    with transaction.atomic():
        backend = session()
        Order.objects.create(label=label, backend=backend)
    time.sleep(seconds)
    return backend
