"""Settings, worker steps and handlers onto an app."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reliable_tasks.broker import ACKS_STEP, HEARTBEAT_STEP
from reliable_tasks.broker.certificates import named_by_address
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.flight import begin
from reliable_tasks.liveness import REPORTING_STEP, WATCHING_STEP
from reliable_tasks.task import WORKER_STEP

__all__ = ("SETTINGS", "setup")

SETTINGS = "reliable_tasks_settings"
"""Attribute of an app: what `setup` was given, beneath what the app itself says."""

QUEUE_STEP = "reliable_tasks.presets.steps:QueueStep"
REFUSAL_STEP = "reliable_tasks.deadletter.refused:RefusalStep"
SETTINGS_STEP = "reliable_tasks.presets.steps:SettingsStep"
UNCONFIRMED_STEP = "reliable_tasks.unconfirmed:UnconfirmedStep"


def setup(app: Any, settings: Mapping[str, Any] | None = None, *, heartbeat: bool = True) -> None:
    """
    Apply *settings* and what the worker needs to *app*; calling it twice changes nothing.

    It may come before or after tasks are declared and the app is configured. Of two calls with
    different arguments the later one is heard: a preset takes the place of an earlier one, other
    settings are added.

    Args:
        app: The Celery app.
        settings: A preset, or any Celery settings and ``reliable_tasks_<option>`` settings. What
            the app says itself wins, wherever it says it: ``Celery(broker=...)``, ``app.conf``
            and ``config_from_object``, before or after this call. A worker warns at its start of
            each such setting that a promise of the preset rests on.
        heartbeat: Whether workers keep what they hold from being delivered again, however short
            the visibility timeout of a Redis broker; without effect with another broker.

    Raises:
        ConfigurationError: *settings* are no mapping, *heartbeat* is neither True nor False, or a
            preset relies on the heartbeat, which was turned off.
    """
    if settings is not None and not isinstance(settings, Mapping):
        raise ConfigurationError(
            f"settings: expected a preset or a mapping of settings, got {type(settings).__name__}. "
            "presets.redis and presets.rabbitmq make a preset of an address."
        )
    if not isinstance(heartbeat, bool):
        raise ConfigurationError(
            f"heartbeat: expected True or False, got {heartbeat!r}. How often it beats follows "
            "from the visibility timeout."
        )
    applied = _applied_to(app)
    sources = applied.sources if settings is None else applied.sources_with(settings)
    if not heartbeat and any(getattr(each, "heartbeat", False) for each in sources):
        raise ConfigurationError(
            "heartbeat: expected True in setup with a preset that was made with heartbeat=True, "
            "got False. Its visibility timeout is too short without one."
        )
    applied.take(sources)
    if app.configured:
        _add(app)
    app.steps["worker"].update((WORKER_STEP, SETTINGS_STEP, QUEUE_STEP, REPORTING_STEP))
    app.steps["consumer"].update((WATCHING_STEP, REFUSAL_STEP, ACKS_STEP, UNCONFIRMED_STEP))
    change = app.steps["consumer"].add if heartbeat else app.steps["consumer"].discard
    change(HEARTBEAT_STEP)


class Applied(dict[str, Any]):
    """The settings of an app's calls of `setup`, and the mappings that they came from."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[Mapping[str, Any]] = []

    def sources_with(self, settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the sources with *settings*, without those that they take the place of."""
        kept = [
            each
            for each in self.sources
            if each != settings and not (_is_preset(each) and _is_preset(settings))
        ]
        return [*kept, settings if _is_preset(settings) else dict(settings)]

    def take(self, sources: list[Mapping[str, Any]]) -> None:
        """Say what *sources* say, the later ones first."""
        self.sources = sources
        self.clear()
        for each in sources:
            self.update(each)


def _is_preset(settings: Mapping[str, Any]) -> bool:
    return hasattr(settings, "explain")  # the class is imported only where one is made


def _applied_to(app: Any) -> Applied:
    """Return what *app* was given so far, which stands between its own and Celery's defaults."""
    applied: Applied | None = getattr(app, SETTINGS, None)
    if applied is None:
        applied = Applied()
        setattr(app, SETTINGS, applied)
        app.on_after_configure.connect(_add, weak=False, dispatch_uid=SETTINGS)
    return applied


def _add(sender: Any, **_: Any) -> None:
    """
    Look into what `setup` was given before Celery's defaults, and begin what it asks for.

    `Celery.add_defaults` would put it before what `config_from_object` reads.
    """
    conf, applied = sender.conf, getattr(sender, SETTINGS)
    if not any(layer is applied for layer in conf.maps):
        conf.maps.insert(-1, applied)
        conf.defaults.insert(-1, applied)
    named_by_address(conf)
    begin(sender)
