"""`list`, `show` and `forget`: the records of guarded jobs."""

from __future__ import annotations

from dataclasses import asdict
from time import time
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from reliable_tasks.commands.printing import (
    app_of,
    console,
    json_option,
    named_errors,
    page_of,
    plain_table,
    print_json,
    print_whole,
)
from reliable_tasks.commands.spans import moment, span, told
from reliable_tasks.inspection.records import (
    STATES,
    Entry,
    Found,
    Listing,
    consequences,
    document,
    find,
    forget,
    records,
)
from reliable_tasks.inspection.records.listing import LIMIT

__all__ = ("forget_", "list_", "show")

COLOURS = {"running": "cyan", "retrying": "yellow", "failed": "red", "quarantined": "bold red"}
MOMENTS = (
    "since", "until", "replayed", "kept_until", "due", "put_off_since", "noted", "suspected_deaths",
)  # fmt: skip


@click.command("list")
@click.option("--task", metavar="NAME", help="Of one task.")
@click.option("--state", type=click.Choice(STATES), help="In one state.")
@click.option("--older-than", type=span, metavar="AGE", help="Begun so long ago: 90s, 5m, 1h.")
@click.option("--limit", type=click.IntRange(min=1), default=LIMIT, show_default=True)
@json_option
@click.pass_context
def list_(
    context: click.Context,
    /,
    task: str | None,
    state: str | None,
    older_than: float | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """Records by task, state and age, the latest first."""
    with named_errors():
        listing = records(
            app_of(context), task=task, state=state, older_than=older_than, limit=limit
        )
    if as_json:
        print_json(asdict(listing))
        return
    out = console()
    if listing.entries:
        print_whole(out, _table(listing.entries))
    out.print(_summary(listing))


def _table(entries: list[Entry]) -> Table:
    table = plain_table()
    for name in ("task", "key or @job", "state", "since", "until", "worker"):
        table.add_column(name)
    table.add_column("crashes", justify="right")
    now = time()
    for entry in entries:
        table.add_row(
            entry.task,
            entry.identity,
            Text(entry.state, COLOURS.get(entry.state, "")),
            _ago(entry.since, now),
            _until(entry, now),
            entry.worker,
            str(entry.crashes or ""),
        )
    return table


def _ago(moment: float | None, now: float) -> str:
    return "" if moment is None else f"{told(now - moment)} ago"


def _until(entry: Entry, now: float) -> str:
    if entry.until is None:
        return ""
    left = entry.until - now
    if left >= 0:
        return f"in {told(left)}"
    return f"over for {told(-left)}" if entry.state in {"running", "retrying"} else ""


def _summary(listing: Listing) -> str:
    found, read = len(listing.entries), listing.looked_at
    end = f"; stopped, for {listing.stopped}: there may be more" if listing.stopped else ""
    return f"{found} of {read} records that were read{end}"


@click.command()
@click.argument("key")
@click.option("--result", is_flag=True, help="Print the stored result or error, too.")
@json_option
@click.pass_context
def show(context: click.Context, /, key: str, *, result: bool, as_json: bool) -> None:
    """
    Everything that is known of one record.

    KEY is a task id, the name of a record, or a key as `list` prints it.
    """
    found = _found(context, key)
    if as_json:
        print_json([document(each, result=result) for each in found])
        return
    out = console()
    for each in found:
        out.print(_page(document(each, result=result)))


def _found(context: click.Context, key: str) -> list[Found]:
    with named_errors():
        found, stopped = find(app_of(context), key)
    if not found:
        end = f" The look was stopped: {stopped}." if stopped else ""
        raise click.ClickException(f"there is no record of {key}.{end}")
    return found


def _page(known: dict[str, Any]) -> Table:
    return page_of(
        (name.replace("_", " "), _words(name, value))
        for name, value in known.items()
        if value not in (None, "", [], False)
    )


def _words(name: str, value: Any) -> str:
    """Return a value as people read it."""
    if value is True:
        return "yes"
    if isinstance(value, dict):
        parts = ((each, _words(each, inner)) for each, inner in value.items() if inner is not None)
        return ", ".join(f"{each.replace('_', ' ')} {words}" for each, words in parts)
    if isinstance(value, list):
        return "\n".join(_words(name, each) for each in value)
    return _when(value) if name in MOMENTS else str(value)


def _when(seconds: float) -> str:
    left = seconds - time()
    distance = f"in {told(left)}" if left >= 0 else f"{told(-left)} ago"
    return f"{moment(seconds)} ({distance})"


@click.command("forget")
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def forget_(context: click.Context, /, key: str, *, yes: bool, as_json: bool) -> None:
    """
    Delete one record, once you have agreed to what follows.

    KEY is a task id, the name of a record, or a key as `list` prints it.
    """
    found = _found(context, key)
    if len(found) > 1:
        names = "\n".join(each.entry.key for each in found)
        raise click.ClickException(f"{key} means more than one record; name one of\n{names}")
    [only] = found
    if not as_json:
        console().print(_page(document(only)))
        click.echo()
    for line in consequences(only):
        click.echo(line, err=as_json)
    if not yes:
        click.confirm(f"Forget {only.entry.key}?", abort=True, err=as_json)
    with named_errors():
        was_there = forget(only)
    if as_json:
        print_json({"key": only.entry.key, "forgotten": was_there})
    else:
        click.echo("It is forgotten." if was_there else "It was gone before.")
