"""Signatures on their way to the broker, and what the store is told of many at once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery.canvas import Signature, maybe_signature

from reliable_tasks.core.records import Duplicate, Reserved
from reliable_tasks.core.store import Store
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.unique import Plan, UniqueTask

__all__ = ("Call", "Publication", "UniqueCall", "call_of", "confirm", "reserve", "unreserve")

logger = logging.getLogger("reliable_tasks")

_OWN_WAY = {"producer", "publisher", "connection"}
"""Options by which a signature brings its own connection to the broker."""


@dataclass(slots=True)
class Publication:
    """
    What became of one signature that was given to `publish_many`.

    Attributes:
        signature: What was given; if it is uncertain, with the id that its message has, so that
            publishing it again is a copy of the same job.
        result: What its `apply_async` returned, or None after an error.
        error: Why it was not published, or None.
        is_uncertain: The broker may have the message in spite of the error.
    """

    signature: Any
    result: Any = None
    error: Exception | None = None
    is_uncertain: bool = False

    @property
    def duplicate(self) -> bool:
        """Whether nothing was published, for an equal job was there: `result` is that job's."""
        return bool(getattr(self.result, "duplicate", False))


@dataclass(slots=True)
class Call:
    """One signature on its way: its own `apply_async` does all."""

    publication: Publication
    app: Any

    @property
    def is_open(self) -> bool:
        """Whether nothing has become of it yet."""
        return self.publication.result is None and self.publication.error is None

    @property
    def has_failed(self) -> bool:
        """Whether its message certainly is not in the broker."""
        return self.publication.error is not None and not self.publication.is_uncertain

    def publish(self, producer: Any) -> None:
        """Publish it with a shared *producer*; None: with one of its own."""
        try:
            self.publication.result = self._publish(producer)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:
            self.fail(error)

    def _publish(self, producer: Any) -> Any:
        signature = self.publication.signature
        if producer is None or not _OWN_WAY.isdisjoint(signature.options):
            return signature.apply_async()
        return signature.apply_async(producer=producer)

    def fail(self, error: Exception, *, is_uncertain: bool = False) -> None:
        """Note why it was not published."""
        publication = self.publication
        is_known = publication.result is not None and type(publication.signature) is Signature
        if is_uncertain and is_known:
            publication.signature = publication.signature.clone(task_id=publication.result.id)
        publication.result = None
        publication.error = error
        publication.is_uncertain = is_uncertain


@dataclass(slots=True)
class TaskCall(Call):
    """A call of a task that is known here."""

    task: Any

    def _publish(self, producer: Any) -> Any:
        signature = self.publication.signature
        publish = self.task.apply_async
        if producer is not None:
            publish = producer.way_of(publish)
        return publish(signature.args, signature.kwargs, producer=producer, **signature.options)


@dataclass(slots=True)
class UniqueCall(Call):
    """A call of a unique task: the store is asked before, and told afterwards."""

    task: UniqueTask
    plan: Plan
    answer: Reserved | Duplicate | None = None

    def _publish(self, producer: Any) -> Any:
        return self.task.publish(self.plan, self.answer, producer=producer)

    @property
    def other(self) -> str | None:
        """Id of the job that takes its place, None if it is published itself."""
        if isinstance(self.answer, Duplicate) and self.plan.suppressible:
            return self.answer.job
        return None


def call_of(publication: Publication) -> Call:
    """
    Return how a signature is to be published; a unique task's call is planned.

    Raises:
        TypeError: It is no signature.
        Exception: A unique task cannot make a key of it.
    """
    signature = maybe_signature(publication.signature)
    if not isinstance(signature, Signature) or not signature.task:
        raise TypeError(
            "publish_many: expected a signature such as task.s(...), "
            f"got {type(publication.signature).__name__}, which names no task"
        )
    publication.signature = signature
    app = signature.app
    is_single = type(signature) is Signature and signature.task in app.tasks
    if not is_single or not _OWN_WAY.isdisjoint(signature.options):
        return Call(publication, app)
    task = signature.type
    if not isinstance(task, UniqueTask) or type(task).apply_async is not UniqueTask.apply_async:
        return TaskCall(publication, app, task)
    plan = task.plan(signature.args, signature.kwargs, **signature.options)
    return UniqueCall(publication, app, task, plan)


def reserve(calls: Iterable[UniqueCall]) -> None:
    """Ask the store for all *calls* in one round trip."""
    _for_each_store(calls, _reserve)


def confirm(calls: Iterable[UniqueCall]) -> None:
    """Tell the store which of *calls* the broker has, in one round trip."""
    _for_each_store((call for call in calls if call.publication.error is None), _confirm)


def unreserve(calls: Iterable[UniqueCall]) -> None:
    """Free what certainly was not published; the rest is free after the publish grace."""
    _for_each_store((call for call in calls if call.has_failed), _unreserve)


def _for_each_store(
    calls: Iterable[UniqueCall], act: Callable[[Store, Sequence[UniqueCall]], None]
) -> None:
    by_store: dict[Store, list[UniqueCall]] = defaultdict(list)
    for call in calls:
        by_store[call.task.records].append(call)
    for store, members in by_store.items():
        try:
            act(store, members)
        except StoreUnavailable as error:  # what reaches a worker is guarded all the same
            logger.warning("%d jobs of publish_many: %s", len(members), error)


def _reserve(store: Store, calls: Sequence[UniqueCall]) -> None:
    asks = [(call, ask) for call in calls if (ask := call.plan.ask) is not None]
    answers = store.reserve([ask for _, ask in asks])
    for (call, _), answer in zip(asks, answers, strict=True):
        call.answer = answer


def _confirm(store: Store, calls: Sequence[UniqueCall]) -> None:
    words = [call.plan.confirmation(call.answer) for call in calls]
    store.confirm([word for word in words if word is not None])


def _unreserve(store: Store, calls: Sequence[UniqueCall]) -> None:
    for call in calls:
        if isinstance(call.answer, Reserved):
            store.unreserve(call.plan.key, job=call.plan.task_id)
