"""The tables of docs/reference/presets.md; `python -m tests.preset_page` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from unittest import mock

from reliable_tasks import presets
from reliable_tasks.presets.rows import Row

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "presets.md"
BEGIN, END = "<!-- begin: tests/preset_page.py -->", "<!-- end: tests/preset_page.py -->"
REDIS, RESULTS = "redis://localhost:6379/0", "redis://localhost:6379/1"
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
