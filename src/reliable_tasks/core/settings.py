"""The options of a task, checked as a set (pure)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from reliable_tasks.core.defaults import GUARDED
from reliable_tasks.core.durations import to_ms
from reliable_tasks.errors import ConfigurationError

__all__ = ("Options", "check_spelling", "name_of", "named", "read", "with_defaults")

DAY = 86_400.0
DEFAULT_MAX_RUN = DAY
SLIP = 0.85  # how alike two names are, from 0 to 1, of which one is a misspelt other
HARD_LIMIT_MARGIN = 30.0  # seconds that a child killed at its hard limit may take to end

_CHOICES = {
    "when_running": ("defer", "skip"),
    "when_done": ("replay", "skip"),
    "when_failed": ("release", "remember"),
    "when_store_down": ("retry", "run"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """
    What one task's guard goes by. Times in milliseconds.

    Made by `read`; the reference describes each option. *retention_ms* and
    *max_run_ms* are None where the default depends on the delivery.
    """

    idempotency_key: tuple[str, ...] | Callable[..., Any] | None
    same_payload: tuple[str, ...] | None
    lease_ms: int
    max_run_ms: int | None
    retention_ms: int | None
    horizon_ms: int
    when_running: str
    when_done: str
    when_failed: str
    max_crashes: int
    max_result_bytes: int
    when_store_down: str

    def retention_for(self, *, has_key: bool) -> int:
        """Return how long other jobs of the key get the stored outcome."""
        if self.retention_ms is not None:
            return self.retention_ms
        return round(DAY * 1_000) if has_key else self.horizon_ms

    def max_run_for(self, hard_limit: float | None) -> int:
        """Return when renewal of one execution ends, given its hard time limit in seconds."""
        if self.max_run_ms is not None:
            return self.max_run_ms
        if hard_limit:
            return round((hard_limit + HARD_LIMIT_MARGIN) * 1_000)
        return round(DEFAULT_MAX_RUN * 1_000)


def name_of(cls: type) -> str:
    """Return the name of a task's class, as its messages have it, or where the class stands."""
    return str(getattr(cls, "name", None) or f"{cls.__module__}.{cls.__qualname__}")


@contextmanager
def named(cls: type, what: str = "the declaration") -> Iterator[None]:
    """
    Note on a `ConfigurationError` of the block which task it is about.

    Celery declares tasks late, where no line of the user's is in the traceback.
    """
    try:
        yield
    except ConfigurationError as error:
        error.add_note(f"This is about {what} of the task {name_of(cls)}.")
        raise


def read(given: Mapping[str, Any]) -> Options:
    """
    Check option values and convert them.

    Args:
        given: Values by option name, as the user wrote them; a missing one or
            None means the default.

    Raises:
        ConfigurationError: A value, or two together, cannot work.
    """
    values = with_defaults(given, GUARDED)
    for name, allowed in _CHOICES.items():
        if values[name] not in allowed:
            raise ConfigurationError(f"{name}: expected one of {allowed}, got {values[name]!r}")
    options = Options(
        idempotency_key=_key(values["idempotency_key"]),
        same_payload=_names("same_payload", values["same_payload"]),
        lease_ms=to_ms("lease_seconds", values["lease_seconds"], least=0.1),
        max_run_ms=_optional_ms("max_run", values["max_run"], least=1),
        retention_ms=_optional_ms("retention", values["retention"], least=0),
        horizon_ms=to_ms("redelivery_horizon", values["redelivery_horizon"], least=1),
        when_running=values["when_running"],
        when_done=values["when_done"],
        when_failed=values["when_failed"],
        max_crashes=_count("max_crashes", values["max_crashes"], least=1),
        max_result_bytes=_count("max_result_bytes", values["max_result_bytes"], least=0),
        when_store_down=values["when_store_down"],
    )
    _check_together(options)
    return options


def with_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all *defaults*; those that are *given*, and are not None, go first."""
    return {
        name: default if given.get(name) is None else given[name]
        for name, default in defaults.items()
    }


def check_spelling(names: Iterable[str], options: Sequence[str]) -> None:
    """
    Refuse a name that is an option's but for a slip, and so would silently do nothing.

    Args:
        names: What a task class adds to its base.
        options: The names that mean something.

    Raises:
        ConfigurationError: A name is nearly one of *options*, and none.
    """
    for name in sorted(set(names).difference(options)):
        near = difflib.get_close_matches(name, options, n=1, cutoff=SLIP)
        if near:
            raise ConfigurationError(
                f"{name}: expected {near[0]}, got {name}. An attribute of your own needs a name "
                "less like that of an option."
            )


def _check_together(options: Options) -> None:
    if options.horizon_ms < options.lease_ms:
        raise ConfigurationError(
            "redelivery_horizon: expected at least lease_seconds "
            f"({options.lease_ms / 1000:g} s), got {options.horizon_ms / 1000:g} s. A record must "
            "outlive every copy of its message."
        )
    if options.max_run_ms is not None and options.max_run_ms < options.lease_ms:
        raise ConfigurationError(
            f"max_run: expected at least lease_seconds ({options.lease_ms / 1000:g} s), got "
            f"{options.max_run_ms / 1000:g} s. Renewal would end before the first lease does."
        )
    if options.when_failed == "remember" and options.retention_ms == 0:
        raise ConfigurationError(
            "when_failed: expected 'release' with retention=0, got 'remember'. Without retention "
            "no other job is ever told of the failure."
        )


def _key(value: Any) -> tuple[str, ...] | Callable[..., Any] | None:
    return value if callable(value) else _names("idempotency_key", value)


def _names(option: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    is_names = isinstance(value, tuple | list) and all(isinstance(name, str) for name in value)
    if not is_names:
        raise ConfigurationError(
            f"{option}: expected argument names such as ('order_id',)"
            f"{' or a callable' if option == 'idempotency_key' else ''}, got {value!r}"
        )
    return tuple(value)


def _optional_ms(option: str, value: Any, *, least: float) -> int | None:
    return None if value is None else to_ms(option, value, least=least)


def _count(option: str, value: Any, *, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{option}: expected a whole number from {least}, got {value!r}")
    return value
