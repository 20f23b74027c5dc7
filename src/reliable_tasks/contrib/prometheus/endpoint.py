"""Where Prometheus finds a worker: an HTTP server of its main process."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import bootsteps, signals
from celery.concurrency.prefork import TaskPool as PreforkPool
from prometheus_client import CollectorRegistry, start_http_server, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from _reliable_tasks.pids import is_taken
from reliable_tasks.contrib.prometheus.asking import AskingCollector
from reliable_tasks.contrib.prometheus.metrics import Metrics
from reliable_tasks.errors import ConfigurationError

__all__ = ("ATTRIBUTE", "DIRECTORY", "Endpoint", "EndpointStep", "registry_of")

logger = logging.getLogger("reliable_tasks")

ATTRIBUTE = "reliable_tasks_metrics"
"""Attribute of an app: its `Endpoint`."""

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    Where an app's workers are scraped.

    Attributes:
        port: None: nowhere.
        address: Of the interface.
        metrics: What a process of it counts.
    """

    port: int | None
    address: str
    metrics: Metrics


class EndpointStep(bootsteps.StartStopStep):
    """Serves the metrics of a whole worker, its children's included."""

    requires = ("celery.worker.components:Pool",)  # the first children do not inherit the socket

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._endpoint: Endpoint = getattr(parent.app, ATTRIBUTE)
        self._has_children = issubclass(parent.pool_cls, PreforkPool)
        fault = fault_of(os.environ.get(DIRECTORY), is_needed=self._has_children)
        if fault and (self._endpoint.port is not None or DIRECTORY in os.environ):
            raise ConfigurationError(fault)
        if fault:
            logger.warning(fault)
        forget_dead_processes()  # a container's next life has the same process ids
        self._endpoint.metrics.begin(parent.app.tasks.values())

    def start(self, parent: Any) -> None:
        """
        Begin to serve, if there is a port.

        Raises:
            ConfigurationError: The port is taken.
        """
        port, address = self._endpoint.port, self._endpoint.address
        if port is None:
            return
        own = None if self._has_children else self._endpoint.metrics.registry
        registry = registry_of(parent.app, own)
        try:
            self._server, _ = start_http_server(port, address, registry)
        except OSError as error:
            raise ConfigurationError(
                f"port: expected one that is free at {address}, got {port}: {error}. Each worker "
                "of a machine needs its own."
            ) from error
        signals.worker_shutdown.connect(self._close, weak=False, dispatch_uid=ATTRIBUTE)
        logger.info("metrics at http://%s:%d/metrics", address, self._server.server_port)

    def _close(self, **_: Any) -> None:
        """Close the port when the last task has ended; steps are stopped before it has."""
        signals.worker_shutdown.disconnect(dispatch_uid=ATTRIBUTE)
        self._server.shutdown()
        self._server.server_close()


def fault_of(path: str | None, *, is_needed: bool) -> str:
    """
    Return what is wrong with the directory through which the processes of a worker count together.

    Args:
        path: As the environment names it.
        is_needed: Whether the worker has children that count.
    """
    if path is None and not is_needed:
        return ""
    if not path or not Path(path).is_dir():
        found = "it is not set" if path is None else f"got {path!r}, which is none"
        return (
            f"{DIRECTORY}: expected a directory of this worker's own with the prefork pool, but "
            f"{found}. Without it each child counts for itself, and nobody can ask it. Set it, "
            "and empty it before the worker starts."
        )
    if is_needed and not getattr(values.ValueClass, "_multiprocess", True):
        return (
            f"{DIRECTORY}: expected it in the environment before prometheus_client is imported, "
            "but it was set later, and is without effect. Set it where the worker is started."
        )
    return ""


class WorkerCollector(Collector):
    """What all processes of a worker have counted, those that live and those that died."""

    def __init__(self) -> None:
        self._all = MultiProcessCollector(None)

    def collect(self) -> Any:
        """Leave out what dead processes say of *now*, then add up."""
        forget_dead_processes()
        return self._all.collect()


def forget_dead_processes() -> None:
    """Take off what processes that are gone say of their present; what they counted stays."""
    path = os.environ.get(DIRECTORY)
    for pid in dead_processes(Path(path)) if path else ():
        with suppress(FileNotFoundError):  # another scrape was faster
            mark_process_dead(pid, path)


def dead_processes(path: Path) -> set[int]:
    """Return processes that are gone, however they died, and have left gauges of the living."""
    names = {file.stem.rpartition("_")[2] for file in path.glob("gauge_live*_*.db")}
    return {int(name) for name in names if name.isdecimal() and not is_taken(int(name))}


def registry_of(app: Any, own: CollectorRegistry | None) -> CollectorRegistry:
    """
    Return what a scrape of a worker collects.

    Args:
        app: The Celery app.
        own: What the worker's only process counts into; None if its children count.
    """
    registry = CollectorRegistry()
    if own is None:
        registry.register(WorkerCollector())
    else:
        registry.register(own)
    registry.register(AskingCollector(app))
    return registry
