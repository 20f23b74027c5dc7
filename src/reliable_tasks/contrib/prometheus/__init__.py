"""Metrics for Prometheus: ``pip install 'reliable-tasks[prometheus]'``."""

from __future__ import annotations

from typing import Any

try:
    from prometheus_client import REGISTRY, CollectorRegistry
except ImportError as error:
    raise ImportError(
        "reliable_tasks.contrib.prometheus needs prometheus_client: "
        "pip install 'reliable-tasks[prometheus]'"
    ) from error

from reliable_tasks.contrib.prometheus.endpoint import ATTRIBUTE, Endpoint
from reliable_tasks.contrib.prometheus.metrics import Metrics
from reliable_tasks.errors import ConfigurationError

__all__ = ("instrument",)

STEP = "reliable_tasks.contrib.prometheus.endpoint:EndpointStep"

_metrics: dict[CollectorRegistry, Metrics] = {}


def instrument(
    app: Any,
    *,
    port: int | None = None,
    address: str = "0.0.0.0",  # noqa: S104 - Prometheus comes from elsewhere, as its client expects
    registry: CollectorRegistry = REGISTRY,
) -> None:
    """
    Count what this process does, and have the workers of *app* serve what they count.

    Call it where the app is made, so that workers and publishers both do. Calling it again
    replaces the port and changes nothing else.

    With the prefork pool a worker needs the environment variable ``PROMETHEUS_MULTIPROC_DIR``: an
    empty directory of its own, as prometheus_client's documentation says.

    Args:
        app: The Celery app.
        port: Where the main process of each worker serves ``/metrics``; None: it does not. Other
            processes never do: they are scraped as you scrape them now.
        address: Of the interface that it listens on.
        registry: What this process counts into, unless it shares the directory.

    Raises:
        ConfigurationError: There can be no such port. At the worker's start: it is taken, or the
            pool is prefork and the directory is missing.
    """
    if port is not None and port not in range(1, 65_536):
        raise ConfigurationError(f"port: expected 1 to 65535 or None, got {port!r}")
    if registry not in _metrics:
        _metrics[registry] = Metrics(registry)
        _metrics[registry].connect()
    setattr(app, ATTRIBUTE, Endpoint(port, address, _metrics[registry]))
    app.steps["worker"].add(STEP)
