"""What is the same on every broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from reliable_tasks.core import defaults
from reliable_tasks.presets.addresses import Address
from reliable_tasks.presets.installed import is_known, releases
from reliable_tasks.presets.needs import SHUTDOWN_MARGIN, TO_CLEAN_UP, Needs
from reliable_tasks.presets.preset import Preset
from reliable_tasks.presets.rows import (
    MESSAGES,
    QUEUES,
    RECORDS,
    SHUTDOWN,
    TIME,
    TOPICS,
    WORKERS,
    LeftOut,
    Row,
    sifted,
)
from reliable_tasks.presets.servers import no_result_rows, result_rows

__all__ = ("assembled", "at_least", "common_rows", "max_crashes", "queue_rows")

PUBLISH_RETRIES = {"web": 1, "worker": 3}


def max_crashes() -> int:
    """Return after how many deaths a job is quarantined, unless an app says otherwise."""
    return int(defaults.GUARDED["max_crashes"])


def at_least(given: float | None, least: float) -> float:
    """Return what was given, or else the least that our default and *least* allow."""
    return max(int(defaults.GUARDED["redelivery_horizon"]), least) if given is None else given


def common_rows(needs: Needs, results: Address | None, horizon: float, copies: str) -> list[Row]:
    """
    Return the rows that both presets share.

    Args:
        needs: What the team needs.
        results: The result backend, or None for no results.
        horizon: How long a copy of a message may still turn up, in seconds.
        copies: How that was derived.
    """
    return [
        *_messages(needs),
        *_time(needs),
        *_workers(needs),
        *_shutdown(needs),
        *(no_result_rows() if results is None else result_rows(needs, results)),
        *_records(needs, horizon, copies),
    ]


def assembled(broker: str, needs: Needs, rows: Sequence[Row], *, heartbeat: bool = False) -> Preset:
    """
    Return the preset of *rows*, without what the installed Celery does not know.

    Args:
        broker: Its name.
        needs: What the team needs.
        rows: All rows, in any order of topics.
        heartbeat: Whether they rely on the heartbeat of workers.
    """
    kept, unknown = sifted(rows, partial(is_known, broker=broker), releases())
    kept.sort(key=lambda row: TOPICS.index(row.topic))
    needed = (
        f"tasks of at most {needs.longest_task:g} s, countdowns of at most "
        f"{needs.longest_countdown:g} s"
    )
    return Preset(broker, needed, kept, [*unknown, *_left_out(needs)], heartbeat=heartbeat)


def _left_out(needs: Needs) -> Iterator[LeftOut]:
    """Yield what a reader may look for in vain."""
    if needs.concurrency is None:
        yield LeftOut(
            "worker_concurrency",
            "Celery takes the number of cores. In a container that is the machine's: give "
            "concurrency there.",
        )
    if needs.workload == "io":
        yield LeftOut(
            "task_soft_time_limit, task_time_limit",
            "Threads cannot be interrupted, so a limit would promise what it does not do. Give "
            "your clients time-outs.",
        )
        yield LeftOut(
            "worker_soft_shutdown_timeout",
            "Celery cannot stop threads, and its soft shutdown fails on them. SIGTERM lets them "
            "finish: the worker ends in time if none takes longer than "
            f"{needs.soft_shutdown:g} s, which is grace_period without {SHUTDOWN_MARGIN} s. Do not "
            "set REMAP_SIGTERM.",
        )


def _messages(needs: Needs) -> Iterator[Row]:
    for name, value, holds in (
        ("task_serializer", "json", "equal"),
        ("result_serializer", "json", "equal"),
        ("accept_content", ["json"], "no more"),
    ):
        yield Row(
            name=name,
            value=value,
            reason="JSON is data; every language and release reads it.",
            without="Whoever can write to the broker runs code in your workers, by pickle.",
            source="Celery, Security",
            topic=MESSAGES,
            holds=holds,
        )
    yield Row(
        name="task_publish_retry_policy",
        value={
            "max_retries": PUBLISH_RETRIES[needs.publishers],
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 1,
        },
        reason=(
            "A request waits for the publish, so it is tried twice and then fails while there is "
            "still time to answer."
            if needs.is_web
            else "Nobody waits for a worker's publish, so it outlives a short outage."
        ),
        without="Each attempt waits for the full time-out: a request hangs as long as the broker.",
        source="measured: a publish waits for up to three time-outs",
        topic=MESSAGES,
        holds="at most",
    )


def _time(needs: Needs) -> Iterator[Row]:
    if needs.workload == "io":
        yield Row(
            name="reliable_tasks_max_run",
            value=max(needs.hard_limit, needs.lease_seconds),
            reason=(
                f"longest_task and {TO_CLEAN_UP} s: a thread that hangs keeps its lease no longer."
            ),
            without="A hung execution keeps its job for 24 h.",
            source="derived: longest_task",
            topic=TIME,
        )
        return
    yield Row(
        name="task_soft_time_limit",
        value=needs.longest_task,
        reason="longest_task: the task gets an exception and can clean up.",
        without="A hung task keeps its process until somebody looks.",
        source="derived: longest_task",
        topic=TIME,
        holds="at most",
    )
    yield Row(
        name="task_time_limit",
        value=needs.hard_limit,
        reason=f"longest_task and {TO_CLEAN_UP} s to clean up; then the process is killed.",
        without=(
            "No time-out of the broker can be long enough, for none is longer than a task that "
            "never ends."
        ),
        source="derived: longest_task",
        topic=TIME,
        holds="at most",
    )


def _workers(needs: Needs) -> Iterator[Row]:
    is_io = needs.workload == "io"
    yield Row(
        name="worker_pool",
        value="threads" if is_io else "prefork",
        reason=(
            "Tasks wait for others: threads wait cheaply. For gevent start the worker with "
            "`--pool gevent`, which must patch sockets before anything else is imported."
            if is_io
            else "Tasks compute: processes use every core, can be killed, and die alone."
        ),
        without=(
            "A process for each task that waits."
            if is_io
            else "One task computes at a time, for all threads; no limit ends it."
        ),
        source="Celery, Concurrency",
        topic=WORKERS,
    )
    if needs.concurrency is not None:
        yield Row(
            name="worker_concurrency",
            value=needs.concurrency,
            reason="So many tasks run at once in one worker.",
            without="Celery takes the number of the machine's cores, in a container too.",
            source="derived: concurrency and workload",
            topic=WORKERS,
        )
    yield Row(
        name="worker_prefetch_multiplier",
        value=1,
        reason="A worker holds what it runs, and at most one message more for each slot.",
        without="Four messages for each slot wait behind long tasks while other workers idle.",
        source="Celery, Optimizing: prefetch limits",
        topic=WORKERS,
        holds="equal",
    )
    yield Row(
        name="task_acks_late",
        value=True,
        reason="A message is acknowledged after the task, so that it outlives its worker.",
        without="A worker that dies takes its jobs with it.",
        source="Celery, Tasks: Task.acks_late",
        topic=WORKERS,
        holds="equal",
    )
    yield Row(
        name="task_reject_on_worker_lost",
        value=False,
        reason=(
            "A plain task whose process was killed must not come back without a count. "
            f"IdempotentTask turns it on for itself: it counts, and quarantines after "
            f"{max_crashes()} deaths."
        ),
        without="A job that kills its process does so for ever: 20 times in 12 s.",
        source="Celery, Tasks: Task.reject_on_worker_lost; measured",
        topic=WORKERS,
        holds="equal",
    )
    yield Row(
        name="task_retry_on_worker_lost",
        value=True,
        reason=(
            "A plain task whose process was killed is retried, at most max_retries times. "
            "IdempotentTask turns it off for itself."
        ),
        without="A plain task whose process is killed ends with WorkerLostError.",
        source="Celery 5.7, Tasks: Task.retry_on_worker_lost",
        topic=WORKERS,
        holds="equal",
    )
    yield Row(
        name="worker_deduplicate_successful_tasks",
        value=False,
        reason="The guard answers duplicates, and sends what hangs on their messages.",
        without="A worker with guarded tasks refuses to start.",
        source="IdempotentTask",
        topic=WORKERS,
        holds="equal",
    )


def _shutdown(needs: Needs) -> Iterator[Row]:
    if needs.workload == "io":
        return  # its cold shutdown would raise in the worker: the pool of threads can stop none
    fits = needs.longest_task <= needs.soft_shutdown
    yield Row(
        name="worker_soft_shutdown_timeout",
        value=needs.soft_shutdown,
        reason=(
            f"grace_period ({needs.grace_period:g} s) without the {SHUTDOWN_MARGIN} s that the "
            "worker takes to end: tasks go on so long, then their messages go back to the queue. "
            + (
                "Every task ends in that time. "
                if fits
                else f"Tasks of up to {needs.longest_task:g} s do not all end in that time: these "
                "run again elsewhere. "
            )
            + "It begins with SIGQUIT: set REMAP_SIGTERM=SIGQUIT in the worker's environment, so "
            "that the SIGTERM of a deploy begins it too."
        ),
        without=(
            "The worker waits for its tasks for as long as they last, is killed at the end of the "
            "grace period, and Redis learns of it only at the visibility timeout."
        ),
        source="derived: grace_period; Celery, Workers Guide: soft shutdown",
        topic=SHUTDOWN,
        holds="at most",
    )
    yield Row(
        name="worker_enable_soft_shutdown_on_idle",
        value=True,
        reason="A worker that runs nothing may hold messages that wait for their ETA.",
        without="Those wait for the visibility timeout after each deploy.",
        source="Celery, Workers Guide: soft shutdown",
        topic=SHUTDOWN,
    )


def _records(needs: Needs, horizon: float, copies: str) -> Iterator[Row]:
    yield Row(
        name="reliable_tasks_lease_seconds",
        value=needs.lease_seconds,
        reason="A dead execution can be taken over after at most this.",
        without="It is 30 s.",
        source="given: lease_seconds",
        topic=RECORDS,
    )
    yield Row(
        name="reliable_tasks_redelivery_horizon",
        value=horizon,
        reason=f"No record is forgotten while a copy of its message may turn up: {copies}.",
        without="A copy that comes later is a new job.",
        source="derived: longest_task and longest_countdown",
        topic=RECORDS,
        holds="at least",
    )


def queue_rows(
    needs: Needs,
    queues: Mapping[str, Any],
    *,
    reason: str,
    without: str,
    source: str,
    holds: str = "",
) -> Iterator[Row]:
    """
    Yield the queues, and that there are no others.

    Args:
        needs: What the team needs.
        queues: Their declarations by name.
        reason: Why they are declared so.
        without: What breaks without it.
        source: Where that is written.
        holds: As of `Row`.
    """
    yield Row(
        name="task_default_queue",
        value=needs.queues[0],
        reason="Where tasks go that no route names a queue for.",
        without="They go to the queue celery.",
        source="given: queues",
        topic=QUEUES,
    )
    yield Row(
        name="task_queues",
        value=dict(queues),
        reason=reason,
        without=without,
        source=source,
        topic=QUEUES,
        holds=holds,
    )
    yield Row(
        name="task_create_missing_queues",
        value=False,
        reason="A queue that is not in task_queues is an error where the task is called.",
        without="A typo makes a queue that nobody reads, and its jobs wait for ever.",
        source="Celery, Configuration: task_create_missing_queues",
        topic=QUEUES,
        holds="equal",
    )
