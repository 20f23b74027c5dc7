"""`celery -A proj reliable alive`: the liveness probe, with the application's settings."""

from __future__ import annotations

import click

from _reliable_tasks.alive import LEAST_WITHIN, WITHIN, look
from _reliable_tasks.probe import answer
from _reliable_tasks.report import default_directory
from reliable_tasks.commands.printing import app_of, json_option

__all__ = ("alive",)


@click.command()
@click.option("--node", metavar="NAME", help="One worker; by default all that run here.")
@click.option(
    "--within",
    type=click.FloatRange(min=LEAST_WITHIN),
    default=WITHIN,
    show_default=True,
    metavar="S",
    help="How old a sign of life may be, s.",
)
@click.option(
    "--broker-within",
    type=click.FloatRange(min=LEAST_WITHIN),
    metavar="S",
    help="How long it may be without its broker, s (as --within).",
)
@json_option
@click.pass_context
def alive(
    context: click.Context,
    /,
    node: str | None,
    within: float,
    broker_within: float | None,
    *,
    as_json: bool,
) -> None:
    """
    Whether the workers of this machine get on with their work.

    Exit status 1 if one does not. `reliable-tasks alive` says the same without loading the
    application.
    """
    directory = app_of(context).conf.get("reliable_tasks_alive_directory") or default_directory()
    verdicts = look(str(directory), node, within=within, broker_within=broker_within)
    click.echo(answer(verdicts, as_json=as_json))
    if not all(verdict.is_alive for verdict in verdicts):
        context.exit(1)
