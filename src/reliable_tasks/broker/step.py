"""The heartbeat and the acknowledgements as steps of Celery's consumer."""

from __future__ import annotations

import logging
from typing import Any

import kombu
from celery import bootsteps

from reliable_tasks.broker import HEARTBEAT_STEP
from reliable_tasks.broker.acks import PromptAcks, is_known
from reliable_tasks.broker.consumer import WorkerHands
from reliable_tasks.broker.heartbeat import Heartbeat
from reliable_tasks.broker.unacked import (
    DEFAULT_VISIBILITY_TIMEOUT,
    UnackedIndex,
    missing_names,
    uses_redis,
)

__all__ = ("AcksStep", "HeartbeatStep")

logger = logging.getLogger("reliable_tasks")


class HeartbeatStep(bootsteps.StartStopStep):
    """Keeps what a worker holds from being delivered again, where its broker is Redis."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._hands = WorkerHands(consumer)
        self._heartbeat = Heartbeat(self._hands, UnackedIndex(consumer.app))

    def include_if(self, consumer: Any) -> bool:
        """Take part only where it is needed, and where kombu is as we know it."""
        if not uses_redis(consumer.app):
            return False
        missing = missing_names()
        if missing:
            do_without(consumer.app, missing)
        return not missing

    def start(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Look at the channel that was just opened; called again after each reconnection."""
        self._hands.turn_to_new_channel()
        self._heartbeat.start()

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's signature
        """End when the pool has ended, just before what is still held goes back to its queues."""
        self._heartbeat.stop()


class AcksStep(bootsteps.StartStopStep):
    """Has guarded messages acknowledged without waiting, where the broker is Redis."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._tasks = consumer.app.tasks
        self._acks: PromptAcks | None = None

    def include_if(self, consumer: Any) -> bool:
        """Take part only where kombu waits for each, and is as we know it."""
        return uses_redis(consumer.app) and is_known()

    def start(self, consumer: Any) -> None:
        """Turn to the channel that was just opened; called again after each reconnection."""
        self._acks = PromptAcks(consumer.task_consumer.channel, self._is_guarded)
        self._acks.install()

    def stop(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Wait for the last one; what ends from now on is acknowledged as kombu does it."""
        if self._acks is not None:
            self._acks.close()

    def _is_guarded(self, message: Any) -> bool:
        task = self._tasks.get((message.headers or {}).get("task"))
        return hasattr(task, "guard_options")


def do_without(app: Any, missing: list[str]) -> None:
    """
    Give a worker that cannot beat a visibility timeout that is long enough without.

    Args:
        app: The Celery app.
        missing: The names that kombu does not have, for the log.
    """
    app.steps["consumer"].discard(HEARTBEAT_STEP)
    options = dict(app.conf.broker_transport_options or {})
    short = options.get("visibility_timeout") or DEFAULT_VISIBILITY_TIMEOUT
    options["visibility_timeout"] = max(short, DEFAULT_VISIBILITY_TIMEOUT)
    app.conf.broker_transport_options = options
    logger.warning(
        "kombu %s has no %s: there is no visibility heartbeat, and this worker's visibility "
        "timeout is %g s instead of %g s. Other workers of this broker need as long a timeout, "
        "else they take what this one holds.",
        kombu.__version__,
        ", ".join(missing),
        options["visibility_timeout"],
        short,
    )
