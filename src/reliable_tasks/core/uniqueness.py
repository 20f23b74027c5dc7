"""The options of a unique task, checked as a set (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reliable_tasks.core import settings
from reliable_tasks.core.defaults import UNIQUE
from reliable_tasks.core.durations import to_ms
from reliable_tasks.core.settings import Options
from reliable_tasks.errors import ConfigurationError

__all__ = ("Uniqueness", "in_force", "read")

_MODES = ("unique_for", "keep_last", "debounce", "throttle", "periodic")
_ON_DUPLICATE = ("return", "raise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniqueness:
    """
    What publishing a unique task goes by. Times in milliseconds; 0: the mode is off.

    Made by `read`; the reference describes each option.
    """

    unique_for_ms: int
    on_duplicate: str
    grace_ms: int
    reserved_for_ms: int
    keep_last: bool
    debounce_ms: int
    limit_ms: int
    throttle_ms: int
    periodic: bool

    @property
    def latest_wins(self) -> bool:
        """Whether a call goes before an earlier one that waits, or beside one that runs."""
        return self.keep_last or self.debounce_ms > 0


def read(given: Mapping[str, Any]) -> tuple[Uniqueness, Options]:
    """
    Check the options of a unique task and of its guard, and convert them.

    Args:
        given: Values by option name, as the user wrote them; a missing one or
            None means the default.

    Raises:
        ConfigurationError: A value, or two together, cannot work.
    """
    values = settings.with_defaults(given, UNIQUE)
    if values["on_duplicate"] not in _ON_DUPLICATE:
        raise ConfigurationError(
            f"on_duplicate: expected one of {_ON_DUPLICATE}, got {values['on_duplicate']!r}"
        )
    for name in ("keep_last", "periodic"):
        if not isinstance(values[name], bool):
            raise ConfigurationError(f"{name}: expected True or False, got {values[name]!r}")
    uniqueness = Uniqueness(
        unique_for_ms=to_ms("unique_for", values["unique_for"], least=0),
        on_duplicate=values["on_duplicate"],
        grace_ms=to_ms("publish_grace", values["publish_grace"], least=0.1),
        reserved_for_ms=to_ms("reserved_for", values["reserved_for"], least=1),
        keep_last=values["keep_last"],
        debounce_ms=to_ms("debounce", values["debounce"], least=0),
        limit_ms=to_ms("debounce_limit", values["debounce_limit"], least=0),
        throttle_ms=to_ms("throttle", values["throttle"], least=0),
        periodic=values["periodic"],
    )
    _check_modes(values)
    _check_debounce(uniqueness)
    for name, refusal in _misfits(given).items():
        raise ConfigurationError(f"{name}: {refusal}")
    return uniqueness, settings.read({**given, "retention": uniqueness.unique_for_ms / 1_000})


def in_force(declared: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the options that are declared, and those of the app's settings that suit them.

    Settings are for all tasks of the app. Those of another mode than the declared one, and those
    that would be refused beside it, are for others.

    Args:
        declared: Values by option name; None: not declared.
        settings: The same, of the app.
    """
    own = {name: value for name, value in declared.items() if value is not None}
    others = {*_MODES} if any(own.get(mode) for mode in _MODES) else set()
    given = {name: value for name, value in settings.items() if name not in others} | own
    unfit = _misfits(given).keys() - own
    return {name: value for name, value in given.items() if name not in unfit}


def _check_modes(values: Mapping[str, Any]) -> None:
    chosen = [name for name in _MODES if values[name]]
    if len(chosen) > 1:
        raise ConfigurationError(
            f"{chosen[1]}: expected at most one of {', '.join(_MODES)}, "
            f"got {' and '.join(chosen)}. Each says differently what becomes of a call that "
            "comes after another: declare two tasks if you need both."
        )


def _check_debounce(uniqueness: Uniqueness) -> None:
    if 0 < uniqueness.limit_ms < uniqueness.debounce_ms:
        raise ConfigurationError(
            f"debounce_limit: expected at least debounce ({uniqueness.debounce_ms / 1_000:g} s), "
            f"got {uniqueness.limit_ms / 1_000:g} s. Every run would come at the limit."
        )


def _misfits(given: Mapping[str, Any]) -> dict[str, str]:
    """Return options that would undo others, or that others make void, with what to say of each."""
    said = _misfits_of_latest(given) if given.get("keep_last") or given.get("debounce") else {}
    if given.get("retention") is not None:
        said["retention"] = (
            f"expected nothing on a UniqueTask, got {given['retention']!r}. How long an "
            "equal call stays a duplicate after success is unique_for."
        )
    if given.get("debounce_limit") and not given.get("debounce"):
        limit_ms = to_ms("debounce_limit", given["debounce_limit"], least=0)
        said["debounce_limit"] = (
            f"expected debounce beside it, got {limit_ms / 1_000:g} s alone. It bounds how long "
            "calls can put off a run that debounce delays."
        )
    if given.get("when_failed") == "remember" and not given.get("unique_for"):
        said["when_failed"] = (
            "expected 'release' without unique_for, got 'remember'. Unless an ended "
            "job is kept for some time, no other is ever told of the failure."
        )
    return said


def _misfits_of_latest(given: Mapping[str, Any]) -> dict[str, str]:
    mode = "keep_last" if given.get("keep_last") else "debounce"
    said = {}
    if given.get("same_payload") is not None:
        said["same_payload"] = (
            f"expected nothing with {mode}, got {given['same_payload']!r}. The call "
            "with the latest arguments is to run, so those of one key may differ."
        )
    if given.get("when_running") == "skip":
        said["when_running"] = (
            f"expected 'defer' with {mode}, got 'skip'. The call that came while "
            "another ran is to run after it, and would be dropped."
        )
    return said
