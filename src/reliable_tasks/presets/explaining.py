"""A preset in words (pure)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from reliable_tasks.presets.rows import LeftOut, Row

__all__ = ("explanation",)

WIDTH = 96


def explanation(title: str, rows: Sequence[Row], left_out: Sequence[LeftOut]) -> str:
    """Return every setting with its value, reason, what breaks without it and source."""
    return "\n".join([f"Settings for {title}", *_settings(rows), *_missing(left_out), ""])


def _settings(rows: Sequence[Row]) -> Iterator[str]:
    topic = ""
    for row in rows:
        if row.topic != topic:
            topic = row.topic
            yield from ("", topic, "=" * len(topic))
        yield from ("", f"{row.name} = {row.shown}")
        yield from _paragraph("Why", row.reason)
        yield from _paragraph("Without it", row.without)
        yield from _paragraph("Source", row.source)


def _missing(left_out: Sequence[LeftOut]) -> Iterator[str]:
    if left_out:
        yield from ("", "Left out", "========")
    for setting in left_out:
        yield ""
        yield setting.name
        yield from _paragraph("Why", setting.reason)


def _paragraph(word: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{word}: {text}", WIDTH, initial_indent="    ", subsequent_indent="      "
    )
