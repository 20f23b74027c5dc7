"""Settings that belong together, as a mapping (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from reliable_tasks.errors import ConfigurationError
from reliable_tasks.presets.explaining import explanation
from reliable_tasks.presets.rows import LeftOut, Row

__all__ = ("Preset", "explain")


class Preset(Mapping[str, Any]):
    """
    Settings for Celery that belong together, made by `presets.redis` or `presets.rabbitmq`.

    An immutable mapping of Celery's names: what it hands out are copies. `setup`,
    ``app.config_from_object`` and ``app.conf.update`` take it.

    Args:
        broker: What it is for.
        needs: What it was derived from, in words.
        rows: The settings with their reasons.
        left_out: What a reader may miss, with the reason.
        heartbeat: Whether they rely on the heartbeat that `setup` gives to workers.
    """

    def __init__(
        self,
        broker: str,
        needs: str,
        rows: Sequence[Row],
        left_out: Sequence[LeftOut] = (),
        *,
        heartbeat: bool = False,
    ) -> None:
        self.broker, self.needs, self.rows, self.left_out = (
            broker,
            needs,
            tuple(rows),
            tuple(left_out),
        )
        self.heartbeat = heartbeat
        self._settings = _nested(self.rows)

    def __getitem__(self, name: str) -> Any:
        return deepcopy(self._settings[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __repr__(self) -> str:
        return f"<Preset for {self.broker}: {len(self)} settings>"

    def explain(self) -> str:
        """Return every setting with its value, its reason and what breaks without it, as text."""
        return explanation(f"{self.broker}: {self.needs}", self.rows, self.left_out)


def explain(settings: Preset) -> str:
    """
    Return what ``settings.explain()`` does.

    Raises:
        ConfigurationError: *settings* are no preset, so that nobody knows the reasons.
    """
    if not isinstance(settings, Preset):
        raise ConfigurationError(
            f"explain: expected a preset, got {type(settings).__name__}. A copy of a preset, such "
            "as {**preset}, has no reasons."
        )
    return settings.explain()


def _nested(rows: Sequence[Row]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for row in rows:
        if row.option:
            settings.setdefault(row.setting, {})[row.option] = row.value
        else:
            settings[row.name] = row.value
    return settings
