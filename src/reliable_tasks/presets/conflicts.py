"""Which promises of a preset what an app says itself does not survive, each in a line (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from reliable_tasks.presets.addresses import masked
from reliable_tasks.presets.preset import Preset
from reliable_tasks.presets.rows import Row

__all__ = ("command_line_conflicts", "conflicts", "pool_conflicts", "task_conflicts")

WIDTH = 100  # letters of a value; what an app says of its queues can be long
CELERYS_OWN = "celery."
ADDRESSES = {
    "broker_url": ("broker_read_url", "broker_write_url"),
    "result_backend": ("result_backend",),
}
"""What Celery uses in the place of a setting: attributes, which heed CELERY_BROKER_URL and such."""

LIMITS = {"time_limit": "task_time_limit", "soft_time_limit": "task_soft_time_limit"}


def conflicts(preset: Mapping[str, Any], conf: Mapping[str, Any]) -> Iterator[str]:
    """
    Yield a line for each setting of an app that a promise of *preset* does not survive.

    Args:
        preset: What `setup` was given; a mapping that is no preset promises nothing.
        conf: The app's settings.
    """
    if not isinstance(preset, Preset):
        return
    yield from _unstored(preset, conf)
    yield from _elsewhere(preset, conf)
    broken = [row for row in preset.rows if not row.is_kept_by(row.value_in(conf))]
    lost = [row for row in broken if row.option and row.value_in(conf) is None]
    yield from _replaced(lost)
    for row in broken:
        if row not in lost:
            yield f"the app's own settings say {_said(row, row.value_in(conf))}"


def command_line_conflicts(preset: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """
    Yield a line for each option of a worker's command line that a promise does not survive.

    Args:
        preset: What `setup` was given.
        given: What the command line says, by the settings' names.
    """
    for row in getattr(preset, "rows", ()):
        if row.name in given and not row.is_kept_by(given[row.name]):
            yield f"the worker's command line says {_said(row, given[row.name])}"


def pool_conflicts(preset: Mapping[str, Any], pool: str) -> Iterator[str]:
    """
    Yield a line if no limit of *preset* ends a task in a worker's pool.

    Args:
        preset: What `setup` was given.
        pool: Its module's name, such as ``"celery.concurrency.solo"``.
    """
    kind = pool.rpartition(".")[2].replace("thread", "threads")
    if isinstance(preset, Preset) and "task_time_limit" in preset and kind != "prefork":
        yield (
            f"the worker's pool is {kind}, the preset was made for processes (workload='cpu'): "
            f"its limit, task_time_limit = {preset['task_time_limit']}, ends no task that hangs or "
            "computes there. Use workload='io', or the pool prefork."
        )


def task_conflicts(preset: Mapping[str, Any], tasks: Iterable[Any]) -> Iterator[str]:
    """
    Yield a line for each task whose own options a promise of *preset* does not survive.

    Args:
        preset: What `setup` was given.
        tasks: The tasks of an app.
    """
    if not isinstance(preset, Preset):
        return
    for task in tasks:
        if not task.name.startswith(CELERYS_OWN):
            yield from _of_task(preset, task)


def _of_task(preset: Preset, task: Any) -> Iterator[str]:
    conf = task.app.conf
    for limit, setting in LIMITS.items():
        ours, own = preset.get(setting), getattr(task, limit)
        is_own = isinstance(own, int | float) and own != conf[setting]
        if is_own and ours is not None and own > ours:
            yield (
                f"{task.name} has {limit}={own:g}, the preset says {ours:g}: neither the broker's "
                "time-outs nor the records are made for a task that long. Say so in longest_task, "
                "or take the option away."
            )
    hard, soft = task.time_limit, task.soft_time_limit or conf.task_soft_time_limit
    if isinstance(hard, int | float) and isinstance(soft, int | float) and hard < soft:
        yield (
            f"{task.name} has time_limit={hard:g} below its soft limit, {soft:g}: Celery refuses "
            "its publishes, and where it does not, the hard limit counts from the soft one on. "
            "Give it a soft_time_limit as well."
        )
    if conf.task_acks_late and not task.acks_late:
        yield (
            f"{task.name} has acks_late=False: a worker that dies takes its jobs with it. Take the "
            "option away."
        )


def _said(row: Row, value: Any) -> str:
    return (
        f"{row.name} = {_brief(value)}, the preset says {_brief(row.value)}. {row.reason} "
        f"Without it: {row.without}"
    )


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        value = {name: "***" if "password" in str(name) else each for name, each in value.items()}
    shown = repr(value)
    return shown if len(shown) <= WIDTH else f"{shown[:WIDTH]}..."


def _unstored(preset: Preset, conf: Any) -> Iterator[str]:
    backend = getattr(conf, "result_backend", None)
    if backend and preset.get("task_ignore_result") and conf.get("task_ignore_result"):
        yield (
            f"the app has the result backend {masked(backend)!r}, but its preset was made without "
            "results, so none are stored: give the preset results=..., or set task_ignore_result "
            "yourself."
        )


def _elsewhere(preset: Preset, conf: Any) -> Iterator[str]:
    """Yield a line for each address that Celery uses instead of one of the preset's."""
    for setting, names in ADDRESSES.items():
        for name in names if setting in preset else ():
            used = _text(getattr(conf, name, None) or preset[setting])
            if used != preset[setting]:
                yield (
                    f"the app's own settings, or the environment, say {name} = {masked(used)!r}, "
                    f"the preset was made for {masked(preset[setting])!r}, and has checked that. "
                    "Make it with the address that is used."
                )


def _replaced(lost: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each mapping of the app that has taken the place of the preset's."""
    for setting, rows in groupby(lost, key=lambda row: row.setting):
        first, *others = rows
        names = ", ".join(row.option for row in (first, *others))
        yield (
            f"the app's own {setting} have no {names}. Celery takes a mapping as a whole: begin "
            f"yours with {{**preset[{setting!r}], ...}}. {first.option}: {first.reason} Without "
            f"it: {first.without}"
        )


def _text(address: Any) -> str:
    return address if isinstance(address, str) else ";".join(map(str, address))
