"""`celery -A proj reliable preset ...`: settings for a broker, as a file to copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from reliable_tasks import presets
from reliable_tasks.commands.printing import app_of, named_errors
from reliable_tasks.presets.rendering import as_file

__all__ = ("preset",)

DEFAULT_URL = {"redis": "redis://localhost:6379/0", "rabbitmq": "amqp://localhost//"}

COMMON = (
    click.option("--url", help="The broker; by default that of the app."),
    click.option("--longest-task", type=float, help="Seconds that a task may run (600)."),
    click.option("--longest-countdown", type=float, help="The longest countdown, s (3600)."),
    click.option("--workload", help="cpu: processes; io: threads (cpu)."),
    click.option("--concurrency", type=int, help="Tasks that a worker runs at once."),
    click.option("--results", help="A Redis for results; none by default."),
    click.option("--grace-period", type=float, help="Seconds from SIGTERM to SIGKILL (30)."),
    click.option("--keyprefix", help="First part of the name of every key."),
    click.option("--publishers", help="web: somebody waits for a publish; worker: nobody (web)."),
    click.option("--queue", "queues", multiple=True, help="A queue; the first is the default one."),
    click.option("--store", help="A Redis for the records of IdempotentTask."),
    click.option("--sentinel-master", help="The primary's name, if the Redis is behind sentinels."),
    click.option("--ca-certs", help="File with the authority of the servers' certificates."),
    click.option("--lease-seconds", type=float, help="Lease of an IdempotentTask, s (30)."),
    click.option("--redelivery-horizon", type=float, help="How long a copy may turn up, s."),
    click.option("--explain", is_flag=True, help="Print the reasons instead of a file."),
)


def _with_common_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(COMMON):
        command = option(command)
    return command


@click.group()
def preset() -> None:
    """Settings for a broker, as a file to copy: ... > celeryconfig.py."""


@preset.command()
@_with_common_options
@click.option("--visibility-timeout", type=float, help="Seconds; derived by default.")
@click.option("--heartbeat", is_flag=True, help="Every worker has the heartbeat of setup: 60 s.")
@click.pass_context
def redis(context: click.Context, /, **options: Any) -> None:
    """Settings for Redis or Valkey."""
    _print(context, "redis", **options)


@preset.command()
@_with_common_options
@click.option("--queue-type", help="quorum or classic (quorum).")
@click.option("--consumer-timeout", type=float, help="Seconds; derived by default.")
@click.option("--delivery-limit", type=int, help="Deliveries before a message is dead (100).")
@click.pass_context
def rabbitmq(context: click.Context, /, **options: Any) -> None:
    """Settings for RabbitMQ."""
    _print(context, "rabbitmq", **options)


def _print(context: click.Context, kind: str, *, explain: bool, **options: Any) -> None:
    given = {name: value for name, value in options.items() if value not in (None, ())}
    url = given.pop("url", None) or app_of(context).conf.broker_url or DEFAULT_URL[kind]
    with named_errors():
        made = getattr(presets, kind)(url, **given)
    click.echo(made.explain() if explain else as_file(made), nl=False)
