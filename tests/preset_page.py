"""The tables of docs/reference/presets.md; `python -m tests.preset_page` writes them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from unittest import mock

from reliable_tasks import presets
from reliable_tasks.presets import Preset
from reliable_tasks.presets.rows import Row

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "presets.md"
BEGIN, END = "<!-- begin: tests/preset_page.py -->", "<!-- end: tests/preset_page.py -->"
REDIS, RESULTS = "redis://localhost:6379/0", "redis://localhost:6379/1"
ARGUMENTS_HEAD = ("| argument | takes | default | what it is |", "| --- | --- | --- | --- |")
KINDS = {
    timedelta: "seconds, or a `timedelta`",
    bool: "`True`, `False`",
    int: "a whole number",
    PathLike: "a path",
    Sequence: "text, or a list",
    str: "text",
}
HEAD = ("| setting | value | why | without it | source |", "| --- | --- | --- | --- | --- |")


def tables() -> str:
    """Return all tables, with every setting that any Celery knows."""
    with mock.patch("reliable_tasks.presets.common.is_known", return_value=True):
        redis = presets.redis(REDIS, results=RESULTS).rows
        rabbitmq = presets.rabbitmq("amqp://localhost//", results=RESULTS).rows
        beaten = presets.redis(REDIS, results=RESULTS, heartbeat=True).rows
        threads = presets.redis(REDIS, results=RESULTS, workload="io").rows
        bare = presets.redis(REDIS).rows
    both = [row for row in redis if row in rabbitmq]
    return "\n".join(
        [
            *_arguments("What `presets.redis` is told", presets.redis),
            *_arguments("What `presets.rabbitmq` is told", presets.rabbitmq),
            *_section("On every broker", both),
            *_section("Redis", [row for row in redis if row not in both]),
            *_section("RabbitMQ", [row for row in rabbitmq if row not in both]),
            *_section("With `heartbeat=True`", [row for row in beaten if row not in redis]),
            *_section('With `workload="io"`', [row for row in threads if row not in redis]),
            *_section("Without `results`", [row for row in bare if row not in redis]),
        ]
    )


def page(text: str) -> str:
    """Return *text* with the tables between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def _arguments(title: str, make: Callable[..., Preset]) -> Iterator[str]:
    """Yield a table of what a preset takes, from its signature and its docstring."""
    yield from ("", f"## {title}", "", *ARGUMENTS_HEAD)
    described, hints = _described(inspect.getdoc(make) or ""), get_type_hints(make)
    for name, parameter in inspect.signature(make).parameters.items():
        is_needed = parameter.default is parameter.empty
        default = "" if is_needed else f"`{parameter.default!r}`"
        yield f"| `{name}` | {_allowed(hints[name])} | {default} | {described[name]} |"


def _described(text: str) -> dict[str, str]:
    section = text.partition("Args:\n")[2].partition("\nReturns:")[0]
    parts = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)[1:]
    words = (" ".join(part.split()).replace("``", "`") for part in parts[1::2])
    return dict(zip(parts[::2], words, strict=True))


def _allowed(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value!r}`" for value in get_args(hint))
    kinds = {get_origin(each) or each for each in get_args(hint) or (hint,)}
    return next(word for kind, word in KINDS.items() if kind in kinds)


def _section(title: str, rows: Iterable[Row]) -> Iterator[str]:
    yield from ("", f"## {title}")
    for topic, of_topic in groupby(rows, key=lambda row: row.topic):
        yield from ("", f"**{topic}**", "", *HEAD)
        for row in of_topic:
            cells = (_name(row), _value(row), row.reason, row.without, row.source)
            yield f"| {' | '.join(cells)} |"


def _name(row: Row) -> str:
    return f"`{row.setting}`, `{row.option}`" if row.option else f"`{row.name}`"


def _value(row: Row) -> str:
    return f"`{row.shown}`"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
