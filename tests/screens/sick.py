"""The same shop, with settings that lose jobs."""

from __future__ import annotations

import os

from celery import Celery
from celery.schedules import crontab

URL = os.environ["SHOP_URL"]

app = Celery("shop", broker=URL)
app.conf.update(
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    task_acks_late=True,
    task_time_limit=3_600,
    visibility_timeout=7_200,
    broker_transport_options={"visibility_timeout": 1_800, "socket_timeout": 1.5},
    task_routes={"shop.charge": {"queue": "celrey"}},
    beat_schedule={"nightly": {"task": "shop.reprot", "schedule": crontab(hour=3)}},
)


@app.task(name="shop.charge")
def charge(order: int) -> None:
    """Charge an order."""


@app.task(name="shop.report")
def report(day: str) -> None:
    """Count what was sold."""
