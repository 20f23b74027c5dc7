"""What could not be run, kept whole."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kombu.exceptions import EncodeError
from kombu.serialization import dumps

__all__ = ("letter_of",)


def letter_of(
    task: Any,
    request: Any,
    args: Any,
    kwargs: Any,
    reason: str,
    *,
    at_ms: int,
    past: Sequence[Mapping[str, Any]],
    headers: Mapping[str, Any],
) -> bytes:
    """
    Return a message as bytes from which it can be published again.

    JSON: ``task``, ``id``, ``reason``, ``at`` (seconds since 1970), ``delivery_info``, and
    ``body``: arguments and execution options as the task's serializer writes them, in base64,
    with ``content_type`` and ``content_encoding``.

    Args:
        task: The message's task.
        request: Its context.
        args: Positional arguments as they came.
        kwargs: Keyword arguments as they came.
        reason: Why it was not run, or is run no more.
        at_ms: Now, in milliseconds since 1970.
        past: What is known of the job's attempts.
        headers: Those headers of the message that are kept.
    """
    options = {
        name: value for name, value in request.as_execution_options().items() if value is not None
    }
    options["headers"] = headers
    whole = {"args": list(args), "kwargs": kwargs, "options": options}
    try:
        content_type, encoding, body = dumps(whole, serializer=task.serializer)
    except EncodeError:  # the message came in another form than the task's own
        content_type, encoding, body = dumps(whole, serializer="pickle")
    raw = body if isinstance(body, bytes) else body.encode()
    return json.dumps(
        {
            "task": task.name,
            "id": request.id,
            "reason": reason,
            "at": at_ms / 1_000,
            "attempts": list(past),
            "delivery_info": {
                name: (request.delivery_info or {}).get(name)
                for name in ("exchange", "routing_key", "priority")
            },
            "content_type": content_type,
            "content_encoding": encoding,
            "body": base64.b64encode(raw).decode(),
        }
    ).encode()
