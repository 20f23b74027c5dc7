"""What a delivery publishes: its successors, its retries, and what hangs on it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from time import sleep
from typing import Any, NoReturn

from celery.canvas import maybe_signature
from celery.exceptions import Reject
from celery.utils import uuid
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.exceptions import EncodeError, SerializationError
from kombu.transport.native_delayed_delivery import MAX_NUMBER_OF_BITS_TO_USE

from reliable_tasks.broker import HEARTBEAT_STEP
from reliable_tasks.core.header import NAME, Header
from reliable_tasks.errors import ReliableTasksError, StoreUnavailable
from reliable_tasks.message import PAUSE_BEFORE_REQUEUE, Unsendable

__all__ = (
    "countdown_of",
    "freeze",
    "give_back",
    "headers_of",
    "is_hopeless",
    "longest_wait_ms",
    "members",
    "publish_retry",
    "publish_successor",
    "queue_of",
    "send_attached",
    "send_failure",
    "shown_arguments",
    "timed",
)

logger = logging.getLogger("reliable_tasks")

DEFAULT_VISIBILITY_TIMEOUT = 3_600.0
DEFAULT_CONSUMER_TIMEOUT = 1_800.0
NEAR = 2.0  # seconds; Celery asks the clock once more, and must still find a second left

_DELAY = re.compile(rf"(?:[01]\.){{{MAX_NUMBER_OF_BITS_TO_USE}}}")
_ABOUT_ITS_WAY = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")
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
    headers = {**headers_of(request), NAME: header.next_hop(abandoned).encode()}
    _publish_again(task, request, wait_ms, retries=request.retries, headers=headers)


def publish_retry(task: Any, request: Any, wait_ms: int, headers: Mapping[str, Any]) -> Any:
    """
    Publish the same message again, one retry on, to be run in *wait_ms*.

    Args:
        task: The message's task.
        request: Its `celery.app.task.Context`.
        wait_ms: Milliseconds; whole seconds where the queue takes no less.
        headers: Headers that take the place of the message's own.

    Returns:
        The signature that was published.
    """
    headers = {**headers_of(request), **headers}
    return _publish_again(task, request, wait_ms, retries=request.retries + 1, headers=headers)


def _publish_again(
    task: Any, request: Any, wait_ms: int, *, retries: int, headers: Mapping[str, Any]
) -> Any:
    copy = task.signature_from_request(
        request,
        countdown=countdown_of(task.app, wait_ms / 1_000),
        queue=queue_of(task.app, request),
        retries=retries,
        headers=headers,
        add_to_parent=False,
        **_own_result(request),
        **shown_arguments(request),
    )
    try:
        copy.apply_async()
    except EncodeError:  # the message came in another form than the task's own
        if not _PICKLE & set(task.app.conf.accept_content):
            raise
        copy.apply_async(serializer="pickle")
    return copy


def _own_result(request: Any) -> dict[str, bool]:
    """Return whether the result is kept, where the call said so: Celery 5.5 forgets it."""
    own = request.__dict__.get("ignore_result")
    return {} if own is None else {"ignore_result": own}


def give_back(task: Any, what: str, error: Exception) -> NoReturn:
    """
    Leave a delivery, whose next message was not published, in the broker.

    Args:
        task: The message's task.
        what: What could not be published, for the log.
        error: Why; raised as it is if time does not mend it.

    Raises:
        Reject: The broker delivers the message again, after a pause.
    """
    if is_hopeless(error):
        raise error
    logger.error("%s: the %s could not be published: %s", task.name, what, error)
    sleep(PAUSE_BEFORE_REQUEUE)
    raise Reject(repr(error), requeue=True) from error


def shown_arguments(request: Any) -> dict[str, str]:
    """Return what logs and monitors show in place of the arguments, which may be secret."""
    names = ("argsrepr", "kwargsrepr")
    return {name: shown for name in names if (shown := getattr(request, name, None))}


def countdown_of(app: Any, seconds: float) -> float:
    """
    Return with which countdown to publish a wait of *seconds*.

    Celery hands every countdown to RabbitMQ's native delayed delivery as soon as one queue of the
    app is a quorum queue. That takes whole seconds, at least 1: anything less is refused.
    """
    return max(1, math.ceil(seconds)) if _has_quorum_queue(app) else seconds


def timed(app: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the *options* of a call with a countdown, or an ETA, that every queue takes.

    Args:
        app: The Celery app.
        options: What `Task.apply_async` takes besides the arguments.

    Returns:
        The same where no queue is a quorum queue; else a countdown of at least 1 in place of a
        shorter one, and of an ETA that could be less than a second away once it is published.
    """
    seconds, eta = options.get("countdown") or 0, options.get("eta")
    if eta and not seconds:
        at = maybe_make_aware(maybe_iso8601(eta), app.timezone)
        seconds = (at - datetime.now(UTC)).total_seconds()
    is_near = 0 < seconds < NEAR
    if not is_near or not _has_quorum_queue(app):
        return dict(options)
    return {**options, "countdown": max(1, seconds), "eta": None}


def headers_of(request: Any) -> dict[str, Any]:
    """
    Return a message's headers, to publish it again, without what RabbitMQ wrote among them.

    By those it knows where a message has been. One that is to be delayed where it has been
    delayed before would be taken for one that goes in circles, and dropped.
    """
    headers = request.headers or {}
    return {name: headers[name] for name in headers if not name.startswith(_ABOUT_ITS_WAY)}


def queue_of(app: Any, request: Any) -> str | None:
    """
    Return the name of the queue that a message came through an exchange to, to publish it again.

    Celery would publish it with the key of the app's default queue when RabbitMQ delays it.

    Args:
        app: The Celery app.
        request: The message's `celery.app.task.Context`.

    Returns:
        None where Celery finds it itself, since there is no exchange, and where the app does not
        know the queue.
    """
    info = request.delivery_info or {}
    exchange, key = info.get("exchange"), info.get("routing_key")
    if not exchange or not key:
        return None
    if delay := _DELAY.match(key):
        exchange, key = None, key[delay.end() :]  # the exchange is one of those that delay
    for name, queue in app.amqp.queues.items():
        if key == queue.routing_key and exchange in (None, queue.exchange.name):
            return str(name)
    return None


def _has_quorum_queue(app: Any) -> bool:
    return any(map(_is_quorum, app.amqp.queues.values()))


def _is_quorum(queue: Any) -> bool:
    return (queue.queue_arguments or {}).get("x-queue-type") == "quorum"


def longest_wait_ms(app: Any) -> int:
    """
    Return half of the time for which the broker leaves an unacknowledged message alone.

    The visibility timeout does not count where workers say that they hold it.
    """
    longest = _consumer_timeout(app)
    if HEARTBEAT_STEP in app.steps["consumer"]:
        return round(longest * 500)
    options = app.conf.broker_transport_options or {}
    timeout = options.get("visibility_timeout") or DEFAULT_VISIBILITY_TIMEOUT
    return round(min(timeout, longest) * 500)


def _consumer_timeout(app: Any) -> float:
    """Return the seconds for which RabbitMQ lets a worker hold a message of any queue."""
    arguments = [queue.queue_arguments or {} for queue in app.amqp.queues.values()]
    named_ms = [float(each.get("x-consumer-timeout", math.inf)) for each in arguments]
    return min([DEFAULT_CONSUMER_TIMEOUT, *(each / 1_000 for each in named_ms)])


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
