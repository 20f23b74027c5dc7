"""What the app with pools, its tests and the page about the ends of processes agree on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ("KIB", "KINDS", "VARIABLE", "WITHOUT", "summary", "table")

VARIABLE = "POOLED"  # what the app is told by its environment
KINDS = ("SQLAlchemy", "psycopg_pool", "psycopg2", "Django")
KIB = 300_000  # a child that has taken as much is replaced, if the worker was told so

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "pools-at-exit.md"
WITHOUT = "without"  # the column of workers where nothing is registered


def table() -> dict[tuple[str, str], dict[str, str]]:
    """Return the cells of the table: by Celery's pool and the way to end, then by column."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    head, _, *rows = [_cells(line) for line in lines]
    return {(row[0], row[1]): dict(zip(head[2:], row[2:], strict=True)) for row in rows}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def summary(ends: Mapping[str, str]) -> str:
    """Say for all kinds of pools in one cell how they end."""
    usual = ends[KINDS[0]]
    others = [f"{kind} {end}" for kind, end in ends.items() if end != usual]
    return ", ".join([usual, *others])
