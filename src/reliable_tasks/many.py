"""`publish_many`: a thousand jobs as one batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded

from reliable_tasks.batch import SharedProducer, shared_producer
from reliable_tasks.calls import (
    Call,
    Publication,
    UniqueCall,
    call_of,
    confirm,
    reserve,
    unreserve,
)

__all__ = ("BATCH", "publish_many")

BATCH = 1_000
"""Signatures that are drawn, reserved and sent together."""


def publish_many(signatures: Iterable[Any]) -> list[Publication]:
    """
    Publish many jobs, as the `apply_async` of each signature would, but in batches.

    Messages are the same, and so are Celery's signals. Where the broker's transport can send many
    messages together (Redis from Celery 5.7 on, unless its connections are told to retry), a batch
    is one round trip; elsewhere they are published one by one. The keys of unique tasks are
    reserved in one round trip a batch. One job that cannot be published holds no other one up, but
    a lost broker ends the batch.

    Args:
        signatures: Of tasks of any class, and groups, chains and chords. A generator is drawn from
            in batches of 1,000.

    Returns:
        A `Publication` for each signature, in order. The signatures of those with an error may be
        given to `publish_many` again.

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


def _by_app(batch: Sequence[Publication]) -> dict[Any, list[Call]]:
    by_app: dict[Any, list[Call]] = defaultdict(list)
    for each in batch:
        try:
            call = call_of(each)
            by_app[call.app].append(call)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:
            each.error = error
    return by_app


def _publish_batch(app: Any, calls: Sequence[Call]) -> None:
    if app.conf.task_always_eager:
        for call in calls:
            call.publish(None)
        return
    unique = [call for call in calls if isinstance(call, UniqueCall)]
    reserve(unique)
    _send(app, calls)
    _fail_with_the_other(unique)
    confirm(unique)
    unreserve(unique)


def _send(app: Any, calls: Sequence[Call]) -> None:
    waiting: list[Call] = []
    try:
        with shared_producer(app) as producer:
            _publish_each(calls, producer, waiting)
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        for call in waiting:
            call.fail(error, is_uncertain=True)
        _fail_rest(calls, error)


def _publish_each(calls: Sequence[Call], producer: SharedProducer, waiting: list[Call]) -> None:
    """Publish *calls*; those whose messages leave only at the end are put into *waiting*."""
    for call in calls:
        buffered = producer.buffered
        call.publish(producer)
        error = call.publication.error
        if producer.buffered > buffered and error is None:
            waiting.append(call)
        if error is not None and producer.is_lost(error):
            _fail_rest(calls, error)  # each would wait for all its own retries in vain
            return


def _fail_rest(calls: Sequence[Call], error: Exception) -> None:
    for call in calls:
        if call.is_open:
            call.fail(error)


def _fail_with_the_other(calls: Sequence[UniqueCall]) -> None:
    """A duplicate of a call of the same batch that was not published is not published either."""
    failed = {call.plan.task_id: call.publication for call in calls if call.publication.error}
    for call in calls:
        other = failed.get(call.other or "")
        if other is not None and other.error is not None:
            call.fail(other.error, is_uncertain=other.is_uncertain)
