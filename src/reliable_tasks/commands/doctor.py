"""`celery -A proj reliable doctor`: what is wrong, and what to write instead."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import click

from reliable_tasks.commands.printing import app_of, console, json_option, named_errors, print_json
from reliable_tasks.doctor import Report, examine
from reliable_tasks.doctor.report.junit import as_junit
from reliable_tasks.doctor.report.people import for_people
from reliable_tasks.doctor.report.sarif import as_sarif

__all__ = ("doctor",)

file_path = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command()
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning"]),
    default="error",
    help="End with status 1 for these, and what is worse (error).",
)
@click.option("--offline", is_flag=True, help="Look at the app alone, and ask no server.")
@click.option("--timeout", type=float, default=2.0, help="Seconds for one answer (2).")
@click.option("--grace-period", type=float, help="Seconds from SIGTERM to SIGKILL of workers.")
@click.option("--ignore", multiple=True, metavar="ID", help="A check that is not wanted.")
@click.option("--junit", type=file_path, help="Write JUnit's XML to this file.")
@click.option("--sarif", type=file_path, help="Write SARIF 2.1.0 to this file.")
@json_option
@click.pass_context
def doctor(
    context: click.Context,
    /,
    *,
    fail_on: str,
    offline: bool,
    timeout: float,
    grace_period: float | None,
    ignore: tuple[str, ...],
    junit: Path | None,
    sarif: Path | None,
    as_json: bool,
) -> None:
    """Say what is wrong with this app, its servers and workers, and what to write instead."""
    with named_errors():
        report = examine(
            app_of(context),
            offline=offline,
            timeout=timeout,
            grace_period=grace_period,
            ignore=ignore,
        )
    if junit is not None:
        junit.write_text(as_junit(report, fail_on=fail_on), encoding="utf-8")
    if sarif is not None:
        document = as_sarif(report, version=version("reliable-tasks"))
        sarif.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report)
    context.exit(1 if report.failures(fail_on) else 0)


def _print(report: Report) -> None:
    out = console()
    for part in for_people(report):
        out.print(part)
