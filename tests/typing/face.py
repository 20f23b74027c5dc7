"""The public face as users type it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

from reliable_tasks import (
    AlreadyDone,
    AlreadyRunning,
    DuplicateJob,
    IdempotentTask,
    Lease,
    LeaseLost,
    Publication,
    Quarantined,
    UniqueResult,
    UniqueTask,
    close_on_shutdown,
    once,
    publish_many,
    setup,
)


class Durable(IdempotentTask):
    idempotency_key = ("order_id",)
    same_payload = ("cents",)
    lease_seconds = timedelta(seconds=45)
    retention = 0
    when_running = "skip"
    max_crashes = 5

    def run(self, order_id: int, cents: int) -> dict[str, int]:
        assert_type(self.lease, Lease)
        assert_type(self.lease.token, int)
        assert_type(self.lease.key, str)
        assert_type(self.lease.attempt, int)
        assert_type(self.lease.crashes, int)
        assert_type(self.lease.remaining, float)
        assert_type(self.lease.lost, bool)
        self.lease.check()
        return {"charged": cents, "token": self.lease.token}


class Unique(UniqueTask):
    unique_for = timedelta(minutes=5)
    on_duplicate = "raise"
    publish_grace = 10
    reserved_for = 600

    def run(self, shop_id: int) -> None:
        """Take effect."""


class Latest(UniqueTask):
    idempotency_key = ("shop_id",)
    debounce = 5
    debounce_limit = 60.0


def a_unique_call(task: Unique) -> str:
    try:
        result: UniqueResult = task.apply_async((7,))
    except DuplicateJob as error:
        assert_type(error.key, str)
        return error.job
    assert_type(result.duplicate, bool)
    result.revoke(terminate=True)
    assert_type(task.AsyncResult("some"), UniqueResult)
    return "published"


def by_order(order_id: int, *_: Any, **__: Any) -> str:
    return f"order-{order_id}"


class ByCallable(IdempotentTask):
    idempotency_key = staticmethod(by_order)


def a_webhook(delivery: str) -> object:
    try:
        with once(delivery, store="redis://localhost", lease_seconds=10, retention=3600) as lease:
            assert_type(lease, Lease)
            lease.result = {"ok": True}
            lease.check()
    except AlreadyRunning as error:
        assert_type(error.remaining, float)
    except AlreadyDone as error:
        assert_type(error.result, object)
    except LeaseLost as error:
        assert_type(error.silent_for, float)
    return None


def what_an_operator_reads(error: Quarantined) -> tuple[str, int]:
    return error.key, error.crashes


def an_app(app: Any) -> None:
    setup(app)
    setup(app, {"broker_url": "redis://localhost", "reliable_tasks_lease_seconds": 10})
    setup(app, settings={})


def publishes_many(signatures: list[Any]) -> list[Exception]:
    publications = publish_many(signatures)
    assert_type(publications, list[Publication])
    assert_type(publications[0].duplicate, bool)
    assert_type(publications[0].is_uncertain, bool)
    return [each.error for each in publications if each.error is not None]


class Search:
    def connect(self) -> None:
        """Open a connection."""

    def hang_up(self) -> bool:
        """Close it."""
        return True


search = close_on_shutdown(Search(), timeout=0.5)
assert_type(search, Search)
close_on_shutdown(search, name="search", reset=search.connect, close=search.hang_up)
close_on_shutdown("django")


@close_on_shutdown
def flush_metrics() -> None:
    """Call me at the end."""
