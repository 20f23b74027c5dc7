"""The two tasks: one on plain Celery as its manual advises, one guarded."""

from __future__ import annotations

from typing import Any

from celery import Celery

from reliable_tasks.demo.gateway import Gateway, Scribe
from reliable_tasks.demo.journal import Kind
from reliable_tasks.demo.site import LEASE_SECONDS, Side, Site
from reliable_tasks.setup import setup
from reliable_tasks.task import IdempotentTask

__all__ = ("open_shop",)


def open_shop(site: Site, scribe: Scribe) -> Any:
    """Return the task of a side, in an app of its own."""
    app = Celery(f"demo-{site.side}", set_as_current=False)
    app.conf.update(site.settings)
    gateway = Gateway(site, scribe)
    if site.side is Side.PLAIN:
        return _plain(app, gateway, scribe)
    return _guarded(app, gateway, scribe)


def _plain(app: Any, gateway: Gateway, scribe: Scribe) -> Any:
    def pay(payment: int, cents: int) -> None:
        scribe.note(Kind.STARTED)
        gateway.authorise(payment)
        gateway.charge(payment, cents)

    return app.task(pay, name="pay", acks_late=True, reject_on_worker_lost=True)


def _guarded(app: Any, gateway: Gateway, scribe: Scribe) -> Any:
    setup(app)

    def pay(self: Any, payment: int, cents: int) -> None:
        scribe.note(Kind.STARTED, crashes=self.lease.crashes)
        gateway.authorise(payment)
        self.lease.check()  # raises LeaseLost if another execution has taken over
        gateway.charge(payment, cents)

    return app.task(
        pay,
        name="pay",
        base=IdempotentTask,
        bind=True,
        idempotency_key=("payment",),
        lease_seconds=LEASE_SECONDS,
    )
