"""Times on a command line: lengths such as 90s, 5m, 1h or 2d, and moments."""

from __future__ import annotations

import re
from datetime import datetime

import click

__all__ = ("moment", "span", "told")

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def span(text: str) -> float:
    """
    Return a number with a unit, or of seconds without one, as seconds.

    Raises:
        click.BadParameter: It is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None:
        raise click.BadParameter(f"expected a time such as 90s, 5m, 1h or 2d, got {text!r}")
    return float(found[1]) * UNITS[found[2] or "s"]


def told(seconds: float) -> str:
    """Return a length of time in its largest unit that fits twice."""
    for unit in ("d", "h", "m"):
        if seconds >= 2 * UNITS[unit]:
            return f"{seconds / UNITS[unit]:.0f} {unit if unit != 'm' else 'min'}"
    return f"{seconds:.0f} s"


def moment(seconds: float) -> str:
    """Return a moment, in seconds since 1970, as the clock here shows it."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
