"""What is seen: bars and lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from reliable_tasks.demo.site import Side
from reliable_tasks.demo.story import Event
from reliable_tasks.demo.tally import Tally
from reliable_tasks.demo.verdict import Verdict, rows

__all__ = ("Screen",)

NAMES = {Side.PLAIN: "plain Celery", Side.GUARDED: "IdempotentTask"}
_SIDES = {Side.PLAIN: "yellow", Side.GUARDED: "cyan"}
_TITLES = {
    "crash": "bold red",
    "pause": "magenta",
    "goes on": "magenta",
    "takeover": "green",
    "rerun": "green",
    "lost lease": "green",
    "replay": "dim",
    "deferral": "dim",
    "dropped": "dim",
    "quarantine": "bold red",
    "DOUBLED": "bold white on red",
}
_WINDOW = (
    "No guard can close that window from outside: hand lease.token or the key to whoever charges "
    "(docs: what we do not promise)."
)
PLAIN_PROGRESS_EVERY = 5.0  # seconds


class Screen:
    """
    Shows a demo; a context manager that leaves the terminal as it was.

    Args:
        console: Where to; standard output if left out.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._started = time.time()
        self._told_at = self._started
        self._bars = Progress(
            TextColumn("[{task.fields[colour]}]{task.description:>14}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            transient=True,
            refresh_per_second=8,
        )
        self._tasks: dict[Side, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self._print(Text(text))

    def start(self, jobs: int) -> None:
        """Begin with the clock and the bars at zero."""
        self._started = self._told_at = time.time()
        if not self._console.is_terminal:
            return
        for side, name in NAMES.items():
            self._tasks[side] = self._bars.add_task(
                name, total=jobs, figures="workers start", colour=_SIDES[side]
            )
        self._bars.start()

    def tell(self, event: Event) -> None:
        """Print one event."""
        self._print(
            Text(f"{max(0.0, event.at - self._started):5.1f} s ", "dim"),
            Text(f"{NAMES[event.side]:<14}", _SIDES[event.side]),
            Text(f"{event.title:<10}", _TITLES.get(event.title, "")),
            Text(event.text),
        )

    def _print(self, *cells: Text) -> None:
        """Print one line; on a terminal the last cell wraps below itself, elsewhere not at all."""
        if not self._console.is_terminal:
            self._console.print(Text(" ").join(cells), soft_wrap=True)
            return
        grid = Table.grid(padding=(0, 1))
        for cell in cells[:-1]:
            grid.add_column(no_wrap=True, min_width=len(cell))
        grid.add_column()
        grid.add_row(*cells)
        self._console.print(grid)

    def update(self, tallies: Mapping[Side, Tally]) -> None:
        """Show how far each side is."""
        for side, task in self._tasks.items():
            tally = tallies[side]
            self._bars.update(task, completed=tally.charged, figures=_figures(tally))
        now = time.time()
        if not self._tasks and now - self._told_at >= PLAIN_PROGRESS_EVERY:
            self._told_at = now
            for side, tally in tallies.items():
                done = f"{tally.charged}/{tally.jobs} payments"
                self.say(
                    f"{now - self._started:5.1f} s  {NAMES[side]:<15}{done}, {_figures(tally)}"
                )

    def conclude(self, tallies: Mapping[Side, Tally], verdict: Verdict) -> None:
        """Print the table and the verdict."""
        self._bars.stop()
        self._console.print()
        self._console.print(_table(tallies))
        self._console.print()
        self._console.print("IdempotentTask:", style="bold")
        for is_well, text in verdict.lines():
            self._print(Text("  ok", "green") if is_well else Text("  NO", "bold red"), Text(text))
        if verdict.tally.doubled and not verdict.unexplained:
            self._print(Text("    "), Text(_WINDOW))


def _figures(tally: Tally) -> str:
    return f"crashes {tally.crashes}, doubled {len(tally.doubled)}"


def _table(tallies: Mapping[Side, Tally]) -> Table:
    table = Table(title="counted in the payment gateway's own journal")
    table.add_column("")
    for side in tallies:
        table.add_column(NAMES[side], justify="right", style=_SIDES[side])
    columns = [dict(rows(tally)) for tally in tallies.values()]
    for name in columns[0]:
        figures = [column[name] for column in columns]
        table.add_row(name, *(_figure(name, figure) for figure in figures))
    return table


def _figure(name: str, figure: int) -> Text:
    if name not in ("lost", "doubled"):
        return Text(str(figure))
    return Text(str(figure), "bold red" if figure else "bold green")
