"""Where results and records are (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from reliable_tasks.doctor.checks.kit import REDIS, check, named
from reliable_tasks.doctor.facts import Facts, Link
from reliable_tasks.doctor.findings import ERROR, RECORDS, RESULTS, WARNING, Found

__all__ = ("CHECKS",)

WORDS = {
    "refused": "nothing listens there",
    "silent": "it does not answer",
    "host": "the host name has no address",
    "port": "it is at another port",
    "scheme": "a server of another kind answers",
    "password": "the user or the password is refused",
    "vhost": "there is no such virtual host",
    "database": "there is no database of this number",
    "tls": "no encrypted connection comes about",
    "other": "it cannot be used",
}


def _unusable(link: Link | None) -> Iterator[Found]:
    if link is not None and link.trouble is not None:
        said = f": {link.detail}" if link.detail else ""
        yield Found(f"{link.place.url}: {WORDS[link.trouble]}{said}")


@check(
    "backend-unreachable",
    severity=ERROR,
    topic=RESULTS,
    title="The result backend cannot be used.",
    why="A publish waits for it, 20 s and more, even while the broker is up; workers wait with "
    "each result and take no other task; chords never end.",
    fix='app.conf.result_backend = "redis://host:6379/1"  # or None, if nobody reads results',
    knows=lambda facts: facts.settings.backend is None or facts.backend is not None,
)
def backend(facts: Facts) -> Iterator[Found]:
    """Look at the attempt to use it."""
    yield from _unusable(facts.backend)


@check(
    "store-unreachable",
    severity=ERROR,
    topic=RECORDS,
    title="The store of records cannot be used.",
    why="Guarded jobs wait until it is back, and unique ones cannot be published.",
    fix='app.conf.reliable_tasks_store_url = "redis://host:6379/0"',
    knows=lambda facts: facts.settings.store is None or facts.store is not None,
)
def store(facts: Facts) -> Iterator[Found]:
    """Look at the attempt to use it."""
    yield from _unusable(facts.store)


@check(
    "backend-database",
    severity=WARNING,
    topic=RESULTS,
    title="The result backend is a database.",
    why="It pays for each task with a transaction, for each waiting caller with polling, and for "
    "each worker process with a connection.",
    fix='app.conf.result_backend = "redis://host:6379/1"  # a task itself writes what must last',
)
def database(facts: Facts) -> Iterator[Found]:
    """Look at the scheme."""
    place = facts.settings.backend
    if place is not None and place.kind == "database":
        yield Found(place.url)


@check(
    "backend-shared",
    severity=WARNING,
    topic=RESULTS,
    title="Results are in the broker's database.",
    why="They cannot be counted, moved or flushed without touching jobs, and a store full of "
    "unread results is a broker that takes no message.",
    fix='app.conf.result_backend = "redis://host:6379/1"  # another number than the broker\'s',
)
def shared(facts: Facts) -> Iterator[Found]:
    """Compare both addresses, and both servers."""
    broker, place = facts.settings.broker, facts.settings.backend
    if place is None or place.kind != REDIS or broker.kind != REDIS:
        return
    is_one = bool(broker.servers & place.servers) or _is_one_server(facts)
    if is_one and broker.database == place.database and broker.prefix == place.prefix:
        yield Found(f"database {place.database} of {place.url}")


def _is_one_server(facts: Facts) -> bool:
    links = (facts.broker, facts.backend)
    found = {link.redis.identity for link in links if link is not None and link.redis is not None}
    return len(found) == 1 and None not in found and all(link is not None for link in links)


@check(
    "backend-unfit",
    severity=WARNING,
    topic=RESULTS,
    title="Only the process that called can read a result.",
    why="A result by rpc:// is a message to its caller: a duplicate that another process published "
    "gets none, and a chord cannot run.",
    fix='app.conf.result_backend = "redis://host:6379/1"',
)
def unfit(facts: Facts) -> Iterator[Found]:
    """Look for rpc beside guarded tasks."""
    place = facts.settings.backend
    tasks = [task.name for task in facts.settings.tasks if task.guarded]
    if place is not None and place.kind == "rpc" and tasks:
        yield Found(f"{place.url}, with {named(tasks)}")


CHECKS = (backend, database, shared, unfit, store)
