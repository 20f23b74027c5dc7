"""Releases with known faults, each with the thread that tells of it (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from reliable_tasks.doctor.checks.kit import RABBITMQ, REDIS, check, named, rabbit_tells
from reliable_tasks.doctor.facts import Facts
from reliable_tasks.doctor.findings import ERROR, INFO, RELEASES, WARNING, Found
from reliable_tasks.doctor.versions import numbers

__all__ = ("CHECKS", "FAULTS", "Fault")

EVER: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    One fault of some releases.

    Attributes:
        of: Distribution.
        since: First release that has it.
        until: First release that does not; empty: none.
        concerns: Whether an app can meet it.
        says: What goes wrong.
        fix: What to do.
        source: Who says so.
        severity: As of `Finding`.
    """

    of: str
    since: tuple[int, ...] = EVER
    until: tuple[int, ...] = EVER
    concerns: Callable[[Facts], bool]
    says: str
    fix: str
    source: str
    severity: str = WARNING

    def is_in(self, releases: Mapping[str, str]) -> bool:
        """Whether what is installed has it."""
        found = numbers(releases.get(self.of))
        return bool(found) and self.since <= found and (not self.until or found < self.until)


def _on_redis(facts: Facts) -> bool:
    return facts.settings.reads.kind == REDIS


def _on_rabbitmq(facts: Facts) -> bool:
    return facts.settings.reads.kind == RABBITMQ


def _has_quorum(facts: Facts) -> bool:
    return any(queue.is_quorum for queue in facts.settings.declared)


def _server(facts: Facts) -> tuple[int, ...]:
    """Return the release of RabbitMQ, if it is known."""
    rabbit = facts.broker.rabbit if facts.broker is not None else None
    return numbers(rabbit.version) if rabbit is not None else EVER


def _has_several_hosts(facts: Facts) -> bool:
    return ";" in facts.settings.broker.url


def _shares_transient_queues(facts: Facts) -> bool:
    conf = facts.settings.conf
    kinds = ("control_queue", "event_queue")
    return any(not (conf.get(f"{each}_exclusive") or conf.get(f"{each}_durable")) for each in kinds)


FAULTS = (
    Fault(
        of="kombu",
        until=(5, 4),
        concerns=_on_redis,
        says="A worker consumes nothing more after its connection to Redis was lost.",
        fix="pip install 'kombu>=5.4'",
        source="https://github.com/celery/kombu/pull/2007",
        severity=ERROR,
    ),
    Fault(
        of="kombu",
        since=(5, 7),
        concerns=lambda facts: _on_redis(facts) and not facts.settings.has_heartbeat,
        says="A worker that runs jobs ends (AttributeError) when Redis is away for a moment, and "
        "its supervisor must start it again.",
        fix="setup(app)  # its heartbeat keeps the worker",
        source="measured; docs/explanation/visibility-timeout.md",
    ),
    Fault(
        of="celery",
        since=(5, 5),
        until=(5, 5, 1),
        concerns=lambda facts: _on_rabbitmq(facts) and _has_several_hosts(facts),
        says="A worker with several broker addresses fails on quorum queues (AttributeError).",
        fix="pip install 'celery>=5.5.1'",
        source="https://github.com/celery/celery/issues/9651",
    ),
    Fault(
        of="celery",
        until=(5, 6),
        concerns=lambda _: True,
        says="Tasks that raise leak memory, most with Python 3.11 and later.",
        fix="pip install 'celery>=5.6'  # or worker_max_memory_per_child",
        source="https://github.com/celery/celery/pull/9799",
        severity=INFO,
    ),
    Fault(
        of="celery",
        until=(5, 6, 1),
        concerns=_on_rabbitmq,
        says="A worker that finishes its tasks before it ends sends no heartbeats: RabbitMQ cuts "
        "it off after a while, and its jobs run twice.",
        fix="pip install 'celery>=5.6.1'  # until then a longer broker_heartbeat",
        source="https://github.com/celery/celery/pull/9986",
    ),
    Fault(
        of="celery",
        since=(5, 6, 1),
        until=(5, 6, 2),
        concerns=lambda _: True,
        says="With Django a worker, and Flower, can fail at the start (RecursionError, "
        "AttributeError).",
        fix="pip install 'celery>=5.6.2'",
        source="https://github.com/celery/celery/pull/10045",
    ),
    Fault(
        of="kombu",
        until=(5, 7),
        concerns=lambda facts: _server(facts) >= (4,) and not _has_quorum(facts),
        says="A worker cannot read a classic queue of RabbitMQ 4: 540 NOT_IMPLEMENTED, global qos.",
        fix="pip install 'kombu>=5.7'  # or presets.rabbitmq(url): quorum queues",
        source="https://github.com/celery/kombu/issues/2469",
        severity=ERROR,
    ),
    Fault(
        of="celery",
        concerns=lambda facts: _server(facts) >= (4, 3) and _shares_transient_queues(facts),
        says="A worker cannot start on RabbitMQ 4.3, which refuses transient queues that are not "
        "exclusive: 541 INTERNAL_ERROR.",
        fix="app.conf.control_queue_exclusive = True\napp.conf.event_queue_exclusive = True",
        source="https://github.com/celery/celery/pull/10287",
        severity=ERROR,
    ),
)


@check(
    "release-faulty",
    severity=WARNING,
    topic=RELEASES,
    title="A release with a known fault is installed.",
    why="Others have met it, and a later release or a setting ends it.",
    fix="pip install --upgrade celery kombu",
    knows=rabbit_tells("version"),
)
def faulty(facts: Facts) -> Iterator[Found]:
    """Compare what is installed here, and in the workers that say it, with `FAULTS`."""
    for fault in FAULTS:
        if not fault.concerns(facts):
            continue
        release = facts.settings.releases.get(fault.of)
        who = ["this process"] if fault.is_in(facts.settings.releases) else []
        for worker in facts.workers or ():
            if worker.releases and fault.is_in(worker.releases):
                who.append(worker.name)
                release = worker.releases[fault.of]
        if who:
            yield Found(
                f"{fault.of} {release}: {named(who)} ({fault.source})",
                title=fault.says,
                fix=fault.fix,
                severity=fault.severity,
            )


@check(
    "release-unsupported",
    severity=WARNING,
    topic=RELEASES,
    title="redis-py is of a release that Kombu does not support.",
    why="It may repair a lost connection beneath Kombu, which then waits on it for ever: the "
    "worker looks connected and takes nothing (workfloworchestrator/lso, pull request 219).",
    fix="pip install 'celery[redis]'  # asks for a release that fits",
)
def unsupported(facts: Facts) -> Iterator[Found]:
    """Compare what is installed with what Kombu's own metadata asks for."""
    if REDIS in (facts.settings.reads.kind, facts.settings.broker.kind):
        for words in facts.settings.unsupported:
            yield Found(words)


CHECKS = (faulty, unsupported)
