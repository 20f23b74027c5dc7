"""One producer for many calls: their messages leave together where the transport can do that."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu import exceptions
from kombu.exceptions import KombuError

if TYPE_CHECKING:
    from reliable_tasks.shortcut import Shortcut

__all__ = ("SharedProducer", "Undelivered", "shared_producer")

Undelivered: type[Exception] = getattr(exceptions, "BatchPublishError", KombuError)
"""Messages that were sent together may have arrived or not; kombu before 5.7 sends none so."""


class SharedProducer:
    """
    A kombu producer as `apply_async` uses one, for all the calls of a batch.

    Attributes:
        is_batch: Whether messages wait here for the end of the batch.
        buffered: How many have been put into the batch.
    """

    def __init__(self, app: Any, producer: Any, *, is_batch: bool) -> None:
        self._producer = producer
        self._declared: dict[int, Any] = {}
        self.is_batch = is_batch
        self.buffered = 0
        self._shortcut: Shortcut | None = None
        if is_batch:
            from reliable_tasks.shortcut import Shortcut  # noqa: PLC0415 - few processes need it

            self._shortcut = Shortcut.to(app, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def way_of(self, apply_async: Callable[..., Any]) -> Callable[..., Any]:
        """Return what does the same as a task's *apply_async*, in less time where that is known."""
        return apply_async if self._shortcut is None else self._shortcut.of(apply_async)

    def is_lost(self, error: BaseException | None) -> bool:
        """Whether *error* comes of a lost connection, which the next message would meet too."""
        while error is not None:
            if isinstance(error, self._producer.connection.recoverable_connection_errors):
                return True
            error = error.__cause__ or error.__context__
        return False

    def publish(
        self,
        body: Any,
        *,
        declare: Any = None,
        retry: bool = False,
        retry_policy: Any = None,
        **options: Any,
    ) -> Any:
        """
        Publish as `kombu.Producer.publish` does, or put the message into the batch.

        In a batch each queue is declared once, and nothing is sent that could be tried again.
        """
        if not self.is_batch:
            return self._producer.publish(
                body, declare=declare, retry=retry, retry_policy=retry_policy, **options
            )
        for entity in declare or ():
            self._declare(entity, retry, retry_policy or {})
        self._producer.publish(body, **options)
        self.buffered += 1
        return None

    def _declare(self, entity: Any, retry: bool, policy: Any) -> None:
        if id(entity) not in self._declared:
            self._producer.maybe_declare(entity, retry=retry, **policy)
            self._declared[id(entity)] = entity


@contextmanager
def shared_producer(app: Any) -> Iterator[SharedProducer]:
    """
    Give a producer of the app's pool, connected; what waits in it is sent at the end.

    Connecting is tried as often as the app's publish retry policy says.

    Raises:
        Undelivered: At the end: what was put into the batch may have arrived or not.
        Exception: The broker cannot be reached: no message was sent.
    """
    with app.producer_or_acquire() as producer:
        _connect(app, producer)
        if not getattr(producer, "supports_batch_publish", False):
            yield SharedProducer(app, producer, is_batch=False)
            return
        try:
            with producer.batch(max_size=sys.maxsize):
                yield SharedProducer(app, producer, is_batch=True)
        except Undelivered:
            producer.connection.collect()  # the next batch connects anew, or learns that it cannot
            raise


def _connect(app: Any, producer: Any) -> None:
    policy = app.conf.task_publish_retry_policy if app.conf.task_publish_retry else _ONE_TRY
    producer.connection.ensure_connection(**{name: policy[name] for name in _PATIENCE & {*policy}})


_PATIENCE = {"max_retries", "interval_start", "interval_step", "interval_max"}
_ONE_TRY = {"max_retries": 0}
