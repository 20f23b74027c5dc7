"""What a Celery worker has in its hands, as its heartbeat asks for it."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from celery.bootsteps import RUN
from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker import state

from reliable_tasks.broker.holdings import Holdings, Run
from reliable_tasks.broker.unacked import delivered, keep_when_cut
from reliable_tasks.core import settings
from reliable_tasks.core.snapshots import snapshot

__all__ = ("WorkerHands", "active", "longest_ms")

PLAIN = settings.read({})
"""Options of a task that is none of ours: its hard time limit and a margin, else a day."""


class WorkerHands:
    """
    The deliveries of one worker.

    Args:
        consumer: Celery's consumer. It stays the same when the broker's connection is replaced.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._qos: Any = None
        self._kept: list[Any] = []
        self._begun: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def turn_to_new_channel(self) -> None:
        """
        Look at the deliveries of the consumer's new channel; in the consumer's own thread.

        Jobs that a lost connection left running are the new channel's: it acknowledges them.
        """
        channel = self._consumer.task_consumer.channel
        self._qos = channel.qos
        for message in self._kept:
            message.channel = channel
        self._kept = []
        keep_when_cut(self._qos, self._keep_running)

    def _keep_running(self) -> list[str]:
        """
        Note the messages of what runs on when the channel closes; none when the worker ends.

        A job that ends before there is a new channel is acknowledged by that one too.
        """
        cancels = self._consumer.app.conf.worker_cancel_long_running_tasks_on_connection_loss
        if not (cancels or self._is_closing):
            self._kept = [each.message for each in active() if not each.acknowledged]
        return [message.delivery_tag for message in self._kept]

    @property
    def _is_closing(self) -> bool:
        return bool(self._consumer.blueprint.state != RUN)

    def ask_loop(self, answer: Callable[[], None]) -> None:
        """Have the consumer's loop call *answer*. A loop that is connecting anew forgets it."""
        self._consumer.call_soon(answer)

    def holdings(self, *, silent_for: float) -> Holdings:
        """
        Return what is held now; from any thread.

        Args:
            silent_for: Seconds since the loop last answered.
        """
        tags = delivered(self._qos)  # before the runs: what begins meanwhile is in both
        return Holdings(
            delivered=tags,
            runs=[self._run(request) for request in active()],
            slots=self._consumer.pool.num_processes,
            silent_for=silent_for,
            loop_may_rest=self._is_closing or isinstance(self._consumer.pool, SoloPool),
        )

    def _run(self, request: Any) -> Run:
        begun = self._begun.setdefault(request, monotonic())
        return Run(
            tag=request.message.delivery_tag,
            name=f"{request.name}[{request.id}]",
            ends_at=begun + longest_ms(request) / 1_000,
            is_acknowledged=request.acknowledged,
        )


def longest_ms(request: Any) -> int:
    """Return how long a request may run: its hard time limit or max_run, and a margin."""
    options: settings.Options = getattr(request.task, "guard_options", PLAIN)
    hard, _ = request.time_limits
    return options.max_run_for(hard or request.task.time_limit)


def active() -> list[Any]:
    """Return the requests that run, those of earlier connections included."""
    return snapshot(state.active_requests)
