"""A preset as a file to copy (pure)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from reliable_tasks.presets.addresses import masked
from reliable_tasks.presets.preset import Preset
from reliable_tasks.presets.rows import Row

__all__ = ("as_file",)

WIDTH = 96
INDENT = " " * 4
VARIABLES = {
    "broker_url": "CELERY_BROKER_URL",
    "result_backend": "CELERY_RESULT_BACKEND",
    "reliable_tasks_store_url": "RELIABLE_TASKS_STORE_URL",
}


def as_file(preset: Preset) -> str:
    """
    Return *preset* as a Python module for ``app.config_from_object``.

    The module says what the preset says, with the reasons as comments. An address with a
    password is not written: the module reads it from the environment.
    """
    secret = [row for row in preset.rows if _is_secret(row)]
    lines = [
        f'"""Celery settings for {preset.broker}: {preset.needs}."""',
        *(["", "import os"] if secret else []),
        *_settings(preset),
        *_left_out(preset),
    ]
    return "\n".join(lines) + "\n"


def _is_secret(row: Row) -> bool:
    return row.is_address and masked(row.value) != row.value


def _settings(preset: Preset) -> Iterator[str]:
    for topic, rows in groupby(preset.rows, key=lambda row: row.topic):
        yield from ("", f"# {topic}", f"# {'-' * len(topic)}")
        for setting, parts in groupby(rows, key=lambda row: row.setting):
            yield ""
            yield from _setting(setting, list(parts))


def _setting(name: str, rows: list[Row]) -> Iterator[str]:
    if not rows[0].option:
        yield from _comment(rows[0], "")
        yield f"{name} = {_value(rows[0], '')}"
        return
    yield f"{name} = {{"
    for row in rows:
        yield from _comment(row, INDENT)
        yield f"{INDENT}{_literal(row.option, '')}: {_value(row, INDENT)},"
    yield "}"


def _comment(row: Row, indent: str) -> Iterator[str]:
    for text in (row.reason, f"Without it: {row.without}"):
        yield from _wrapped(text, indent)


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   "
    )


def _value(row: Row, indent: str) -> str:
    if _is_secret(row):
        return f'os.environ["{VARIABLES[row.setting]}"]'
    return _literal(row.value, indent)


def _literal(value: Any, indent: str) -> str:
    """Write a value as a formatter would: text in double quotes, a mapping over several lines."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        inner = indent + INDENT
        items = [
            f"{inner}{_literal(key, inner)}: {_literal(each, inner)},"
            for key, each in value.items()
        ]
        return "\n".join(["{", *items, f"{indent}}}"])
    if isinstance(value, list):
        return f"[{', '.join(_literal(each, indent) for each in value)}]"
    return repr(value)


def _quoted(text: str) -> str:
    written = repr(text)
    return written if '"' in written else f'"{written[1:-1]}"'


def _left_out(preset: Preset) -> Iterator[str]:
    if preset.left_out:
        yield from ("", "# Left out", "# --------")
    for setting in preset.left_out:
        yield "#"
        yield from _wrapped(f"{setting.name}: {setting.reason}")
