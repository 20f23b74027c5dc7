"""`reliable-tasks alive`: a liveness probe that does not load the application."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from _reliable_tasks.alive import LEAST_WITHIN, WITHIN, Verdict, look
from _reliable_tasks.report import default_directory

__all__ = ("answer", "main")


def main(words: Sequence[str]) -> int:
    """
    Run the command.

    Args:
        words: What stands after ``reliable-tasks alive``.

    Returns:
        The exit status: 0 if each worker that was looked at is alive, else 1.
    """
    options = _parser().parse_args(words)
    verdicts = look(
        options.directory or default_directory(),
        options.node,
        within=options.within,
        broker_within=options.broker_within,
    )
    print(answer(verdicts, as_json=options.json))  # noqa: T201 - a command
    return 0 if all(verdict.is_alive for verdict in verdicts) else 1


def answer(verdicts: Sequence[Verdict], *, as_json: bool) -> str:
    """Return what the command prints: a line for each worker, or one JSON document."""
    if not as_json:
        return "\n".join(map(str, verdicts))
    workers = [
        {"node": each.node, "alive": each.is_alive, "reason": each.reason} for each in verdicts
    ]
    return json.dumps(
        {"alive": all(each.is_alive for each in verdicts), "workers": workers}, indent=2
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reliable-tasks alive",
        description="Says whether the workers of this machine get on with their work, by what they "
        "write into a file every 2 s. Loads nothing of the application.",
        epilog="exit status: 0 if each worker is alive, 1 if one is not",
    )
    parser.add_argument("--node", metavar="NAME", help="one worker; default: all that run here")
    parser.add_argument(
        "--within",
        type=_seconds,
        default=WITHIN,
        metavar="S",
        help="how old a sign of life may be, in seconds (default: %(default)g)",
    )
    parser.add_argument(
        "--broker-within",
        type=_seconds,
        metavar="S",
        help="how long it may be without its broker, in seconds (default: as --within)",
    )
    parser.add_argument(
        "--directory", help="reliable_tasks_alive_directory, if the app sets another than usual"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds >= LEAST_WITHIN:
        raise argparse.ArgumentTypeError(
            f"expected seconds of at least {LEAST_WITHIN:g}, got {text!r}"
        )
    return seconds
