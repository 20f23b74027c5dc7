"""Figures, their bounds, and the table that shows both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ("Figure", "failures", "table")

HEAD = ("What", "Where", "Measured", "Bound", "Aim")


@dataclass(frozen=True, slots=True)
class Figure:
    """
    One thing that was measured.

    Args:
        what: What it says.
        where: The server and the client.
        value: The figure.
        unit: Nothing for a ratio.
        at_most: Its bound from above.
        at_least: Its bound from below.
        aim: What would be better still.
    """

    what: str
    where: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    aim: float | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the figure keeps its bound; one without a bound does."""
        too_high = self.at_most is not None and self.value > self.at_most
        too_low = self.at_least is not None and self.value < self.at_least
        return not (too_high or too_low)

    @property
    def cells(self) -> tuple[str, ...]:
        """The figure as a line of the table."""
        bound = ""
        if self.at_most is not None:
            bound = f"at most {self._text(self.at_most)}"
        if self.at_least is not None:
            bound = f"at least {self._text(self.at_least)}"
        missed = "" if self.is_kept else " (missed)"
        aim = "" if self.aim is None else self._text(self.aim)
        return self.what, self.where, self._text(self.value) + missed, bound, aim

    def _text(self, value: float) -> str:
        if not self.unit:
            return f"{value:.2f}"
        return f"{value:.0f} {self.unit}" if value >= 10 else f"{value:.1f} {self.unit}"


def failures(figures: Iterable[Figure]) -> list[Figure]:
    """Return the figures that miss their bounds."""
    return [figure for figure in figures if not figure.is_kept]


def table(figures: Iterable[Figure]) -> str:
    """Return the figures as a table that reads well as text and as Markdown."""
    lines = [HEAD, *(figure.cells for figure in figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (lines[0], rule, *lines[1:])
    )
