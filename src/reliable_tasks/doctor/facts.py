"""What the doctor knows of a system (pure). None everywhere: not asked, or no answer to be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = (
    "TROUBLES",
    "Declared",
    "Entry",
    "Facts",
    "Gap",
    "Guarded",
    "Link",
    "Place",
    "Queue",
    "RabbitServer",
    "RedisServer",
    "Settings",
    "Task",
    "Unacked",
    "Worker",
)

TROUBLES = (
    "refused",
    "silent",
    "host",
    "port",
    "scheme",
    "password",
    "vhost",
    "database",
    "tls",
    "other",
)
"""
Why a server cannot be used. ``refused``: nothing listens there; ``silent``: it accepts, and never
answers, or does not even accept; ``host``: the name has no address; ``port``: nothing, or something
else, at this port, but such a server at the usual one; ``scheme``: a server of another kind;
``password``: the credentials are refused; ``vhost``: no such virtual host, or it is closed to the
user; ``database``: no database of this number; ``tls``: no encrypted connection comes about.
"""


@dataclass(frozen=True, slots=True)
class Gap:
    """
    Something that could not be looked at.

    Attributes:
        what: In a few words: "RabbitMQ's queues by its management API".
        why: The reason, without passwords.
    """

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    Where messages, results or records are. Without credentials.

    Attributes:
        kind: ``"redis"``, ``"rabbitmq"``, ``"database"``, ``"rpc"``, ``"memory"`` or ``"other"``.
        url: With stars for passwords.
        servers: ``host:port`` of each, or the path of a socket.
        database: Number of a Redis database, or virtual host.
        prefix: Kombu's ``global_keyprefix``, or the prefix of records.
    """

    kind: str
    url: str
    servers: frozenset[str] = frozenset()
    database: str = ""
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """What an `IdempotentTask` goes by, in seconds."""

    lease: float
    max_run: float
    horizon: float
    retention: float | None = None
    has_key: bool = False
    max_crashes: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """
    A task of the app, Celery's own left out. What is in force, after the app's settings.

    Attributes:
        queue: Where a plain call of it goes; None if no queue can be found.
        nowhere: Why it goes nowhere, if its route leads to no queue.
        digest: Of its code; equal where the code is.
        guarded: None for a plain task.
    """

    name: str
    queue: str | None = None
    nowhere: str = ""
    acks_late: bool = False
    reject_on_worker_lost: bool = False
    acks_on_timeout: bool = True
    hard_limit: float | None = None
    soft_limit: float | None = None
    retry_delay: float | None = None  # seconds; of plain Celery's retries
    content_type: str = "application/json"
    digest: str | None = None
    guarded: Guarded | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of beat's schedule. *queue* and *nowhere* as of `Task`."""

    name: str
    task: str
    queue: str | None = None
    nowhere: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A queue as the app declares it."""

    name: str
    exchange_type: str = "direct"
    routing_key: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_quorum(self) -> bool:
        """Whether it is a quorum queue by its arguments."""
        return self.arguments.get("x-queue-type") == "quorum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    What the app itself says, read without a server.

    Attributes:
        conf: The effective settings by Celery's lower-case names, ours included. Addresses are
            not in it, nor is any password.
        given: The names that the app, its files or `setup` set; what is left are defaults.
        accepts: Content types that its workers take.
        broker: Where this process publishes.
        consumes: Where its workers read, if that is another address.
        refusals: What `reliable_tasks.worker.check` says against the settings.
        broken_promises: What a worker would warn of because of the preset.
        address_faults: Why the broker's address can serve no app, by the presets' rules.
        declared: The queues that the app knows.
        names_queues: Whether ``task_queues`` is set; else there is only the default queue.
        has_heartbeat: Whether a worker of this app keeps what it holds at a Redis broker.
        relies_on_heartbeat: Whether it was set up with a preset of ``heartbeat=True``.
        misspelt: Names among *given* that mean nothing, with the setting that each nearly is.
        releases: Versions by distribution: celery, kombu, redis, amqp, billiard, python.
        unsupported: What is installed beside a release that does not support it, in words.
        grace_period: Seconds from SIGTERM to SIGKILL, if the caller said so.
        file: Where the app is, relative to the working directory, if that is known.
        gaps: What of the app cannot be read.
    """

    conf: Mapping[str, Any]
    given: frozenset[str] = frozenset()
    accepts: frozenset[str] = frozenset()
    broker: Place
    consumes: Place | None = None
    backend: Place | None = None
    store: Place | None = None
    refusals: tuple[str, ...] = ()
    broken_promises: tuple[str, ...] = ()
    address_faults: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    entries: tuple[Entry, ...] = ()
    declared: tuple[Declared, ...] = ()
    names_queues: bool = False
    has_heartbeat: bool = False
    relies_on_heartbeat: bool = False
    misspelt: Mapping[str, str] = field(default_factory=dict)
    releases: Mapping[str, str] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()
    grace_period: float | None = None
    file: str | None = None
    gaps: tuple[Gap, ...] = ()

    @property
    def transport_options(self) -> Mapping[str, Any]:
        """The setting ``broker_transport_options``."""
        return self.conf.get("broker_transport_options") or {}

    @property
    def reads(self) -> Place:
        """Where the app's workers read."""
        return self.consumes or self.broker


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """
    One Redis or Valkey, as it describes itself.

    Attributes:
        identity: Its ``run_id``: the same server under two names has one.
        maxmemory: Bytes; 0: no limit.
        policy: ``maxmemory-policy``.
        appendonly: Whether it writes an append-only file.
        save: Its snapshots as ``CONFIG GET save`` says; empty: it makes none.
        role: ``"master"`` or ``"slave"``.
        replicas: How many are connected.
        evicted: Keys that it deleted for want of memory since its start.
        write_fault: Why its last write to disk failed; empty: it did not fail.
        clock_ahead: Seconds that its clock is ahead of this process's.
    """

    identity: str | None = None
    version: str | None = None
    maxmemory: int | None = None
    used_memory: int | None = None
    policy: str | None = None
    appendonly: bool | None = None
    save: str | None = None
    role: str | None = None
    replicas: int | None = None
    evicted: int | None = None
    write_fault: str | None = None
    clock_ahead: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitServer:
    """
    One RabbitMQ.

    Attributes:
        alarms: What it has stopped taking publishes for: ``"memory"``, ``"disk"``.
        consumer_timeout: Seconds of its own default; None: not known.
        managed: Whether its management API answered.
    """

    version: str | None = None
    alarms: tuple[str, ...] | None = None
    consumer_timeout: float | None = None
    managed: bool = False
    clock_ahead: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """
    One attempt to use a server.

    Attributes:
        place: What was tried.
        trouble: One of `TROUBLES`; None: it works.
        detail: What was said, without passwords; for ``port``, where such a server does answer.
        redis: How the server describes itself, if it is one.
        rabbit: Likewise.
    """

    place: Place
    trouble: str | None = None
    detail: str = ""
    seconds: float | None = None
    redis: RedisServer | None = None
    rabbit: RabbitServer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unacked:
    """Messages in workers' hands, as Kombu notes them in Redis, of all queues of the database."""

    count: int
    silent_for: float | None = None  # seconds since the oldest of them was last heard of
    redelivered: int | None = None  # how many of those looked at were delivered before
    tasks: tuple[str, ...] = ()  # names of tasks in those, the most frequent first


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """
    One queue in the broker; also one that the app does not declare, where the broker lists it.

    Attributes:
        exists: False: the app uses it, and the broker has no such queue.
        kind: ``"list"``, ``"classic"``, ``"quorum"`` or ``"stream"``.
        exchange_type: Of the exchange of the same name.
        arguments: As the broker has it.
        oldest: Age in seconds of the message that waits longest.
        grew: Messages more at a second look.
        taken: Messages that consumers took between the two looks.
        redeliveries: Of these, how many were delivered before; each second.
    """

    name: str
    exists: bool = True
    kind: str | None = None
    depth: int | None = None
    unacked: int | None = None
    consumers: int | None = None
    exchange_type: str | None = None
    arguments: Mapping[str, Any] | None = None
    oldest: float | None = None
    grew: int | None = None
    taken: int | None = None
    redeliveries: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """
    One worker that answered.

    Attributes:
        name: ``celery@host``.
        server: `RedisServer.identity` of its broker.
        database: As of `Place`; only a worker with our control command tells.
        prefix: Kombu's ``global_keyprefix``; likewise.
        digests: Of the code of its tasks, by name; likewise.
        accepts: Content types, such as ``application/json``.
        longest_run: Seconds that its oldest running job has run.
        reserved: Jobs that it holds and does not run, those that wait for an ETA left out.
        conf: Effective settings without addresses or passwords.
        clock_ahead: Seconds that its clock is ahead of this process's.
    """

    name: str
    queues: frozenset[str] | None = None
    tasks: frozenset[str] | None = None
    pool: str | None = None
    concurrency: int | None = None
    prefetch: int | None = None
    server: str | None = None
    database: str | None = None
    prefix: str | None = None
    digests: Mapping[str, str] | None = None
    accepts: frozenset[str] | None = None
    has_heartbeat: bool | None = None
    longest_run: float | None = None
    reserved: int | None = None
    releases: Mapping[str, str] | None = None
    conf: Mapping[str, Any] | None = None
    clock_ahead: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """
    All that is known when the checks begin.

    Attributes:
        broker, backend, store: The servers; None: not tried, or not used by the app.
        unacked: Of a Redis broker.
        workers: Empty: nobody answered. None: nobody could be asked.
        gaps: What could not be looked at, and why.
    """

    settings: Settings
    broker: Link | None = None
    backend: Link | None = None
    store: Link | None = None
    unacked: Unacked | None = None
    queues: tuple[Queue, ...] | None = None
    workers: tuple[Worker, ...] | None = None
    gaps: tuple[Gap, ...] = ()
