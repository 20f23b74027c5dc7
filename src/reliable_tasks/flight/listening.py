"""From Celery's signals and ours to lines."""

from __future__ import annotations

import atexit
import re
import threading
from collections.abc import Callable, Mapping
from time import time
from typing import Any
from weakref import WeakSet

from celery import signals as celery_signals

from reliable_tasks import signals
from reliable_tasks.core.header import NAME, Header
from reliable_tasks.core.lines import HOPS_PER_RETRY
from reliable_tasks.flight.tape import Tape
from reliable_tasks.storage import place_of, prefix_of
from reliable_tasks.task import IdempotentTask

__all__ = ("HEARD", "listen", "uid_of")

_DELAY = re.compile(r"^(?:[01]\.)+(?=[^.])")  # what RabbitMQ's delayed delivery writes before a key
_recorded: WeakSet[Any] = WeakSet()


def listen(app: Any, keep_ms: int) -> None:
    """
    Record what this process does for *app*.

    Args:
        app: The Celery app.
        keep_ms: How long a job's lines are kept after the last of them.

    Raises:
        ConfigurationError: The app has no store.
    """
    if app in _recorded:
        return
    place_of(app.conf)  # raises if there is none
    tape = Tape(lambda: place_of(app.conf).open(), prefix_of(app.conf), keep_ms)
    _recorded.add(app)
    recorder = Recorder(app, tape)
    for signal, hear in HEARD:
        signal.connect(_quietly(recorder, hear), weak=False, dispatch_uid=uid_of(app))
    celery_signals.worker_process_shutdown.connect(
        lambda **_: tape.finish(), weak=False, dispatch_uid=uid_of(app)
    )
    atexit.register(tape.finish)


def uid_of(app: Any) -> str:
    """Return by which name the receivers of *app* are connected."""
    return f"reliable_tasks.flight.{id(app)}"


def _quietly(recorder: Recorder, hear: Callable[..., None]) -> Callable[..., None]:
    def receive(*, sender: Any = None, signal: Any = None, **told: Any) -> None:  # noqa: ARG001
        try:
            hear(recorder, sender, **told)
        except Exception as error:  # nothing that goes wrong here may reach a job
            recorder.tape.give_up(f"{type(error).__name__}: {error}")

    return receive


class Recorder:
    """
    What of each signal is worth a line; never an argument, a result or an error's text.

    Args:
        app: The Celery app.
        tape: Where lines go.
    """

    def __init__(self, app: Any, tape: Tape) -> None:
        self._app, self.tape = app, tape
        self._publishing = threading.local()

    def _note(
        self,
        task_id: str | None,
        event: str,
        where: str = "",
        *,
        at: float | None = None,
        **details: Any,
    ) -> None:
        if task_id:
            known = {name: value for name, value in details.items() if value not in (None, "")}
            self.tape.note(task_id, event, where, known, at)

    def _note_of(self, task: Any, task_id: str, event: str, **details: Any) -> None:
        """Note what a task of this app does; other apps have recorders of their own."""
        if task.app is self._app:
            self._note(task_id, event, task.request.hostname or "", **details)

    # --- Celery's ---------------------------------------------------------------------------

    def publishing(self, _sender: Any, *, headers: Any = None, body: Any = None, **_: Any) -> None:
        """A message is about to go: a worker can have it before its publisher goes on."""
        self._publishing.begun = _about(headers, body)["id"], time()

    def published(
        self,
        sender: Any,
        *,
        headers: Any = None,
        body: Any = None,
        routing_key: Any = None,
        **_: Any,
    ) -> None:
        """A message is in the broker."""
        about = _about(headers, body)
        header = Header.parse((headers or {}).get(NAME), about["id"])
        begun, at = getattr(self._publishing, "begun", (None, None))
        self._note(
            about["id"],
            "published",
            at=at if begun == about["id"] else None,
            task=str(sender),
            queue=_DELAY.sub("", str(routing_key or "")),
            eta=about.get("eta"),
            expires=about.get("expires"),
            retries=about.get("retries") or None,
            hop=header.hop % HOPS_PER_RETRY or None if header is not None else None,
        )

    def received(self, sender: Any, *, request: Any, **_: Any) -> None:
        """A worker has taken a message."""
        again = (request.delivery_info or {}).get("redelivered") or None
        self._note(request.id, "received", sender.hostname, redelivered=again)

    def started(self, _sender: Any, *, task_id: str, task: Any, **_: Any) -> None:
        """A plain task runs."""
        if not isinstance(task, IdempotentTask):
            self._note_of(task, task_id, "started")

    def ended(self, _sender: Any, *, task_id: str, task: Any, state: Any = None, **_: Any) -> None:
        """A plain task has run."""
        if not isinstance(task, IdempotentTask):
            self._note_of(task, task_id, "ended", state=state)

    def revoked(
        self,
        sender: Any,
        *,
        request: Any,
        terminated: bool = False,
        expired: bool = False,
        **_: Any,
    ) -> None:
        """A message was dropped, or its execution ended, by an operator or because of its age."""
        reason = "expired" if expired else "terminated" if terminated else "revoked"
        if sender.app is self._app:
            self._note(request.id, "revoked", getattr(request, "hostname", ""), reason=reason)

    def unknown(self, sender: Any, *, name: Any = None, id: Any = None, **_: Any) -> None:  # noqa: A002
        """A worker does not know the task, and has dropped the message."""
        self._note(id, "unknown", sender.hostname, task=name)

    def rejected(self, sender: Any, *, message: Any, exc: Any = None, **_: Any) -> None:
        """A worker cannot make a task of a message, and has dropped it."""
        task_id = (message.headers or {}).get("id")
        error = type(exc).__name__ if exc is not None else None
        self._note(task_id, "rejected", sender.hostname, reason=error)

    # --- ours -------------------------------------------------------------------------------

    def claimed(
        self,
        sender: Any,
        *,
        task_id: str,
        key: str,
        answer: str,
        attempt: Any = None,
        crashes: Any = None,
        **_: Any,
    ) -> None:
        """An execution begins; what another answer leads to has a line of its own."""
        if answer in {"granted", "unguarded"}:
            details = {"attempt": attempt, "crashes": crashes or None, "key": _shared(key)}
            unguarded = True if answer == "unguarded" else None
            self._note_of(sender, task_id, "claimed", **details, unguarded=unguarded)

    def settled(self, sender: Any, *, task_id: str, state: str, ran: Any = None, **_: Any) -> None:
        """The outcome of an execution is recorded."""
        seconds = round(ran, 3) if ran is not None else None
        self._note_of(sender, task_id, "settled", state=state, ran=seconds)

    def deferred(
        self, sender: Any, *, task_id: str, key: str, wait: Any, error: Any = None, **_: Any
    ) -> None:
        """A message waits for its turn."""
        cause = type(error).__name__ if error is not None else None
        self._note_of(sender, task_id, "deferred", wait=wait, error=cause, key=_shared(key))

    def retrying(
        self,
        sender: Any,
        *,
        task_id: str,
        attempt: Any,
        wait: Any,
        error: Any = None,
        reason: Any = None,
        **_: Any,
    ) -> None:
        """An attempt is followed by another, or by none."""
        event = "retrying" if wait is not None else "given-up"
        self._note_of(
            sender, task_id, event, attempt=attempt, wait=wait, error=error, reason=reason
        )

    def replayed(self, sender: Any, *, task_id: str, key: str, state: str, **_: Any) -> None:
        """A copy was answered with the stored outcome."""
        self._note_of(sender, task_id, "replayed", state=state, key=_shared(key))

    def deduplicated(self, sender: Any, *, task_id: str, key: str, reason: str, **_: Any) -> None:
        """A copy was dropped, or a call published nothing."""
        if reason == "duplicate":
            self._note_of(sender, task_id, "suppressed", key=_shared(key))
        else:
            self._note_of(sender, task_id, "deduplicated", reason=reason, key=_shared(key))

    def lost(self, sender: Any, *, task_id: str, **_: Any) -> None:
        """An execution learned that its lease is another's."""
        self._note_of(sender, task_id, "lost")

    def quarantined(self, sender: Any, *, task_id: str, crashes: Any, **_: Any) -> None:
        """A job ended its process too often."""
        self._note_of(sender, task_id, "quarantined", crashes=crashes)

    def dead_lettered(self, sender: Any, *, task_id: str, reason: Any, **_: Any) -> None:
        """A job was given up, and its message is kept."""
        self._note_of(sender, task_id, "dead-lettered", reason=reason)


HEARD: tuple[tuple[Any, Callable[..., None]], ...] = (
    (celery_signals.before_task_publish, Recorder.publishing),
    (celery_signals.after_task_publish, Recorder.published),
    (celery_signals.task_received, Recorder.received),
    (celery_signals.task_prerun, Recorder.started),
    (celery_signals.task_postrun, Recorder.ended),
    (celery_signals.task_revoked, Recorder.revoked),
    (celery_signals.task_unknown, Recorder.unknown),
    (celery_signals.task_rejected, Recorder.rejected),
    (signals.task_claimed, Recorder.claimed),
    (signals.task_settled, Recorder.settled),
    (signals.task_deferred, Recorder.deferred),
    (signals.task_retrying, Recorder.retrying),
    (signals.task_replayed, Recorder.replayed),
    (signals.task_deduplicated, Recorder.deduplicated),
    (signals.lease_lost, Recorder.lost),
    (signals.task_quarantined, Recorder.quarantined),
    (signals.task_dead_lettered, Recorder.dead_lettered),
)


def _about(headers: Any, body: Any) -> Mapping[str, Any]:
    """Return what a message says of itself: its headers, or its body in the first protocol."""
    about: Mapping[str, Any] = headers if headers and "id" in headers else body
    return about


def _shared(key: str) -> str | None:
    """Return the name of a record that a job's id does not tell."""
    return None if key.rpartition(":")[2].startswith("@") else key
