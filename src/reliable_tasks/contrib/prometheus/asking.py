"""What broker and store say when Prometheus asks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from reliable_tasks.broker.view import QueueView, view_of
from reliable_tasks.inspection.watching.letters import letters_kept

__all__ = ("PATIENCE", "Answers", "AskingCollector", "families")

T = TypeVar("T")

logger = logging.getLogger("reliable_tasks")

PATIENCE = 3.0  # seconds of a scrape; Prometheus itself gives up after ten


@dataclass(slots=True)
class Answers:
    """What was answered in time; None: nothing was."""

    queues: list[QueueView] | None = None
    letters: int | None = None


class AskingCollector(Collector):
    """
    The depths of the queues that a worker reads, and the number of dead letters.

    A silent server costs a scrape `PATIENCE` at most, and makes no scrape fail.

    Args:
        app: The Celery app.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._asking = threading.Lock()

    def describe(self) -> list[Metric]:
        """Name the metrics without asking anybody."""
        return list(families(Answers()))

    def collect(self) -> Iterator[Metric]:
        """Return what is answered now."""
        answers = Answers()
        asking = threading.Thread(
            target=self._ask, args=(answers,), name="reliable-tasks-metrics", daemon=True
        )
        asking.start()
        asking.join(PATIENCE)
        yield from families(answers)

    def _ask(self, answers: Answers) -> None:
        if not self._asking.acquire(blocking=False):
            return  # an earlier scrape still waits
        try:
            answers.queues = _or_none(self._queues)
            answers.letters = _or_none(lambda: letters_kept(self._app))
        finally:
            self._asking.release()

    def _queues(self) -> list[QueueView]:
        view = view_of(self._app, timeout=PATIENCE / 2)
        try:
            return view.queues(sorted(self._app.amqp.queues.consume_from))
        finally:
            view.close()


def _or_none(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except Exception as error:  # whatever it is, the other metrics are scraped
        logger.warning("some metrics are not known now: %s", error)
        return None


def families(answers: Answers) -> Iterator[Metric]:
    """Return the metrics of *answers*; what nobody can say is left out."""
    yield _gauge(
        "broker_up",
        "Whether the broker said how deep the queues are: 1 or 0.",
        0 if answers.queues is None else 1,
    )
    yield _gauge("dead_letters_kept", "Dead letters on the app's shelf.", answers.letters)
    for field, text in (
        ("depth", "Messages that wait in a queue."),
        ("consumers", "Workers that read a queue."),
        ("unacked", "Messages of a queue that workers hold."),
    ):
        yield _by_queue(field, text, answers.queues or [])


def _gauge(name: str, text: str, value: int | None) -> Metric:
    family = GaugeMetricFamily(f"reliable_tasks_{name}", text, labels=())
    if value is not None:
        family.add_metric((), value)
    return family


def _by_queue(field: str, text: str, queues: list[QueueView]) -> Metric:
    family = GaugeMetricFamily(f"reliable_tasks_queue_{field}", text, labels=("queue",))
    for queue in queues:
        value = getattr(queue, field)
        if value is not None:
            family.add_metric((queue.name,), value)
    return family
