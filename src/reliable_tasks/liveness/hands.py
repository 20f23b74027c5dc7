"""What a Celery worker has in its hands, as its reports tell it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from celery.bootsteps import CLOSE, TERMINATE
from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker import state

from reliable_tasks.broker.consumer import active, longest_ms
from reliable_tasks.core.snapshots import snapshot
from reliable_tasks.liveness.beats import Beats
from reliable_tasks.liveness.sample import Run, Sample

__all__ = ("WorkerHands",)


class WorkerHands:
    """
    The jobs of one worker.

    Args:
        consumer: Celery's consumer.
        beats: Of the processes of its pool.
    """

    def __init__(self, consumer: Any, beats: Beats) -> None:
        self._consumer, self._beats = consumer, beats
        self._begun: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def ask_loop(self, answer: Callable[[], None]) -> None:
        """Have the consumer's loop call *answer*. A loop that is connecting anew forgets it."""
        self._consumer.call_soon(answer)

    def sample(self) -> Sample:
        """Return what the worker has now; from any thread."""
        beats, running = self._beats.collect(), active()
        return Sample(
            runs=[self._run(request, beats) for request in running],
            slots=self._consumer.pool.num_processes,
            waiting=len(set(snapshot(state.reserved_requests)).difference(running)),
            begun=state.all_total_count[0],
            is_closing=self._consumer.blueprint.state in {CLOSE, TERMINATE},
            runs_in_loop=isinstance(self._consumer.pool, SoloPool),
        )

    def _run(self, request: Any, beats: Mapping[int, float]) -> Run:
        begun = self._begun.setdefault(request, monotonic())
        options = getattr(request.task, "guard_options", None)
        heard = beats.get(self._process_of(request), begun) if beats else None
        return Run(
            name=f"{request.name}[{request.id}]",
            ends_at=begun + longest_ms(request) / 1_000,
            lease=None if options is None else options.lease_ms / 1_000,
            renewed_at=None if heard is None else max(heard, begun),
        )

    def _process_of(self, request: Any) -> int:
        """Return the process that runs it; pools of greenlets name the greenlet in its place."""
        runs_here = self._consumer.pool.is_green
        process: int = os.getpid() if runs_here else request.worker_pid
        return process
