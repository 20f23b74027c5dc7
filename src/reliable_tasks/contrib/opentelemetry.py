"""
What happens to a job, on the spans of Celery's instrumentation.

``pip install 'reliable-tasks[opentelemetry]'``
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

try:
    from opentelemetry import trace
except ImportError as error:
    raise ImportError(
        "reliable_tasks.contrib.opentelemetry needs opentelemetry-api: "
        "pip install 'reliable-tasks[opentelemetry]'"
    ) from error

from reliable_tasks import signals

__all__ = ("instrument",)

_UID = "reliable_tasks.contrib.opentelemetry"

_spans: WeakValueDictionary[tuple[str, int], Any] = WeakValueDictionary()
"""Spans of executions by key and token: a lease is lost in a thread that has no span."""


def instrument() -> None:
    """
    Write what guards and retries do onto the span that is current where they do it.

    In a worker that is the span of the delivery, which Celery's own instrumentation
    (opentelemetry-instrumentation-celery) begins; where a unique task is called, the caller's.
    Spans are neither begun nor ended, and keys appear as digests only. Call it beside
    ``CeleryInstrumentor().instrument()``; calling it twice changes nothing.
    """
    for signal, receiver in (
        (signals.task_claimed, _on_claimed),
        (signals.task_settled, _on_settled),
        (signals.task_replayed, _on_replayed),
        (signals.task_deferred, _on_deferred),
        (signals.task_deduplicated, _on_deduplicated),
        (signals.lease_lost, _on_lease_lost),
        (signals.task_quarantined, _on_quarantined),
        (signals.task_retrying, _on_retrying),
        (signals.task_dead_lettered, _on_dead_lettered),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=_UID)


def _named(values: dict[str, Any]) -> dict[str, Any]:
    """Return attributes with their full names; what is None has none."""
    return {f"reliable_tasks.{name}": each for name, each in values.items() if each is not None}


def _attach(**values: Any) -> None:
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes(_named(values))


def _event(name: str, span: Any = None, **values: Any) -> None:
    span = span or trace.get_current_span()
    if span.is_recording():
        span.add_event(f"reliable_tasks.{name}", _named(values))


def _error_name(error: Any) -> str | None:
    """Return the class of an error; its text may be anything."""
    if error is None or isinstance(error, str):
        return error
    return (error if isinstance(error, type) else type(error)).__name__


def _on_claimed(
    key: str,
    answer: str,
    seconds: float,
    attempt: int,
    crashes: int | None,
    token: int | None,
    **_: Any,
) -> None:
    _attach(
        key_digest=key.rpartition(":")[2],
        answer=answer,
        attempt=attempt,
        crashes=crashes,
        token=token,
        claim_seconds=seconds,
    )
    if token is not None:
        _spans[key, token] = trace.get_current_span()


def _on_settled(state: str, seconds: float, **_: Any) -> None:
    _attach(state=state, settle_seconds=seconds)


def _on_replayed(state: str, same_job: bool, **_: Any) -> None:
    _event("replayed", state=state, same_job=same_job)


def _on_deferred(wait: float | None, error: Any, **_: Any) -> None:
    _event("deferred", wait_seconds=wait, error=_error_name(error))


def _on_deduplicated(reason: str, **_: Any) -> None:
    _event("deduplicated", reason=reason)


def _on_lease_lost(key: str, token: int, **_: Any) -> None:
    _event("lease_lost", _spans.get((key, token)), token=token)


def _on_quarantined(crashes: int, **_: Any) -> None:
    _event("quarantined", crashes=crashes)


def _on_retrying(
    attempt: int, wait: float | None, error: Any, reason: str | None, **_: Any
) -> None:
    name = "given_up" if wait is None else "put_off" if reason is not None else "retrying"
    _event(name, attempt=attempt, wait_seconds=wait, error=_error_name(error), reason=reason)


def _on_dead_lettered(reason: str, **_: Any) -> None:
    _event("dead_lettered", reason=reason)
