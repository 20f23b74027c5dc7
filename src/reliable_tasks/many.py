"""`publish_many`: a thousand jobs as one batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery.canvas import Signature, maybe_signature

from reliable_tasks.batch import SharedProducer, shared_producer

__all__ = ("BATCH", "Publication", "publish_many")

BATCH = 1_000
"""Signatures that are drawn, reserved and sent together."""


@dataclass(slots=True)
class Publication:
    """
    What became of one signature that was given to `publish_many`.

    Attributes:
        signature: What was given.
        result: What its `apply_async` returned, or None after an error. `duplicate` says whether
            it is another job's.
        error: Why it was not published, or None.
        is_uncertain: The broker may have the message in spite of the error.
    """

    signature: Any
    result: Any = None
    error: Exception | None = None
    is_uncertain: bool = False

    @property
    def duplicate(self) -> bool:
        """Whether an equal job is queued or running already, so that nothing was published."""
        return bool(getattr(self.result, "duplicate", False))


def publish_many(signatures: Iterable[Any]) -> list[Publication]:
    """
    Publish many jobs, as the `apply_async` of each signature would, but in batches.

    Messages are the same, and so are Celery's signals. Where the broker's transport can send many
    messages together (Redis from Celery 5.7 on, unless its connections are told to retry), a batch
    is one round trip; elsewhere they are published one by one. One job that cannot be published
    holds no other one up.

    Args:
        signatures: Of tasks of any class, and groups, chains and chords. A generator is drawn from
            in batches of 1,000.

    Returns:
        A `Publication` for each signature, in order.

    Raises:
        Exception: Only what drawing a signature raised. All batches before are published.
        SoftTimeLimitExceeded: The task that publishes has run out of time.
    """
    publications: list[Publication] = []
    rest = iter(signatures)
    while batch := [Publication(each) for each in islice(rest, BATCH)]:
        for app, members in _by_app(batch).items():
            _publish_batch(app, members)
        publications += batch
    return publications


def _by_app(batch: Sequence[Publication]) -> dict[Any, list[Publication]]:
    by_app: dict[Any, list[Publication]] = defaultdict(list)
    for each in batch:
        try:
            each.signature = _signature(each.signature)
            by_app[each.signature.app].append(each)
        except Exception as error:
            each.error = error
    return by_app


def _signature(given: Any) -> Any:
    signature = maybe_signature(given)
    if not isinstance(signature, Signature):
        raise TypeError(
            f"publish_many: expected a signature such as task.s(...), got {type(given).__name__}"
        )
    return signature


def _publish_batch(app: Any, batch: Sequence[Publication]) -> None:
    if app.conf.task_always_eager:
        for each in batch:
            _apply(each, {})
        return
    waiting: list[Publication] = []
    try:
        with shared_producer(app) as producer:
            _publish_each(batch, producer, waiting)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        for each in waiting:
            _fail(each, error, is_uncertain=True)
        _fail_rest(batch, error)


def _publish_each(
    batch: Sequence[Publication], producer: SharedProducer, waiting: list[Publication]
) -> None:
    """Publish *batch*; those whose messages leave only at its end are put into *waiting*."""
    for each in batch:
        buffered = producer.buffered
        _apply(each, {"producer": producer})
        if producer.buffered > buffered and each.error is None:
            waiting.append(each)
        if each.error is not None and producer.is_lost(each.error):
            _fail_rest(batch, each.error)  # each would wait for all its own retries in vain
            return


def _fail_rest(batch: Sequence[Publication], error: Exception) -> None:
    for each in batch:
        if each.result is None and each.error is None:
            _fail(each, error)


def _apply(publication: Publication, options: Mapping[str, Any]) -> None:
    signature = publication.signature
    try:
        if not _OWN_WAY & {*signature.options}:
            publication.result = signature.apply_async(**options)
        else:
            publication.result = signature.apply_async()
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        _fail(publication, error)


def _fail(publication: Publication, error: Exception, *, is_uncertain: bool = False) -> None:
    publication.result = None
    publication.error = error
    publication.is_uncertain = is_uncertain


_OWN_WAY = {"producer", "publisher", "connection"}
"""Options by which a signature brings its own connection to the broker."""
