"""Read the fenced code blocks of a Markdown page, and judge what they print."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
OPENING = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
TITLE = re.compile(r'title="(?P<title>[^"]*)"')
COMMENT = re.compile(r"^<!-- *(?P<text>.*?) *-->$")


class PageError(Exception):
    """A page breaks a rule of CONTRIBUTING.md, or a block does not do what the page says."""


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, what it is, and the HTML comment right before it."""

    line: int  # of the opening fence, from 1
    language: str
    title: str
    comment: str
    text: str


def pages() -> list[Path]:
    """Every page whose blocks are promises: README and docs."""
    return [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def blocks(page: str) -> list[Block]:
    """
    Return the fenced blocks of *page* in order.

    Raises:
        PageError: A fence is not closed.
    """
    found: list[Block] = []
    lines = page.splitlines()
    comment, number = "", 0
    while number < len(lines):
        line = lines[number]
        if opening := OPENING.match(line):
            end = _closing(lines, number, opening["fence"])
            text = textwrap.dedent("\n".join(lines[number + 1 : end]) + "\n")
            found.append(_block(number + 1, opening["info"].strip(), comment, text))
            comment, number = "", end
        elif line.strip():
            marked = COMMENT.match(line.strip())
            comment = marked["text"] if marked else ""
        number += 1
    return found


def _closing(lines: list[str], start: int, fence: str) -> int:
    for number in range(start + 1, len(lines)):
        if lines[number].strip() == fence:
            return number
    raise PageError(f"line {start + 1}: the fence is not closed")


def _block(line: int, info: str, comment: str, text: str) -> Block:
    title = TITLE.search(info)
    return Block(line, info.partition(" ")[0], title["title"] if title else "", comment, text)


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """Split a console block into commands, each with the output shown beneath it."""
    found: list[tuple[str, list[str]]] = []
    continued = False
    for line in block.text.rstrip().splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif not found:
            raise PageError(f"line {block.line}: a console block begins with `$ `")
        elif continued:
            found[-1] = (f"{found[-1][0]}\n{line}", [])
        else:
            found[-1][1].append(line)
        continued = line.endswith("\\") and not found[-1][1]
    return found


def matches(shown: str, output: str) -> bool:
    """Compare line by line; `...` stands for anything, a line of its own for any lines."""
    pattern = ""
    for line in shown.strip().splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*"
        else:
            pattern += r".*".join(re.escape(part) for part in line.rstrip().split("...")) + r"\n"
    text = "".join(f"{line.rstrip()}\n" for line in output.strip().splitlines())
    return re.fullmatch(pattern, text) is not None
