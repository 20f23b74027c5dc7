"""`dead`: jobs that were given up, shown, run again, or thrown away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import time
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from reliable_tasks.broker.view import BrokerUnseen
from reliable_tasks.commands.printing import (
    app_of,
    console,
    json_option,
    named_errors,
    page_of,
    plain_table,
    print_json,
)
from reliable_tasks.commands.spans import UNITS, moment, span, told
from reliable_tasks.deadletter.collecting import collect, uncollected
from reliable_tasks.deadletter.replaying import Replay, replay_all
from reliable_tasks.deadletter.shelves import Found, Kept, Wanted, find, purge

__all__ = ("dead",)

LIMIT = 50
EXPLAINED = {
    Replay.PUBLISHED: "it is in the broker",
    Replay.TAKEN_OFF: "an earlier replay had published it; its letter is off the shelf",
    Replay.ELSEWHERE: "somebody is replaying it, or was a minute ago: try again later",
    Replay.GONE: "its letter was thrown away meanwhile, or another took its place",
    Replay.GOES_ON: "it runs, waits for its retry, or was published again: look at it with `why`",
}

Command = Callable[..., None]


def _filters(command: Command) -> Command:
    for option in (
        click.option("--older-than", type=span, metavar="AGE", help="Kept so long: 90s, 5m, 1h."),
        click.option(
            "--reason",
            metavar="TEXT",
            help="quarantined, gave up, refused, or a part of the words.",
        ),
        click.option("--task", metavar="NAME", help="Of one task."),
    ):
        command = option(command)
    return command


@click.group()
def dead() -> None:
    """Jobs that killed their process, were given up, or refused: kept whole."""


@dead.command("list")
@_filters
@click.option("--limit", type=click.IntRange(min=1), default=LIMIT, show_default=True)
@json_option
@click.pass_context
def list_(context: click.Context, /, *, limit: int, as_json: bool, **filters: Any) -> None:
    """Dead letters, the oldest first."""
    app = app_of(context)
    found = _found(app, (), filters)
    elsewhere, unseen = _uncollected(app)
    shown = found.kept[:limit]
    if as_json:
        print_json(
            {
                "letters": [_summary(kept) for kept in shown],
                "found": len(found.kept),
                "unreadable": [{"id": job, "why": why} for job, why in found.unreadable],
                "uncollected": elsewhere,
            }
        )
        return
    out = console()
    if shown:
        out.print(_table(shown))
    count = len(found.kept)
    out.print(_counted(count) + (f", the oldest {limit} shown" if count > limit else ""))
    for job, why in found.unreadable:
        out.print(f"{job}: {why}")
    for queue, depth in elsewhere.items():
        if depth:
            out.print(f"{depth} more in RabbitMQ's queue {queue}: `dead collect` puts them here")
    if unseen:
        out.print(unseen)


@dead.command()
@click.argument("job")
@click.option("--content", is_flag=True, help="Print arguments and what hangs on it, as sent.")
@json_option
@click.pass_context
def show(context: click.Context, /, job: str, *, content: bool, as_json: bool) -> None:
    """Everything that is known of one job."""
    app = app_of(context)
    kept = _named(_found(app, (job,), {}), (job,))
    documents = [_document(app, each, content=content) for each in kept]
    if as_json:
        print_json(documents)
        return
    out = console()
    for document in documents:
        out.print(_page(document))
        for attempt in document["attempts"]:
            out.print(_attempt(attempt), soft_wrap=True)


@dead.command()
@click.argument("jobs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All, or all that the filters leave.")
@_filters
@click.option("--rate", "per_time", metavar="N/s", help="At most so many: 10/s, 5/m.")
@click.option("--queue", metavar="NAME", help="Where to; by default where each came from.")
@json_option
@click.pass_context
def replay(
    context: click.Context,
    /,
    jobs: tuple[str, ...],
    *,
    everything: bool,
    per_time: str | None,
    queue: str | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """
    Let jobs run again, with a fresh count of attempts and deaths.

    JOBS are task ids. What is published is taken off the shelf. Repeating the command after it was
    interrupted does no harm: no job runs twice, and none is lost.
    """
    app = app_of(context)
    kept = _chosen(app, jobs, filters, everything=everything)
    outcomes = []
    with _broker_errors(), named_errors():
        for each, outcome in replay_all(app, kept, queue=queue, per_second=_per_second(per_time)):
            outcomes.append(outcome)
            if as_json:
                continue
            click.echo(f"{each.letter.task}[{each.letter.id}]: {EXPLAINED[outcome]}")
    if as_json:
        pairs = zip(kept, outcomes, strict=True)
        print_json([{"id": each.letter.id, "outcome": str(outcome)} for each, outcome in pairs])
    if not set(outcomes) <= {Replay.PUBLISHED, Replay.TAKEN_OFF}:
        context.exit(1)


@dead.command("purge")
@click.argument("jobs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All, or all that the filters leave.")
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def purge_(
    context: click.Context,
    /,
    jobs: tuple[str, ...],
    *,
    everything: bool,
    yes: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """
    Throw letters away: these jobs are lost then.

    JOBS are task ids. A quarantine stays: `forget` ends it.
    """
    kept = _chosen(app_of(context), jobs, filters, everything=everything)
    if kept and not yes:
        click.confirm(
            f"Throw {_counted(len(kept))} away? What is thrown away never runs.",
            abort=True,
            err=as_json,
        )
    with named_errors():
        gone = [each.letter.id for each in kept if purge(each)]
    if as_json:
        print_json({"purged": gone})
    else:
        click.echo(f"{_counted(len(gone))} thrown away")


@dead.command("collect")
@json_option
@click.pass_context
def collect_(context: click.Context, /, *, as_json: bool) -> None:
    """Move what RabbitMQ took out of its queues onto the shelf."""
    with _broker_errors(), named_errors():
        jobs = list(collect(app_of(context)))
    if as_json:
        print_json({"collected": jobs})
    else:
        click.echo(f"{_counted(len(jobs))} collected")


@contextmanager
def _broker_errors() -> Iterator[None]:
    """End the command with one line for an error of the broker, whatever its client calls it."""
    try:
        yield
    except click.ClickException:
        raise
    except Exception as error:
        raise click.ClickException(f"the broker: {type(error).__name__}: {error}") from error


def _found(app: Any, jobs: tuple[str, ...], filters: dict[str, Any]) -> Found:
    with named_errors():
        return find(app, Wanted(jobs=jobs, **filters))


def _chosen(
    app: Any, jobs: tuple[str, ...], filters: dict[str, Any], *, everything: bool
) -> list[Kept]:
    if bool(jobs) == everything:
        raise click.UsageError("name the jobs, or give --all")
    found = _found(app, jobs, filters)
    return _named(found, jobs) if jobs else found.kept


def _named(found: Found, jobs: tuple[str, ...]) -> list[Kept]:
    """Return the letters of *jobs*; each must have one."""
    unreadable = dict(found.unreadable)
    known = {each.letter.id for each in found.kept}
    for job in jobs:
        if job in unreadable:
            raise click.ClickException(f"{job}: {unreadable[job]}")
        if job not in known:
            raise click.ClickException(f"there is no dead letter of {job}")
    return found.kept


def _counted(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"


def _per_second(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/([smh])", text)
    if found is None or float(found[1]) == 0:
        raise click.BadParameter(f"expected a rate such as 10/s, 5/m or 1/h, got {text!r}")
    return float(found[1]) / UNITS[found[2]]


def _uncollected(app: Any) -> tuple[dict[str, int], str]:
    try:
        return uncollected(app), ""
    except BrokerUnseen as error:
        return {}, f"what RabbitMQ keeps itself could not be seen: {error}"


def _summary(kept: Kept) -> dict[str, Any]:
    said = kept.letter.described()
    attempts = said.pop("attempts")
    return {**said, "attempts": len(attempts)}


def _document(app: Any, kept: Kept, *, content: bool) -> dict[str, Any]:
    said = kept.letter.described()
    if content:
        try:
            said["content"] = kept.letter.content(app.conf.accept_content)
        except Exception as error:
            said["content"] = f"cannot be read here: {error}"
    return said


def _table(letters: list[Kept]) -> Table:
    table = plain_table()
    for name in ("job", "task"):
        table.add_column(name, no_wrap=True, overflow="fold")
    for name in ("why", "kept", "arguments"):
        table.add_column(name, overflow="fold")
    now = time()
    for each in (kept.letter for kept in letters):
        why = each.kind if each.kind == "quarantined" else f"{each.kind}: {each.reason}"
        table.add_row(
            each.id,
            each.task,
            Text(why, "red"),
            f"{told(max(0.0, now - each.at))} ago",
            Text(each.shown_arguments),
        )
    return table


def _page(document: dict[str, Any]) -> Table:
    return page_of(
        (name, moment(value) if name == "at" else str(value))
        for name, value in document.items()
        if name != "attempts" and value not in (None, "")
    )


def _attempt(attempt: dict[str, Any]) -> str:
    when = attempt.get("at") or attempt.get("began")
    where = " ".join(str(attempt[name]) for name in ("worker", "host", "pid") if name in attempt)
    number = f"attempt {attempt['attempt']} " if "attempt" in attempt else ""
    begun = "began" if "at" not in attempt else "at"
    head = f"\n{number}{attempt['outcome']}"
    head += f", {begun} {moment(when)}" if when else ""
    head += f", on {where}" if where else ""
    return f"{head}\n{attempt.get('traceback', '')}".rstrip()
