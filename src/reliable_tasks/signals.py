"""
What happened, for whoever wants to know: signals in Celery's own form.

Connect as to Celery's: ``@task_replayed.connect``. The sender is the task. Each
signal has one structured log line beside it, whose fields are also in the log
record's ``data``. A receiver that raises is logged and changes nothing.
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

__all__ = (
    "dead_letter_dropped",
    "lease_lost",
    "task_claimed",
    "task_dead_lettered",
    "task_deduplicated",
    "task_deferred",
    "task_quarantined",
    "task_replayed",
    "task_retrying",
    "task_settled",
)

_COMMON = {"task_id", "key"}

task_replayed = Signal(name="task_replayed", providing_args=_COMMON | {"state", "same_job"})
"""A duplicate was answered with the stored outcome: *state* ``done`` or ``failed``."""

task_deferred = Signal(name="task_deferred", providing_args=_COMMON | {"wait", "error"})
"""A message waits for its turn for *wait* seconds, or because of *error*: a store that is down."""

task_deduplicated = Signal(name="task_deduplicated", providing_args=_COMMON | {"reason"})
"""
A copy was acknowledged unrun: *reason* ``closed``, ``older``, ``repeated``, ``overtaken``,
``replaced``, ``running`` or ``done``. Or a call published nothing: ``duplicate``.
"""

lease_lost = Signal(name="lease_lost", providing_args=_COMMON | {"token"})
"""An execution learned that its token is no longer current."""

task_quarantined = Signal(name="task_quarantined", providing_args=_COMMON | {"crashes"})
"""A job ended its process too often; its message is among the dead letters."""

task_retrying = Signal(
    name="task_retrying", providing_args={"task_id", "attempt", "wait", "error", "reason"}
)
"""
An *attempt*, from 1, of a task with `retry_task` is followed by another after *wait* seconds.

*error* is the class of its error, None for a result that is to be tried again. With *reason*
``attempts``, ``stop`` or ``refused`` no other follows, and *wait* is None. With ``breaker`` the
attempt has not begun: it is put off for *wait* seconds.
"""

task_dead_lettered = Signal(name="task_dead_lettered", providing_args={"task_id", "reason"})
"""A job of a task with `retry_task` was given up for *reason*, and its message is kept."""

dead_letter_dropped = Signal(name="dead_letter_dropped", providing_args={"task_id", "dropped"})
"""The dead letter of the job *dropped* gave way to that of *task_id*: too many, or too old."""

task_claimed = Signal(
    name="task_claimed",
    providing_args=_COMMON | {"delivery", "answer", "seconds", "attempt", "crashes", "token"},
)
"""
The store has answered within *seconds* whether a delivery may run; sent for each, never logged.

*answer* is ``granted``, ``busy``, ``finished``, ``superseded``, ``early``, ``poisoned``,
``reused``, ``unreadable``, or ``unguarded``: the store is down, and the task runs without it.
*token* is that of the lease, None unless the answer is ``granted``.
"""

task_settled = Signal(
    name="task_settled", providing_args=_COMMON | {"delivery", "state", "seconds", "ran"}
)
"""
The outcome of an execution was recorded within *seconds*; sent for each, never logged.

*state* is ``done``, ``failed``, ``retrying``, or ``released``: it has not ended its job. The body
ran for *ran* seconds.
"""
