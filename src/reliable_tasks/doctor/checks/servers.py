"""What the servers may forget, and whether they have room (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from reliable_tasks.doctor.checks.kit import check, rabbit_tells, servers_tell
from reliable_tasks.doctor.facts import Facts, RedisServer
from reliable_tasks.doctor.findings import ERROR, INFO, SERVERS, WARNING, Found

__all__ = ("CHECKS",)

NEARLY_FULL, FULL = 0.8, 0.95
EVERYTHING_KEPT = "noeviction"
MESSAGES, RESULTS, RECORDS = "messages", "results", "records"
KEEP = "maxmemory-policy noeviction  # redis.conf; keep a cache in another Redis"
PERSIST = "appendonly yes  # redis.conf\nappendfsync everysec"


@dataclass(frozen=True, slots=True)
class _Redis:
    """One server, whatever it is called, and what is in it."""

    url: str
    server: RedisServer
    holds: tuple[str, ...]

    @property
    def is_essential(self) -> bool:
        """Whether jobs are lost or doubled if it forgets."""
        return MESSAGES in self.holds or RECORDS in self.holds

    @property
    def shown(self) -> str:
        """Its address, and what is in it."""
        return f"{self.url} ({', '.join(self.holds)})"


def _servers(facts: Facts) -> list[_Redis]:
    found: dict[str, _Redis] = {}
    links = ((MESSAGES, facts.broker), (RESULTS, facts.backend), (RECORDS, facts.store))
    for what, link in links:
        if link is None or link.redis is None:
            continue
        name = link.redis.identity or ",".join(sorted(link.place.servers))
        known = found.get(name)
        holds = (*(known.holds if known else ()), what)
        found[name] = _Redis(known.url if known else link.place.url, link.redis, holds)
    return list(found.values())


@check(
    "eviction-policy",
    severity=ERROR,
    topic=SERVERS,
    title="Redis may delete messages or records when its memory is full.",
    why="allkeys-* deletes whole queues; volatile-* deletes leases and records, which have an "
    "expiry, so that a job runs twice.",
    fix=KEEP,
    knows=servers_tell("policy", "maxmemory"),
)
def eviction(facts: Facts) -> Iterator[Found]:
    """Look at maxmemory-policy, where there is a limit."""
    for redis in _servers(facts):
        policy, limit = redis.server.policy, redis.server.maxmemory
        if policy in (None, EVERYTHING_KEPT) or limit == 0:
            continue
        if str(policy).startswith("volatile") and RECORDS not in redis.holds:
            continue  # messages have no expiry, and results are meant to go
        yield Found(
            f"{redis.shown}: maxmemory-policy {policy}",
            severity="" if redis.is_essential else WARNING,
        )


@check(
    "persistence-none",
    severity=ERROR,
    topic=SERVERS,
    title="Redis keeps nothing over a restart.",
    why="All jobs that wait are lost with it, and all records: what ran may run again.",
    fix=PERSIST,
    knows=servers_tell("appendonly", "save"),
)
def unkept(facts: Facts) -> Iterator[Found]:
    """Look for a server with neither an append-only file nor snapshots."""
    for redis in _servers(facts):
        if redis.server.appendonly is False and redis.server.save == "":
            is_lost = redis.is_essential and not redis.server.replicas
            yield Found(
                f"{redis.shown}: appendonly no, no snapshots",
                severity="" if is_lost else WARNING,
            )


@check(
    "persistence-snapshots-only",
    severity=INFO,
    topic=SERVERS,
    title="Redis loses what it was told since its last snapshot.",
    why="A killed server forgets minutes of jobs and records.",
    fix=PERSIST,
    knows=servers_tell("appendonly", "save"),
)
def snapshots(facts: Facts) -> Iterator[Found]:
    """Look for a server with snapshots and without an append-only file."""
    for redis in _servers(facts):
        if redis.is_essential and redis.server.appendonly is False and redis.server.save:
            yield Found(f"{redis.shown}: appendonly no, save {redis.server.save}")


@check(
    "persistence-fails",
    severity=ERROR,
    topic=SERVERS,
    title="Redis cannot write to its disk.",
    why="A restart forgets everything since the last write that worked; by default Redis refuses "
    "writes, and so every publish, after a snapshot that failed.",
    fix="Make room on the server's disk, and see its log.",
    knows=servers_tell("write_fault"),
)
def unwritten(facts: Facts) -> Iterator[Found]:
    """Look at its last write."""
    for redis in _servers(facts):
        if redis.server.write_fault:
            yield Found(f"{redis.shown}: {redis.server.write_fault}")


@check(
    "memory-nearly-full",
    severity=WARNING,
    topic=SERVERS,
    title="The memory of Redis is nearly full.",
    why="A full Redis refuses every publish, or deletes what it may.",
    fix="maxmemory 2gb  # redis.conf; first see what fills it: redis-cli --bigkeys",
    knows=servers_tell("used_memory", "maxmemory"),
)
def memory(facts: Facts) -> Iterator[Found]:
    """Compare used_memory with maxmemory."""
    for redis in _servers(facts):
        used, limit = redis.server.used_memory, redis.server.maxmemory
        if used is None or not limit or used < NEARLY_FULL * limit:
            continue
        yield Found(
            f"{redis.shown}: {used / limit:.0%} of {limit / 2**20:.0f} MiB",
            severity=ERROR if used >= FULL * limit else "",
        )


@check(
    "keys-evicted",
    severity=ERROR,
    topic=SERVERS,
    title="Redis has deleted keys for want of memory.",
    why="Among them may be queues, leases or records: jobs that are lost, or run twice.",
    fix=KEEP,
    knows=servers_tell("evicted"),
)
def evicted(facts: Facts) -> Iterator[Found]:
    """Look at evicted_keys, since the server's start."""
    for redis in _servers(facts):
        if redis.server.evicted and redis.is_essential:
            is_over = redis.server.policy == EVERYTHING_KEPT
            yield Found(
                f"{redis.shown}: {redis.server.evicted} keys since its start",
                severity=WARNING if is_over else "",
            )


@check(
    "redis-replica",
    severity=ERROR,
    topic=SERVERS,
    title="The address is that of a replica, which takes no writes.",
    why="Every publish, result or record is refused. After a failover the old primary is one.",
    fix='broker_url = "sentinel://a:26379/0;sentinel://b:26379/0"  # knows the primary\n'
    'app.conf.broker_transport_options = {"master_name": "mymaster"}',
    knows=servers_tell("role"),
)
def replica(facts: Facts) -> Iterator[Found]:
    """Look at its role."""
    for redis in _servers(facts):
        if redis.server.role == "slave":
            yield Found(redis.shown)


@check(
    "broker-alarm",
    severity=ERROR,
    topic=SERVERS,
    title="RabbitMQ has stopped taking messages.",
    why="Above its memory mark, or below its mark of free disk, it blocks every publisher.",
    fix="Give the server memory or disk, or empty its queues; see `rabbitmq-diagnostics alarms`.",
    knows=rabbit_tells("alarms"),
)
def alarm(facts: Facts) -> Iterator[Found]:
    """Look at its alarms."""
    rabbit = facts.broker.rabbit if facts.broker is not None else None
    if rabbit is not None and rabbit.alarms:
        yield Found(f"alarm: {', '.join(rabbit.alarms)}")


CHECKS = (eviction, unkept, snapshots, unwritten, memory, evicted, replica, alarm)
