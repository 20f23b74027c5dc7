"""One Celery delivery, as the guard needs it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from celery.canvas import maybe_signature
from celery.exceptions import Ignore, Reject, Retry
from celery.states import STARTED
from kombu.serialization import dumps, loads, registry
from kombu.utils import json as wire

from reliable_tasks.core.lines import HOPS_PER_RETRY, line_of
from reliable_tasks.core.records import Outcome, State
from reliable_tasks.executions import SLOT, Execution
from reliable_tasks.leases import Lease
from reliable_tasks.processes import numbering
from reliable_tasks.publish import (
    headers_of,
    longest_wait_ms,
    publish_successor,
    send_attached,
    send_failure,
)
from reliable_tasks.shield import SoftLimitShield

__all__ = ("Delivery",)

logger = logging.getLogger("reliable_tasks")

CHORD_CLAIM_MARGIN = 1.0  # seconds


class Delivery:
    """
    The guard's `Message` on top of a Celery request.

    Args:
        task: The task.
        request: Its `celery.app.task.Context`.
        args: Positional arguments as they came.
        kwargs: Keyword arguments as they came.
        shield: Holds back a soft time limit except while the body runs.
    """

    def __init__(
        self, task: Any, request: Any, args: Any, kwargs: Any, shield: SoftLimitShield
    ) -> None:
        self.task, self._request, self._args, self._kwargs = task, request, args, kwargs
        self._shield = shield
        if not numbering.worker:
            numbering.worker = request.hostname or ""
        identity = task.identity_of(request, args, kwargs)
        self.key, self._header = identity.key, identity.header
        self.job: str = request.id
        self.payload = self._header.payload_digest or ""
        self._retries_before, self.hop = divmod(self._header.hop, HOPS_PER_RETRY)
        self.abandoned = self._header.abandoned
        self.turn = self._header.turn
        self.retries: int = request.retries + self._retries_before
        self.has_key = self._header.key_digest is not None
        self.can_wait = not request.is_eager

    @property
    def carries(self) -> bool:
        request = self._request
        return self.can_wait and bool(request.callbacks or request.chain or request.chord)

    @property
    def carries_errors(self) -> bool:
        request = self._request
        return self.can_wait and bool(request.errbacks or request.chain or request.chord)

    @property
    def flows(self) -> bool:
        request = self._request
        in_chain = request.chain is not None  # the last link of a chain has an empty one
        return bool(self.carries or request.errbacks or request.group or in_chain)

    @property
    def second_look_ms(self) -> int | None:
        """After this the backend's claim on a chord, made by a member that died, has ended."""
        if not self._request.chord or not self.can_wait:
            return None
        join_timeout = self.task.app.conf.result_chord_join_timeout or 5.0
        claim = max(5.0, join_timeout * 2)
        lengthened = getattr(self.task.backend, "_chord_publish_claim_expires", None)  # Celery 5.7
        if lengthened is not None:
            claim = lengthened(claim, maybe_signature(self._request.chord, app=self.task.app))
        return round((claim + CHORD_CLAIM_MARGIN) * 1_000)

    @property
    def longest_wait_ms(self) -> int | None:
        return longest_wait_ms(self.task.app)

    def run(self, lease: Lease) -> Any:
        execution = self._request.__dict__[SLOT] = Execution(lease, self)
        lease.attempt -= self._retries_before  # those of the message that this one follows
        if self.task.tells_started:
            self._tell_started()
        self._shield.lower()
        try:
            return self.task._body(*self._args, **self._kwargs)  # noqa: SLF001
        finally:
            self._shield.raise_again()
            execution.delivery = None  # freed with the request, not by the garbage collector

    def _tell_started(self) -> None:
        """Store the state STARTED, as Celery does with `track_started`."""
        if not (self.can_wait and self._keeps_result):
            return
        request = self._request
        process = {"pid": os.getpid(), "hostname": request.hostname}
        try:
            self.task.backend.store_result(request.id, process, STARTED, request=request)
        except Exception as error:  # it only informs
            logger.warning("%s: its start is not stored: %s", self.key, error)

    def outcome_of(self, error: BaseException | None) -> Outcome | None:
        retry = self._retry
        if retry is not None or (isinstance(error, Retry) and not self.can_wait):
            wait_ms = _wait_ms(retry.when) if retry is not None and self.can_wait else 0
            return Outcome(State.RETRYING, keep_ms=wait_ms + self.task.retry_grace_ms)
        if isinstance(error, Reject) and error.requeue:
            return Outcome(State.IDLE, keep_ms=self.task.requeue_grace_ms)
        if isinstance(error, Ignore | Reject | Retry):
            return Outcome(State.IDLE)
        if error is not None and not isinstance(error, Exception):
            return Outcome(State.IDLE, died=True)
        return None

    def ending(self, error: BaseException | None) -> BaseException | None:
        if isinstance(error, Retry) or not isinstance(error, Exception | None):
            return error
        return self._retry or error

    @property
    def _retry(self) -> Retry | None:
        execution: Execution | None = self._request.__dict__.get(SLOT)
        return execution.retry if execution is not None else None

    def defer(self, wait_ms: int, abandoned: tuple[str, ...] = ()) -> None:
        publish_successor(self.task, self._request, self._header, wait_ms, abandoned)

    def revoke(self, reason: str) -> None:
        if not (self.can_wait and self._keeps_result):
            return
        try:
            self.task.backend.mark_as_revoked(self.job, reason, self._request)
        except Exception as error:  # it only informs
            logger.warning("%s: that it was revoked is not stored: %s", self.key, error)

    def send(self, value: Any) -> None:
        if self.can_wait:
            send_attached(self.task, self._request, value, store_result=self._keeps_result)

    def send_error(self, error: BaseException) -> None:
        if self.can_wait:
            send_failure(self.task, self._request, error, store_result=self._keeps_errors)

    @cached_property
    def _keeps_result(self) -> bool:
        """Whether the result backend keeps the result; Celery 5.5 has no such function."""
        own = self._request.__dict__.get("ignore_result")
        return not (self.task.ignore_result if own is None else own)

    @property
    def _keeps_errors(self) -> bool:
        return self._keeps_result or bool(self.task.store_errors_even_if_ignored)

    def dump(self, value: Any) -> bytes | None:
        if value is None:
            return b""
        try:
            if self._serializer == "json":
                return str(wire.dumps(value)).encode()
            return _packed(dumps(value, serializer=self._serializer))
        except Exception:  # also what a value's own `__json__` raises
            return None  # Celery reports it if the result backend must keep it

    def load(self, data: bytes) -> Any:
        if not data:
            return None
        if self._serializer == "json":
            return wire.loads(data)
        return _unpacked(data, self._serializer)

    def dump_error(self, error: BaseException) -> bytes | None:
        try:
            stored = self.task.backend.prepare_exception(error, serializer="json")
            data = wire.dumps(stored).encode()
        except Exception:  # an error whose own repr fails has no stored form
            return None
        return data if len(data) <= self.task.guard_options.max_result_bytes else None

    def load_error(self, data: bytes) -> BaseException:
        error: BaseException = self.task.backend.exception_to_python(wire.loads(data))
        return error

    @property
    def _serializer(self) -> str:
        return str(self.task.app.conf.result_serializer)

    def letter(self, reason: str, at_ms: int, past: Sequence[Mapping[str, Any]]) -> bytes:
        # Here, for it costs 3 ms, and most processes write no letter.
        from reliable_tasks.deadletter.letters import QUARANTINED, letter_of  # noqa: PLC0415

        request = self._request
        return letter_of(
            self.task,
            request,
            self._args,
            self._kwargs,
            kind=QUARANTINED,
            reason=reason,
            at_ms=at_ms,
            past=past,
            headers=headers_of(request),
            standing=self.standing,
        )

    @property
    def standing(self) -> tuple[str, int]:
        """The record, and which of its job's messages this is."""
        return self.key, line_of(self.retries, self.hop)

    def max_run_ms(self) -> int:
        hard = self._request.timelimit[0] if self._request.timelimit else None
        return int(self.task.guard_options.max_run_for(hard or self.task.time_limit))


def _wait_ms(when: Any) -> int:
    """Return milliseconds until a retry is due: a number of seconds or a point in time."""
    if isinstance(when, datetime):
        aware = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0, round((aware - datetime.now(UTC)).total_seconds() * 1_000))
    return round(max(0.0, float(when or 0)) * 1_000)


def _packed(dumped: tuple[str, str, Any]) -> bytes:
    body = dumped[2]
    return body if isinstance(body, bytes) else str(body).encode()


def _unpacked(data: bytes, serializer: str) -> Any:
    encoder = registry._encoders[serializer]  # noqa: SLF001 - kombu has no public look-up
    return loads(data, encoder.content_type, encoder.content_encoding, accept=[serializer])
