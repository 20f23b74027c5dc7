"""`watch`: what the workers do at the moment, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from time import monotonic, sleep

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from reliable_tasks.commands.printing import app_of, console, json_option, named_errors, print_json
from reliable_tasks.inspection.watching.looks import View, compare
from reliable_tasks.inspection.watching.screen import screen
from reliable_tasks.inspection.watching.watcher import Watcher

__all__ = ("views", "watch")


@click.command()
@click.option("--once", is_flag=True, help="Print one screen and end.")
@json_option
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="From one look to the next.",
)
@click.pass_context
def watch(context: click.Context, /, *, once: bool, as_json: bool, interval: float) -> None:
    """Rates, running leases, retries, dead letters and queues, until Ctrl-C."""
    with named_errors(), closing(Watcher(app_of(context))) as watcher:
        seen = views(watcher, interval)
        if as_json:
            print_json(asdict(next(seen)))
        else:
            _show(console(), islice(seen, 1) if once else seen)


def views(watcher: Watcher, interval: float) -> Iterator[View]:
    """
    Yield what happens, for ever.

    Args:
        watcher: What looks.
        interval: Seconds from one look to the next; more, if looking takes longer.
    """
    due, before = monotonic() + interval, watcher.look()
    while True:
        sleep(max(0.0, due - monotonic()))
        due, after = monotonic() + interval, watcher.look()
        yield compare(before, after)
        before = after


def _show(place: Console, seen: Iterable[View]) -> None:
    """Renew the screen until Ctrl-C, and leave the last one behind; a pipe gets each in turn."""
    screens = (screen(view, width=place.width) for view in seen)
    try:
        if not place.is_terminal:
            for each in screens:
                place.print(each)
            return
        with Live(Text("Looking ...", style="dim"), console=place, auto_refresh=False) as live:
            for each in screens:
                live.update(each, refresh=True)
    except KeyboardInterrupt:
        return
