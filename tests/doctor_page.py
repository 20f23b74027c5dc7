"""The checks of docs/reference/doctor.md; `python -m tests.doctor_page` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from reliable_tasks.doctor.checks import CHECKS
from reliable_tasks.doctor.checks.releases import FAULTS, Fault
from reliable_tasks.doctor.findings import TOPICS, Check
from tests.patients import ON_RABBITMQ, ON_REDIS, offline

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "doctor.md"
BEGIN, END = "<!-- begin: tests/doctor_page.py -->", "<!-- end: tests/doctor_page.py -->"


def sections() -> str:
    """Return a section for each check, by topic."""
    checks = sorted(CHECKS, key=lambda check: TOPICS.index(check.topic))
    lines: list[str] = []
    for topic, of_topic in groupby(checks, key=lambda check: check.topic):
        lines += ["", f"## {topic}"]
        for check in of_topic:
            lines += _section(check)
    return "\n".join(lines)


def page(text: str) -> str:
    """Return *text* with the sections between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{sections()}\n\n{END}{after}"


def _section(check: Check) -> Iterator[str]:
    yield from ("", f"### {check.id}", "")
    yield f"**{check.title}** {check.severity.capitalize()}; looks at {_looks_at(check)}."
    yield from ("", check.why, "", "```text", *check.fix.splitlines(), "```")
    if check.id == "release-faulty":
        yield from ("", "| release | what goes wrong | what to do | source |", "| - | - | - | - |")
        yield from (_row(fault) for fault in FAULTS)


def _looks_at(check: Check) -> str:
    is_settings = all(check.knows(offline(facts)) for facts in (ON_REDIS, ON_RABBITMQ))
    return "the app" if is_settings else "servers and workers"


def _row(fault: Fault) -> str:
    fix = ", ".join(f"`{line}`" for line in fault.fix.splitlines())
    return f"| {_releases(fault)} | {fault.says} | {fix} | {_source(fault)} |"


def _releases(fault: Fault) -> str:
    since = f"from {_dotted(fault.since)}" if fault.since else ""
    until = f"before {_dotted(fault.until)}" if fault.until else ""
    return " ".join(part for part in (fault.of, since, until) if part)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _source(fault: Fault) -> str:
    if not fault.source.startswith("https://"):
        return "[measured](../explanation/visibility-timeout.md#when-a-connection-is-lost)"
    _, _, _, owner, name, _, number = fault.source.split("/")
    return f"[{owner}/{name}#{number}]({fault.source})"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
