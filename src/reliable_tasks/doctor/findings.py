"""What is wrong, and the checks that say so (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from reliable_tasks.doctor.facts import Facts

__all__ = ("ERROR", "INFO", "SEVERITIES", "TOPICS", "WARNING", "Check", "Finding", "Found")

SEVERITIES = (ERROR, WARNING, INFO) = ("error", "warning", "info")
"""``error``: jobs are lost, doubled or stuck; ``warning``: they can be; ``info``: worth knowing."""

TOPICS = (BROKER, QUEUES, WORKERS, TASKS, TIME, RESULTS, RECORDS, SERVERS, RELEASES) = (
    "Broker",
    "Queues and routes",
    "Workers",
    "Tasks",
    "Time",
    "Results",
    "Records",
    "Servers",
    "Releases",
)

PAGE = "docs/reference/doctor.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    One thing that is wrong in one system.

    Attributes:
        id: Of the check; it never changes its meaning.
        severity: ``"error"``, ``"warning"`` or ``"info"``.
        topic: One of `TOPICS`.
        title: What is wrong.
        value: What was measured.
        why: Why it matters.
        fix: What to write or do instead; Python, a line of a configuration, or a command.
        page: Where it is described.
    """

    id: str
    severity: str
    topic: str
    title: str
    value: str
    why: str
    fix: str
    page: str


@dataclass(frozen=True, slots=True)
class Found:
    """
    What a check saw. Empty parts are those of the check.

    Attributes:
        value: What was measured.
    """

    value: str
    title: str = ""
    fix: str = ""
    severity: str = ""


Look = Callable[[Facts], Iterable[Found]]
Knows = Callable[[Facts], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """
    One thing that can be wrong, with what the reference says of it.

    Attributes:
        id: In words; it never changes its meaning.
        severity: Unless the check says otherwise of what it found.
        topic: One of `TOPICS`.
        title: What is wrong.
        why: Why it matters.
        fix: What to write or do instead.
        look: Facts to what was seen of it.
        knows: Whether nothing seen means that nothing is wrong; else something was not known.
    """

    id: str
    severity: str
    topic: str
    title: str
    why: str
    fix: str
    look: Look
    knows: Knows

    def findings(self, facts: Facts) -> Iterator[Finding]:
        """Yield what is wrong, as far as it is known."""
        for found in self.look(facts):
            yield Finding(
                id=self.id,
                severity=found.severity or self.severity,
                topic=self.topic,
                title=found.title or self.title,
                value=found.value,
                why=self.why,
                fix=found.fix or self.fix,
                page=f"{PAGE}#{self.id}",
            )
