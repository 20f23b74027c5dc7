"""The app of the pictures: a shop in which much goes wrong."""

from __future__ import annotations

import os
import signal
import time

from celery import Celery
from tenacity import wait_fixed

from reliable_tasks import IdempotentTask, UniqueTask, retry_task, setup

URL = os.environ["SHOP_URL"]


class GatewayDown(Exception):
    """The payment gateway does not answer."""


app = Celery("shop", broker=URL, backend=URL)
setup(
    app,
    {
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {"visibility_timeout": 60},
        "reliable_tasks_alive_directory": os.environ["SHOP_REPORTS"],
        "reliable_tasks_flight_recorder": True,
    },
)


@app.task(base=IdempotentTask, name="shop.charge", idempotency_key=("order",))
def charge(order: int, seconds: float = 0.0) -> dict[str, int]:
    """Charge an order."""
    time.sleep(seconds)
    return {"charged": order}


@app.task(base=IdempotentTask, name="shop.ship")
@retry_task(on=GatewayDown, attempts=8, wait=wait_fixed(900))
def ship(order: int) -> None:
    """Ask the carrier, who is down."""
    raise GatewayDown("503 from the carrier")


@app.task(base=IdempotentTask, name="shop.refund")
@retry_task(on=GatewayDown, attempts=2, wait=wait_fixed(0.1), dead_letter=True)
def refund(order: int) -> None:
    """Pay back, through a gateway that is down."""
    raise GatewayDown("503 from the gateway")


@app.task(base=IdempotentTask, name="shop.import_feed", max_crashes=2, lease_seconds=1)
def import_feed(path: str) -> None:
    """Kill the process, as a file that is too large for its memory does."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(base=UniqueTask, name="shop.refresh_catalogue")
def refresh_catalogue(shop: int) -> None:
    """Refresh once, however often it was asked for."""


@app.task(base=IdempotentTask, name="shop.report")
def report(day: str) -> None:
    """Fail for good."""
    raise ValueError(f"no sales on {day}")
