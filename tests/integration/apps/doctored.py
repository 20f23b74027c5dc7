"""A healthy shop, of which the doctor's tests break one thing at a time."""

from __future__ import annotations

from typing import Any

from celery import Celery

from reliable_tasks import IdempotentTask, presets, setup
from reliable_tasks.testing import Ledger

QUEUES = ("jobs", "mail")
ROUTES = {"shop.greet": {"queue": "mail"}}


def shop(
    broker: str, *, results: str, store: str | None = None, beats: bool = True, **wishes: Any
) -> Celery:
    """
    Return the app; no two have a task in common.

    Args:
        broker: Its address, of a Redis or a RabbitMQ.
        results: A Redis.
        store: A Redis for the records; by default the results', else the broker.
        beats: Whether its workers have a heartbeat.
        **wishes: Further arguments of the preset; in capitals: settings of the app itself.
    """
    app = Celery("shop", set_as_current=False)
    own = {name.lower(): wishes.pop(name) for name in list(wishes) if name.isupper()}
    preset = presets.rabbitmq if broker.startswith("amqp") else presets.redis
    terms = {"queues": QUEUES, "concurrency": 1, "results": results, "store": store, **wishes}
    setup(app, preset(broker, **terms), heartbeat=beats)
    app.conf.update({"task_routes": ROUTES, **own})

    @app.task(base=IdempotentTask, name="shop.charge", idempotency_key=("order",), shared=False)
    def charge(order: str) -> str:
        Ledger.from_environment().effect(order)
        return order

    @app.task(name="shop.greet", shared=False)
    def greet(customer: str) -> str:
        Ledger.from_environment().effect(customer)
        return customer

    return app
