"""The guides, and what their tables say."""

from __future__ import annotations

from pathlib import Path

__all__ = ("GUIDES", "table")

DOCS = Path(__file__).resolve().parents[2] / "docs" / "how-to"
GUIDES = (DOCS / "migrate-from-celery-once.md", DOCS / "migrate-from-celery-singleton.md")


def table(guide: Path) -> dict[str, dict[str, str]]:
    """Return the cells of the table of behaviours: by situation, then by the column's head."""
    rows = [_cells(line) for line in guide.read_text().splitlines() if line.startswith("| ")]
    start = next(number for number, row in enumerate(rows) if row[0] == "situation")
    head = rows[start]
    ours = [row for row in rows[start + 1 :] if len(row) == len(head)]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in ours if row[0] != "---"}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
