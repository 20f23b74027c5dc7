"""`celery -A proj reliable why TASK_ID`: where a job is, and for what reason."""

from __future__ import annotations

from collections.abc import Iterator

import click
from rich.markup import escape

from reliable_tasks.commands.printing import app_of, console, json_option, named_errors, print_json
from reliable_tasks.inspection.why import (
    Verdict,
    document_of,
    headline,
    line_of,
    remedy,
    sentence_of,
    why,
)

__all__ = ("command",)


@click.command(name="why")
@click.argument("task_id")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="S",
    help="How long each answer may take, s.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="N",
    help="How many messages, and how many records, to read at most.",
)
@click.option(
    "--management", metavar="URL", help="RabbitMQ's management interface: http://host:15672"
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    task_id: str,
    timeout: float,
    limit: int,
    management: str | None,
    *,
    as_json: bool,
) -> None:
    """Where the job TASK_ID is, and for what reason."""
    with named_errors():
        verdict = why(app_of(context), task_id, timeout=timeout, limit=limit, management=management)
    if as_json:
        print_json(document_of(verdict))
        return
    out = console()
    for line in _lines(verdict):
        out.print(line, markup=True, soft_wrap=True)


def _lines(verdict: Verdict) -> Iterator[str]:
    source = f" [dim]({escape(verdict.source)})[/dim]" if verdict.source else ""
    yield f"[bold]{verdict.standing.value}[/bold]: {escape(headline(verdict))}{source}"
    for note in verdict.notes:
        yield f"  {escape(sentence_of(note, verdict.now))}"
    advice = remedy(verdict)
    if advice:
        yield f"  {escape(advice)}"
    for name in ("task", "key"):
        if name in verdict.facts:
            yield f"[dim]{name}:[/dim] {escape(str(verdict.facts[name]))}"
    if verdict.jots:
        yield "[dim]flight recorder:[/dim]"
        yield from (f"  {escape(line_of(jot))}" for jot in verdict.jots)
    for gap in verdict.gaps:
        yield f"[yellow]not looked at:[/yellow] {escape(gap.source)}: {escape(gap.why)}"
