"""A view as a screen for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reliable_tasks.inspection.watching.looks import View

__all__ = ("screen",)

TASKS = 10  # the busiest; a screen is no list
SIDE_BY_SIDE = 100  # columns from which there is place for two tables in a row

WORDS = {
    "replays": "replayed",
    "deferrals": "deferred",
    "duplicates": "copies dropped",
    "lost_leases": "leases lost",
    "quarantines": "quarantined",
    "retries": "retried",
    "given_up": "given up",
    "dead_letters": "put among the dead letters",
}
ALARMING = {"lost_leases", "quarantines", "given_up", "dead_letters"}


def screen(view: View, *, width: int) -> RenderableType:
    """
    Return what to print.

    Args:
        view: What happened.
        width: Columns of the screen.
    """
    left, right = (_workers(view), "", _tasks(view)), (_events(view), "", _queues(view))
    notes = (Text(f"! {note}", style="yellow") for note in view.notes)
    if width < SIDE_BY_SIDE:
        return Group(_headline(view), "", *left, "", *right, *notes)
    grid = Table.grid(expand=False, padding=(0, 3))
    grid.add_row(Group(*left), Group(*right))
    return Group(_headline(view), "", grid, *notes)


def _headline(view: View) -> Text:
    workers = f"{len(view.workers)} worker{'' if len(view.workers) == 1 else 's'}"
    return Text.assemble(
        (workers, "bold"),
        f", {view.per_second:.1f} jobs/s, running leases: {view.running}, ",
        (f"dead letters: {_number(view.letters)}", "red" if view.letters else ""),
        (f"   (over {view.seconds:.1f} s)", "dim"),
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None,
        padding=(0, 2, 0, 0),
    )  # fmt: skip
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=not place)
    return table


def _fill(table: Table, rows: Iterable[tuple[str, ...]]) -> Table:
    for row in rows:
        table.add_row(*row)
    if not table.row_count:
        table.add_row(Text("none", style="dim"))
    return table


def _workers(view: View) -> Table:
    table = _table("Workers", "name", "jobs/s", "leases", "slots")
    return _fill(
        table,
        (
            (row.name, _rate(row.per_second), _number(row.running), _number(row.slots))
            for row in view.workers
        ),
    )


def _tasks(view: View) -> Table:
    table = _table("Tasks", "name", "jobs/s", "since start")
    shown = _fill(
        table, ((row.name, _rate(row.per_second), str(row.total)) for row in view.tasks[:TASKS])
    )
    if len(view.tasks) > TASKS:
        shown.add_row(Text(f"and {len(view.tasks) - TASKS} more", style="dim"))
    return shown


def _events(view: View) -> Table:
    table = _table("Jobs that were", "", "per second", "since start")
    for row in view.events:
        style = "red" if row.total and row.name in ALARMING else ""
        table.add_row(WORDS[row.name], _rate(row.per_second), str(row.total), style=style)
    return _fill(table, ())


def _queues(view: View) -> Table:
    table = _table("Queues", "name", "waiting", "per second", "unacked", "readers")
    if view.queues is None:
        table.add_row(Text("not known", style="yellow"))
        return table
    return _fill(
        table,
        (
            (
                row.name, str(row.depth), _rate(row.growth, signed=True), _number(row.unacked),
                _number(row.consumers),
            )
            for row in view.queues
        ),
    )  # fmt: skip


def _number(value: int | None) -> str:
    return "?" if value is None else str(value)


def _rate(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "?"
    return f"{value:+.1f}" if signed and value else f"{value:.1f}"
