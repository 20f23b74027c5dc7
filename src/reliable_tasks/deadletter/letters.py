"""The form of a dead letter: a message as it was published, and what became of it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import Any

from kombu.exceptions import EncodeError
from kombu.serialization import dumps, loads, prepare_accept_content
from kombu.utils import json as wire

from reliable_tasks.core.header import NAME, Header
from reliable_tasks.core.lines import HOPS_PER_RETRY, line_of
from reliable_tasks.errors import ReliableTasksError
from reliable_tasks.processes import numbering
from reliable_tasks.publish import queue_of, shown_arguments

__all__ = (
    "FORMAT",
    "GAVE_UP",
    "KINDS",
    "QUARANTINED",
    "REFUSED",
    "RETRY_HEADER",
    "Letter",
    "Standing",
    "UnreadableLetter",
    "header_in",
    "letter_of",
    "letter_of_message",
    "line_in",
    "source_of",
)

FORMAT = 1
QUARANTINED, GAVE_UP, REFUSED = KINDS = ("quarantined", "gave up", "refused")
RETRY_HEADER = "reliable_tasks_retry"

_WAY = ("exchange", "routing_key", "priority")
_NAMED_OTHERWISE = ("headers", "task_id", "link", "link_error")
_UNSENT = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")


class UnreadableLetter(ReliableTasksError):
    """A dead letter of a newer release, or no letter at all."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a job is in the store: its record, and which of its messages the letter is."""

    key: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """
    A message that is kept, and what is known of its job.

    Attributes:
        task: Its task's name.
        id: The job.
        kind: ``"quarantined"``, ``"gave up"``: `retry_task` tries no more, or ``"refused"``: no
            worker could take it.
        reason: Why, in words.
        at: When it was written, in seconds since 1970.
        worker: Who wrote it.
        queue: Where it came from; None if that is not known.
        attempts: What is known of the executions before, the oldest first.
        standing: Record and line of a guarded task's job, else None.
        headers: The message's.
        properties: The message's: ``correlation_id``, ``reply_to`` and so on.
        content_type: Of the body.
        content_encoding: Of the body.
        body: As it is in the message.
        way: ``exchange``, ``routing_key`` and ``priority`` of the delivery.
    """

    task: str
    id: str
    kind: str
    reason: str
    at: float
    worker: str = ""
    queue: str | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    standing: Standing | None = None
    headers: dict[str, Any]
    properties: dict[str, Any] = field(default_factory=dict)
    content_type: str
    content_encoding: str
    body: bytes = field(repr=False)
    way: dict[str, Any] = field(default_factory=dict)

    @property
    def at_ms(self) -> int:
        """When it was written, in milliseconds since 1970."""
        return round(self.at * 1_000)

    @property
    def shown_arguments(self) -> str:
        """The arguments as logs show them: an application may hide what is secret."""
        shown = [self.headers.get(name) for name in ("argsrepr", "kwargsrepr")]
        return ", ".join(str(each) for each in shown if each not in (None, "()", "{}"))

    def content(self, accept: Sequence[str]) -> Any:
        """
        Return the body: arguments, keyword arguments, and what hangs on the message.

        Args:
            accept: Serializers or content types that may be read: pickle can run code.

        Raises:
            Exception: It is of another type, or no form of that type.
        """
        types = prepare_accept_content(accept)
        return loads(self.body, self.content_type, self.content_encoding, accept=types)

    def encode(self) -> bytes:
        """Return the letter as it is kept."""
        standing = self.standing
        return str(
            wire.dumps(
                {
                    "format": FORMAT,
                    "task": self.task,
                    "id": self.id,
                    "kind": self.kind,
                    "reason": self.reason,
                    "at": self.at,
                    "worker": self.worker,
                    "queue": self.queue,
                    "key": standing.key if standing else None,
                    "line": standing.line if standing else None,
                    "attempts": self.attempts,
                    "delivery_info": self.way,
                    "message": {
                        "headers": self.headers,
                        "properties": self.properties,
                        "content_type": self.content_type,
                        "content_encoding": self.content_encoding,
                        "body": base64.b64encode(self.body).decode(),
                    },
                }
            )
        ).encode()

    @classmethod
    def parse(cls, data: bytes) -> Letter:
        """
        Read a letter.

        Raises:
            UnreadableLetter: It is of another format, or none.
        """
        try:
            said = wire.loads(data)
            number = said["format"]
            if number == FORMAT:
                return cls._of(said, said["message"])
        except (ValueError, TypeError, KeyError) as error:
            raise UnreadableLetter(f"this is no dead letter: {error!r}") from error
        raise UnreadableLetter(
            f"this dead letter is of format {number!r}, and this release reads {FORMAT}: use the "
            "release that wrote it, or a later one"
        )

    @classmethod
    def _of(cls, said: Mapping[str, Any], message: Mapping[str, Any]) -> Letter:
        key, line = said["key"], said["line"]
        return cls(
            **{name: said[name] for name in ("task", "id", "kind", "reason", "at", "attempts")},
            **{name: message[name] for name in ("headers", "content_type", "content_encoding")},
            worker=said["worker"],
            queue=said["queue"],
            standing=Standing(key, line) if key else None,
            properties=message["properties"],
            body=base64.b64decode(message["body"]),
            way=said["delivery_info"],
        )

    def described(self) -> dict[str, Any]:
        """Return what is known, for a program to read, without the message itself."""
        names = [each.name for each in fields(self)]
        hidden = ("body", "headers", "properties", "standing", "way")
        told = {name: getattr(self, name) for name in names if name not in hidden}
        standing = self.standing
        return {
            **told,
            "key": standing.key if standing else None,
            "arguments": self.shown_arguments,
            "bytes": len(self.body),
        }


def letter_of(
    task: Any,
    request: Any,
    args: Any,
    kwargs: Any,
    *,
    kind: str,
    reason: str,
    at_ms: int,
    past: Sequence[Mapping[str, Any]],
    headers: Mapping[str, Any],
    standing: tuple[str, int] | None,
) -> bytes:
    """
    Return the message of a delivery as a letter.

    Args:
        task: The message's task.
        request: Its `celery.app.task.Context`.
        args: Positional arguments as they came.
        kwargs: Keyword arguments as they came.
        kind: See `Letter`.
        reason: See `Letter`.
        at_ms: Now, in milliseconds since 1970.
        past: What is known of the job's attempts.
        headers: Those headers of the message that are kept.
        standing: Key and line of a guarded task's job.

    Raises:
        Exception: The message has no serialized form.
    """
    options = {
        name: value
        for name, value in request.as_execution_options().items()
        if value is not None and name not in _NAMED_OTHERWISE
    }
    own = request.__dict__.get("ignore_result")
    made = task.app.amqp.as_task_v2(
        request.id,
        task.name,
        list(args),
        kwargs,
        callbacks=request.callbacks,
        errbacks=request.errbacks,
        ignore_result=task.ignore_result if own is None else own,
        **options,
        **shown_arguments(request),
    )
    content_type, encoding, body = _written(task, made.body)
    way = {name: (request.delivery_info or {}).get(name) for name in _WAY}
    letter = Letter(
        task=task.name,
        id=request.id,
        kind=kind,
        reason=reason,
        at=at_ms / 1_000,
        worker=numbering.worker or request.hostname or "",
        queue=source_of(task.app, request),
        attempts=[dict(each) for each in past],
        standing=Standing(*standing) if standing is not None else None,
        headers={**made.headers, **headers},
        properties={**made.properties, "priority": way["priority"]},
        content_type=content_type,
        content_encoding=encoding,
        body=body,
        way=way,
    )
    return letter.encode()


def source_of(app: Any, request: Any) -> str | None:
    """Return the name of the queue that a message came to, directly or through an exchange."""
    info = request.delivery_info or {}
    direct = None if info.get("exchange") else info.get("routing_key")
    return queue_of(app, request) or direct


def _written(task: Any, body: Any) -> tuple[str, str, bytes]:
    try:
        content_type, encoding, data = dumps(body, serializer=task.serializer)
    except EncodeError:  # the message came in another form than the task's own
        content_type, encoding, data = dumps(body, serializer="pickle")
    return content_type, encoding, data if isinstance(data, bytes) else data.encode()


def letter_of_message(
    message: Any, *, reason: str, at_ms: int, worker: str, queue: str | None
) -> Letter:
    """
    Return a message that no worker could take as a letter.

    Args:
        message: Kombu's.
        reason: See `Letter`.
        at_ms: Now, in milliseconds since 1970.
        worker: Who writes it.
        queue: Where it lay, if that is known.
    """
    headers = {
        name: value
        for name, value in (message.headers or {}).items()
        if not str(name).startswith(_UNSENT)
    }
    if not message.errors:
        headers.pop("compression", None)  # Kombu has undone it
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    info = message.delivery_info or {}
    kept = ("correlation_id", "reply_to", "priority")
    properties = {name: message.properties[name] for name in kept if name in message.properties}
    return Letter(
        task=str(headers.get("task", "")),
        id=str(headers.get("id") or f"unnamed-{blake2b(body, digest_size=8).hexdigest()}"),
        kind=REFUSED,
        reason=reason,
        at=at_ms / 1_000,
        worker=worker,
        queue=queue,
        headers=headers,
        properties=properties,
        content_type=str(message.content_type or ""),
        content_encoding=str(message.content_encoding or ""),
        body=body,
        way={name: info.get(name) for name in _WAY},
    )


def line_in(headers: Mapping[str, Any], header: Header) -> int:
    """Return which of its job's messages one with these *headers*, and our own *header*, is."""
    before, hop = divmod(header.hop, HOPS_PER_RETRY)
    return line_of(int(headers.get("retries") or 0) + before, hop)


def header_in(headers: Mapping[str, Any]) -> Header | None:
    """Return the library's own header among a message's *headers*."""
    return Header.parse(headers.get(NAME), str(headers.get("id")))
