"""What the commands share: the app they speak of, and where their answers go."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from reliable_tasks.errors import ReliableTasksError

__all__ = (
    "app_of",
    "console",
    "json_option",
    "named_errors",
    "page_of",
    "plain_table",
    "print_json",
    "print_whole",
)

WIDTH_WITHOUT_TERMINAL = 120  # columns
WIDEST = 10_000

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


def app_of(context: click.Context) -> Any:
    """Return the Celery app of ``celery -A``."""
    return context.obj.app


def console() -> Console:
    """
    Return a console on the standard output, wide enough for a table if that is no terminal.

    What it prints is no markup unless it is told: a task id may be ``import[/feed]`` or ``:bug:``.
    """
    is_narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = None if is_narrow else WIDTH_WITHOUT_TERMINAL
    return Console(width=width, highlight=False, markup=False, emoji=False)


def plain_table() -> Table:
    """Return an empty table with one line for each of many things."""
    return Table(box=None, padding=(0, 2, 0, 0), header_style="bold")


def page_of(facts: Iterable[tuple[str, str]]) -> Table:
    """Return a table with a line for each fact about one thing, its name before it."""
    page = Table.grid(padding=(0, 2, 0, 0))
    page.add_column(style="bold", no_wrap=True)
    page.add_column(overflow="fold")
    for name, words in facts:
        page.add_row(name, words)
    return page


def print_whole(out: Console, table: Table) -> None:
    """Print *table* as wide as it is: a name in two parts can neither be copied nor found."""
    options = out.options.update(max_width=WIDEST)
    out.width = max(out.width, Measurement.get(out, options, table).maximum)
    out.print(table)


def print_json(document: Any) -> None:
    """Print *document*, and nothing else; what JSON has no form for as a text."""
    click.echo(json.dumps(document, indent=2, default=str))


@contextmanager
def named_errors() -> Iterator[None]:
    """End the command with status 1 and one line for an error of ours."""
    try:
        yield
    except ReliableTasksError as error:
        raise click.ClickException(str(error)) from error
