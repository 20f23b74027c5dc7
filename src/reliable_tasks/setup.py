"""Settings, worker steps and handlers onto an app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reliable_tasks.broker import HEARTBEAT_STEP
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.flight import begin
from reliable_tasks.liveness import REPORTING_STEP, WATCHING_STEP
from reliable_tasks.task import WORKER_STEP

__all__ = ("SETTINGS", "setup")

SETTINGS = "reliable_tasks_settings"
"""Attribute of an app: what `setup` was given, beneath what the app itself says."""

QUEUE_STEP = "reliable_tasks.presets.steps:QueueStep"
SETTINGS_STEP = "reliable_tasks.presets.steps:SettingsStep"


def setup(app: Any, settings: Mapping[str, Any] | None = None, *, heartbeat: bool = True) -> None:
    """
    Apply *settings* and what the worker needs to *app*; calling it twice changes nothing.

    It may come before or after tasks are declared and the app is configured.

    Args:
        app: The Celery app.
        settings: A preset, or any Celery settings and ``reliable_tasks_<option>`` settings. What
            the app says itself wins, wherever it says it: ``Celery(broker=...)``, ``app.conf``
            and ``config_from_object``, before or after this call. A worker warns at its start of
            each such setting that a promise of the preset rests on.
        heartbeat: Whether workers keep what they hold from being delivered again, however short
            the visibility timeout of a Redis broker; without effect with another broker.

    Raises:
        ConfigurationError: The preset relies on the heartbeat, which was turned off.
    """
    if not heartbeat and getattr(settings, "heartbeat", False):
        raise ConfigurationError(
            "heartbeat: expected True in setup with a preset that was made with heartbeat=True, "
            "got False. Its visibility timeout is too short without one."
        )
    _apply(app, settings)
    app.steps["worker"].update((WORKER_STEP, SETTINGS_STEP, QUEUE_STEP, REPORTING_STEP))
    app.steps["consumer"].add(WATCHING_STEP)
    if heartbeat:
        app.steps["consumer"].add(HEARTBEAT_STEP)


def _apply(app: Any, settings: Mapping[str, Any] | None) -> None:
    """Put *settings* between the app's own and Celery's defaults; later ones replace earlier."""
    applied = getattr(app, SETTINGS, None)
    if applied is None:
        applied = Applied()
        setattr(app, SETTINGS, applied)
        app.on_after_configure.connect(_add, weak=False, dispatch_uid=SETTINGS)
        if app.configured:
            _add(app)
    if settings is not None:
        applied.update(settings)
        applied.sources.append(settings)
    if app.configured:
        begin(app)


class Applied(dict[str, Any]):
    """The settings of an app's calls of `setup`, and the mappings that they came from."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[Mapping[str, Any]] = []


def _add(sender: Any, **_: Any) -> None:
    """
    Look into what `setup` was given before Celery's defaults; record flights if it says so.

    `Celery.add_defaults` would put it before what `config_from_object` reads.
    """
    conf, applied = sender.conf, getattr(sender, SETTINGS)
    if not any(layer is applied for layer in conf.maps):
        conf.maps.insert(-1, applied)
        conf.defaults.insert(-1, applied)
    begin(sender)
