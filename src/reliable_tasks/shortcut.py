"""Celery's way from a call to its message, for many calls that share what it looks up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import celery
from celery import Celery, Task
from celery.app.task import extract_exec_options
from celery.utils import uuid
from celery.utils.saferepr import saferepr

__all__ = ("Shortcut",)

COMPARED = (5, 7)
"""The Celery whose `send_task` tests compare with this: any other sends its messages itself."""

_APPLY_ASYNC = Task.apply_async
_SEND_TASK = Celery.send_task
_ORIGINAL = not (hasattr(_APPLY_ASYNC, "__wrapped__") or hasattr(_SEND_TASK, "__wrapped__"))
_OPTIONS = {"compression", "headers", "ignore_result", "priority", "queue", "serializer"}


@dataclass(frozen=True, slots=True)
class _Way:
    """What the messages of one task have in common."""

    check: Callable[..., Any] | None  # of the arguments
    options: Mapping[str, Any]
    limits: Mapping[str, Any]
    routed: Mapping[str, Any] | None  # where a call without options goes; None: that may differ


class Shortcut:
    """
    `Task.apply_async` for the calls of one batch, where nobody has replaced or wrapped it.

    The message is made and sent by the same functions of Celery's, which know formats, routes and
    signals. What is left out is to look the same settings up for each call; half of the time goes
    there. A call with other options than `_OPTIONS` goes Celery's own way.

    Args:
        app: The app of all calls.
        producer: Takes the messages.
    """

    def __init__(self, app: Celery, producer: Any) -> None:
        self._producer = producer
        self._ways: dict[str, _Way | None] = {}
        self._amqp = app.amqp
        self._create, self._route = app.amqp.create_task_message, app.amqp.router.route
        self._send_message = app.amqp.send_task_message
        self._reply_to = app.thread_oid
        self._levels = app.conf.task_repr_maxlevels
        self._sends_events = app.conf.task_send_sent_event
        self._note_call = app.backend.on_task_call
        self._parent = app.current_worker_task
        self._family = _family(self._parent)

    @classmethod
    def to(cls, app: Celery, producer: Any) -> Shortcut | None:
        """Return the shortcut for an app's calls, None if it might miss something."""
        inherits = app.conf.task_inherit_parent_priority and app.current_worker_task is not None
        is_own = getattr(app.send_task, "__func__", None) is _SEND_TASK
        is_known = _ORIGINAL and is_own and celery.VERSION[:2] == COMPARED
        return cls(app, producer) if is_known and not inherits else None

    def of(self, apply_async: Any) -> Any:
        """Return what takes the place of *apply_async*: that itself unless it is Celery's own."""
        if getattr(apply_async, "__func__", None) is _APPLY_ASYNC:
            return partial(self._apply_async, apply_async.__self__)
        return apply_async

    def _apply_async(
        self,
        task: Any,
        args: Any = None,
        kwargs: Any = None,
        *,
        task_id: str | None = None,
        producer: Any = None,  # noqa: ARG002 - it is the batch's
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        way = self._way_of(task)
        if way is None or link or link_error or not _OPTIONS.issuperset(options):
            return _APPLY_ASYNC(
                task, args, kwargs, task_id, self._producer, link, link_error, shadow, **options
            )
        if way.check is not None:
            way.check(*(args or ()), **(kwargs or {}))
        shadow = shadow or task.shadow_name(args, kwargs, options)
        return self._send(task, way, args, kwargs, task_id or uuid(), shadow, options)

    def _way_of(self, task: Any) -> _Way | None:
        if task.name not in self._ways:
            self._ways[task.name] = self._make_way(task)
        return self._ways[task.name]

    def _make_way(self, task: Any) -> _Way | None:
        options = {**extract_exec_options(task), "ignore_result": task.ignore_result}
        limits = {name: options.pop(name, None) for name in ("time_limit", "soft_time_limit")}
        is_special = (
            options.pop("expires", None) is not None
            or all(limits.values())
            or getattr(task, "_dump_pydantic_arguments", None) is not None
            or getattr(task, "__v2_compat__", False)
        )
        if is_special:
            return None
        router = self._amqp.router
        plain = {name: value for name, value in options.items() if name != "ignore_result"}
        routed = None if router.routes else router.route(plain, task.name, (), {}, task)
        return _Way(task.__header__ if task.typing else None, options, limits, routed)

    def _send(
        self,
        task: Any,
        way: _Way,
        args: Any,
        kwargs: Any,
        task_id: str,
        shadow: str | None,
        given: Mapping[str, Any],
    ) -> Any:
        options = {**way.options, **given}
        is_ignored = options.pop("ignore_result")
        if way.routed is not None and given.keys() <= {"headers"}:
            options = {**way.routed, **given}
        else:
            options = self._route(options, task.name, args, kwargs, task)
        message = self._create(
            task_id,
            task.name,
            args,
            kwargs,
            reply_to=self._reply_to,
            **way.limits,
            create_sent_event=self._sends_events,
            **self._family,
            **self._shown(args, kwargs),
            shadow=shadow,
            ignore_result=is_ignored,
            **options,
        )
        if not is_ignored:
            self._note_call(self._producer, task_id)
        self._send_message(self._producer, task.name, message, **options)
        result = task.AsyncResult(task_id)
        result.ignored = is_ignored
        if self._parent is not None:
            self._parent.add_trail(result)
        return result

    def _shown(self, args: Any, kwargs: Any) -> dict[str, str]:
        """Return what logs show of the arguments, where these are what a message takes."""
        if not (isinstance(args, list | tuple) and isinstance(kwargs, Mapping)):
            return {}
        amqp, levels = self._amqp, self._levels
        shown = saferepr(kwargs, amqp.kwargsrepr_maxsize, maxlevels=levels) if kwargs else "{}"
        return {
            "argsrepr": saferepr(args or (), amqp.argsrepr_maxsize, maxlevels=levels),
            "kwargsrepr": shown,
        }


def _family(parent: Any) -> dict[str, Any]:
    """Return where a message comes from: the task whose body publishes it."""
    if parent is None:
        return {"root_id": None, "parent_id": None}
    request = parent.request
    return {"root_id": request.root_id or request.id, "parent_id": request.id}
