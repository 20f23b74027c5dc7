"""From what a command prints to a picture."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

__all__ = ("WIDTH", "draw")

WIDTH = 110  # columns


def draw(command: str, printed: str, path: Path) -> None:
    """
    Draw a terminal in which *command* was run.

    Args:
        command: What was typed.
        printed: What came, with its colours.
        path: The SVG file; written anew.
    """
    console = Console(
        record=True, width=WIDTH, file=StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text(f"$ {command}", style="bold"), soft_wrap=False)
    for line in printed.rstrip().splitlines():
        console.print(Text.from_ansi(line.rstrip()), soft_wrap=False)
    svg = console.export_svg(title="reliable-tasks", unique_id=path.stem)
    lines = _without_requests(svg).splitlines()
    path.write_text("".join(f"{line.rstrip()}\n" for line in lines))


def _without_requests(svg: str) -> str:
    """Take the font off that rich has the reader's browser fetch from somebody else's server."""
    return re.sub(r" *@font-face \{.*?\}\n", "", svg, flags=re.DOTALL).replace("Fira Code, ", "")
