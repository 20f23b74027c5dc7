"""The command `reliable-tasks`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version

__all__ = ("main",)

LEAST_JOBS, DEFAULT_JOBS, DEFAULT_SEED = 10, 300, 1


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command.

    Args:
        argv: Words after the command's name; those of this process if left out.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(argv)
    try:
        return _demo(options.url, options.jobs, options.seed)
    except KeyboardInterrupt:  # so early that the demo could not take it
        return 130


def _demo(url: str | None, jobs: int, seed: int) -> int:
    from reliable_tasks.demo.show import show  # noqa: PLC0415 - `--help` needs none of it

    return show(url, jobs, seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reliable-tasks", description="Celery tasks that take effect once."
    )
    parser.add_argument("--version", action="version", version=version("reliable-tasks"))
    commands = parser.add_subparsers(metavar="command", required=True)
    commands.add_parser(  # `_reliable_tasks` runs it
        "alive", help="whether the workers of this machine get on with their work"
    )
    demo = commands.add_parser(
        "demo",
        help="the same payments and faults on plain Celery and on IdempotentTask",
        description=(
            "Publishes small payments, some of them two or three times, to plain Celery and to "
            "IdempotentTask, kills and pauses the workers of both, and counts the charges. "
            "Takes less than a minute."
        ),
        epilog=(
            "exit status: 0 if IdempotentTask lost none and doubled none but those whose process "
            "died, or was paused, between the charge and its record; 1 if not; 2 if the demo "
            "could not run"
        ),
    )
    demo.add_argument(
        "--url",
        metavar="redis://...",
        help="a Redis of yours, under keys that are removed at the end; else one is started",
    )
    demo.add_argument(
        "--jobs",
        type=_jobs,
        default=DEFAULT_JOBS,
        help=f"payments, at least {LEAST_JOBS} (default: {DEFAULT_JOBS})",
    )
    demo.add_argument(
        "--seed",
        type=int,
        default=DEFAULT_SEED,
        help=f"which messages are doubled and which workers die (default: {DEFAULT_SEED})",
    )
    return parser


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < LEAST_JOBS:
        raise argparse.ArgumentTypeError(f"expected a number of at least {LEAST_JOBS}")
    return int(text)
