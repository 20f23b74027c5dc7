"""What the guard publishes: successors of a message, and what hangs on one."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from celery.canvas import maybe_signature
from celery.utils import uuid
from kombu.exceptions import EncodeError, SerializationError

from reliable_tasks.core.header import NAME, Header
from reliable_tasks.errors import ReliableTasksError, StoreUnavailable
from reliable_tasks.message import Unsendable

__all__ = (
    "freeze",
    "is_hopeless",
    "members",
    "publish_successor",
    "send_attached",
    "send_failure",
    "shown_arguments",
)

logger = logging.getLogger("reliable_tasks")

_PICKLE = {"pickle", "application/x-python-serialize"}
_HOPELESS = (SerializationError, TypeError, ValueError, LookupError, ReliableTasksError)


def publish_successor(
    task: Any, request: Any, header: Header, wait_ms: int, abandoned: Sequence[str] = ()
) -> None:
    """
    Publish the same message again, one hop on, to be run in *wait_ms*.

    Args:
        task: The message's task.
        request: Its `celery.app.task.Context`.
        header: The message's own header, or one made for it.
        wait_ms: Milliseconds; whole seconds where the queue takes no less.
        abandoned: Deliveries that are over, though the store may not have heard of it.
    """
    successor = task.signature_from_request(
        request,
        countdown=_countdown(task.app, request, wait_ms),
        retries=request.retries,
        headers={**(request.headers or {}), NAME: header.next_hop(abandoned).encode()},
        add_to_parent=False,
        **shown_arguments(request),
    )
    try:
        successor.apply_async()
    except EncodeError:  # the message came in another form than the task's own
        if not _PICKLE & set(task.app.conf.accept_content):
            raise
        successor.apply_async(serializer="pickle")


def shown_arguments(request: Any) -> dict[str, str]:
    """Return what logs and monitors show in place of the arguments, which may be secret."""
    names = ("argsrepr", "kwargsrepr")
    return {name: shown for name in names if (shown := getattr(request, name, None))}


def _countdown(app: Any, request: Any, wait_ms: int) -> float:
    """Return seconds; native delayed delivery of RabbitMQ takes whole ones, and not 0."""
    routing_key = (request.delivery_info or {}).get("routing_key")
    queue = app.amqp.queues.get(routing_key) if routing_key in app.amqp.queues else None
    arguments = getattr(queue, "queue_arguments", None) or {}
    if arguments.get("x-queue-type") == "quorum":
        return max(1, math.ceil(wait_ms / 1_000))
    return wait_ms / 1_000


def send_attached(task: Any, request: Any, value: Any, *, store_result: bool) -> None:
    """
    Send what a message carries for success, each part taken off the message once it is sent.

    Callbacks first, then the next link of its chain, then the result, which
    counts it in its chord: as Celery's tracer does, but before the delivery is
    settled with the broker, and so that it can be done again.

    Args:
        task: The message's task.
        request: Its context, which Celery's tracer looks at again afterwards.
        value: What the body returned.
        store_result: Whether the result backend keeps it.

    Raises:
        Unsendable: The result has no serialized form, or a callback does not fit it; trying
            again is of no use. What is left on the message is Celery's to report.
    """
    try:
        _send_callbacks(task, request, value)
    except Exception as error:
        if is_hopeless(error):
            raise Unsendable(str(error)) from error
        raise
    try:
        task.backend.mark_as_done(request.id, value, request, store_result)
    except EncodeError as error:
        raise Unsendable(str(error)) from error
    request.chord = None


def _send_callbacks(task: Any, request: Any, value: Any) -> None:
    inherits = task.app.conf.task_inherit_parent_priority
    family = {
        "parent_id": request.id,
        "root_id": request.root_id or request.id,
        "priority": (request.delivery_info or {}).get("priority") if inherits else None,
    }
    while request.callbacks:
        maybe_signature(request.callbacks[0], app=task.app).apply_async((value,), **family)
        request.callbacks = request.callbacks[1:]
    if request.chain:
        link = maybe_signature(request.chain[-1], app=task.app)
        link.apply_async((value,), chain=request.chain[:-1], **family)
        request.chain = None


def send_failure(task: Any, request: Any, error: BaseException, *, store_result: bool) -> None:
    """Record a failure and send what hangs on it, then take that off the message."""
    try:
        task.backend.mark_as_failure(
            request.id, error, traceback=None, request=request, store_result=store_result
        )
    except Exception as trouble:
        if not is_hopeless(trouble):
            raise
        logger.exception("%s[%s]: an error callback does not fit", task.name, request.id)
    request.errbacks = request.chain = request.chord = None


def is_hopeless(error: BaseException) -> bool:
    """Whether an error of publishing is one of the message itself, which time does not mend."""
    return isinstance(error, _HOPELESS) and not isinstance(error, OSError | StoreUnavailable)


def freeze(links: Any) -> Any:
    """
    Give every task in *links* an id, so that sending it twice can be recognised downstream.

    Args:
        links: What `Task.apply_async` takes as link or link_error: nothing, one
            signature, or several. Returned as copies.
    """
    if not links:
        return links
    if isinstance(links, Mapping):
        return _frozen(links)
    return [_frozen(link) for link in links]


def _frozen(link: Mapping[str, Any]) -> Any:
    signature: Any = maybe_signature(link, clone=True)
    _give_ids(signature, uuid)
    return signature


def _give_ids(signature: Any, new_id: Callable[[], str]) -> None:
    options = signature.setdefault("options", {})
    if options.get("task_id") is None:
        options["task_id"] = new_id()
    for part in _parts(signature):
        _give_ids(part, new_id)


def members(signature: Any) -> Iterator[Any]:
    """Yield a signature and, for a group, chain or chord, all tasks inside it."""
    yield signature
    for part in _parts(signature):
        yield from members(part)


def _parts(signature: Any) -> Iterable[Any]:
    """Yield the tasks inside a group, chain or chord."""
    kwargs = signature.get("kwargs") or {}
    if signature.get("subtask_type") in ("group", "chain"):
        yield from kwargs.get("tasks") or ()
    elif signature.get("subtask_type") == "chord":
        yield from _header_tasks(kwargs.get("header"))
        if kwargs.get("body") is not None:
            yield kwargs["body"]


def _header_tasks(header: Any) -> Iterable[Any]:
    if header is None:
        return ()
    return _parts(header) if isinstance(header, Mapping) else header
