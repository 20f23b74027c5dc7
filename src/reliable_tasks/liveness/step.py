"""The reports of a worker as steps of Celery's blueprints."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from _reliable_tasks.report import default_directory, report_path
from reliable_tasks.leases import keeper
from reliable_tasks.liveness.beats import Beats
from reliable_tasks.liveness.hands import WorkerHands
from reliable_tasks.liveness.watch import Watch

__all__ = ("ReportingStep", "WatchingStep")


class WatchingStep(bootsteps.StartStopStep):
    """Knows whether the consumer has its broker. Made before the pool forks."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        beats = Beats()
        keeper.on_turn = beats.beat  # of every process that is forked from here on
        directory = consumer.app.conf.get("reliable_tasks_alive_directory") or default_directory()
        path = report_path(str(directory), consumer.hostname)
        self.watch = Watch(WorkerHands(consumer, beats), consumer.hostname, path)

    def start(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's signature
        """The consumer has its broker; called again after each reconnection."""
        self.watch.connected()

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        """It has lost it, or the worker shuts down."""
        self.watch.lost()

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002
        """End when the pool has ended."""
        self.watch.stop()


class ReportingStep(bootsteps.StartStopStep):
    """Begins to report once the pool has forked, even if there is no broker yet."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Begin."""
        parent.consumer.blueprint[WatchingStep.name].watch.start()
