"""One setting with its reason (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reliable_tasks.presets.addresses import masked

__all__ = (
    "BROKER",
    "MESSAGES",
    "QUEUES",
    "RECORDS",
    "RESULTS",
    "SHUTDOWN",
    "TIME",
    "TOPICS",
    "WORKERS",
    "LeftOut",
    "Row",
    "sifted",
)

TOPICS = (BROKER, QUEUES, MESSAGES, TIME, WORKERS, SHUTDOWN, RESULTS, RECORDS) = (
    "Broker",
    "Queues",
    "Messages",
    "Time",
    "Workers",
    "Shutdown",
    "Results",
    "Records",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """
    One setting of a preset.

    Args:
        name: Celery's or ours; behind a dot one option of a setting that is a mapping.
        value: What it is set to.
        reason: Why this value.
        without: What breaks without it.
        source: Where that is written, or what the value was derived from.
        topic: Heading in the file and on the page.
        holds: A promise rests on it, which an app's own value keeps if it is ``"equal"`` to this
            one, ``"at most"`` or ``"at least"`` it (of a mapping: each item), names ``"no more"``
            or ``"no less"`` than it; empty: any value will do.
        is_address: It may hold a password.
    """

    name: str
    value: Any = field(repr=False)
    reason: str
    without: str
    source: str
    topic: str
    holds: str = ""
    is_address: bool = False

    @property
    def setting(self) -> str:
        """The setting that it belongs to."""
        return self.name.partition(".")[0]

    @property
    def option(self) -> str:
        """The option inside of the setting; empty if it is the whole setting."""
        return self.name.partition(".")[2]

    @property
    def shown(self) -> str:
        """The value as text, without a password."""
        return repr(masked(self.value) if self.is_address else self.value)

    def value_in(self, settings: Mapping[str, Any]) -> Any:
        """Return what *settings* say instead; None if nothing."""
        value = settings.get(self.setting)
        if self.option:
            return value.get(self.option) if isinstance(value, Mapping) else None
        return value

    def is_kept_by(self, value: Any) -> bool:
        """Whether the promise that rests on this setting, if there is one, outlives *value*."""
        return not self.holds or KEEPS[self.holds](value, self.value)


def _is_equal(value: Any, ours: Any) -> bool:
    return bool((bool(value) if isinstance(ours, bool) else value) == ours)


def _is_at_most(value: Any, ours: Any) -> bool:
    """Whether no number of *value* exceeds *ours*; None is without a limit, or a default."""
    if isinstance(ours, Mapping):
        limits = {name: limit for name, limit in ours.items() if limit is not None}
        return isinstance(value, Mapping) and all(
            _is_at_most(value.get(name), limit) for name, limit in limits.items()
        )
    return isinstance(value, int | float) and value <= ours


def _is_at_least(value: Any, ours: Any) -> bool:
    return isinstance(value, int | float) and bool(value >= ours)


def _names_no_more(value: Any, ours: Any) -> bool:
    if not isinstance(value, Iterable) or isinstance(value, str):
        return False
    return {str(each).removeprefix("application/") for each in value} <= set(ours)


def _names_no_less(value: Any, ours: Any) -> bool:
    return isinstance(value, Mapping) and {**value, **ours} == {**value}


KEEPS: dict[str, Callable[[Any, Any], bool]] = {
    "equal": _is_equal,
    "at most": _is_at_most,
    "at least": _is_at_least,
    "no more": _names_no_more,
    "no less": _names_no_less,
}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A setting that a preset does not make, and why."""

    name: str
    reason: str


def sifted(
    rows: Sequence[Row], is_known: Callable[[str], bool], unknown: str
) -> tuple[list[Row], list[LeftOut]]:
    """
    Part *rows* into those whose names are known and those that are left out.

    Args:
        rows: All rows.
        is_known: Whether the installed Celery knows a name.
        unknown: What knows no such name, for the reason.
    """
    kept = [row for row in rows if is_known(row.name)]
    missing = [row for row in rows if not is_known(row.name)]
    return kept, [
        LeftOut(row.name, f"{unknown} does not know it. {row.without}") for row in missing
    ]
