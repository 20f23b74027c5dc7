"""What workers answer; those that look at another place of the same Redis included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any

from kombu.serialization import registry

from reliable_tasks.doctor.facts import Gap, Worker
from reliable_tasks.inspectable import COMMAND, FORMAT, MARK, SETTINGS

__all__ = ("workers_at",)

LATE = 1.0  # seconds; before Kombu 5.6 an answer waits for the end of the last look for one
PLAIN_COMMANDS = ("active_queues", "registered", "conf", "active", "reserved")
Replies = dict[str, Any]


@dataclass(slots=True)
class Crowd:
    """All workers that hear one app."""

    app: Any
    connection: Any
    window: float  # seconds in which they must answer
    gaps: list[Gap] = field(default_factory=list)
    arrived: dict[str, float] = field(default_factory=dict)  # of the last answers, by our clock

    def ask(self, command: str, nodes: Iterable[str] | None = None) -> Replies:
        """
        Return what each worker answers to a command of `celery inspect`.

        Args:
            command: Its name.
            nodes: Whom to ask, and to wait for; None: everybody, for as long as they may take.
        """
        if nodes is None:
            return self._sound(self._replies(None, command, self.window))
        missing, found, end = set(nodes), Replies(), monotonic() + self.window + LATE
        while missing and (left := end - monotonic()) > 0:
            # Kombu counts late answers to an earlier question as if they were to this one.
            found |= self._replies(sorted(missing), command, left)
            missing -= found.keys()
        self.gaps += [Gap(f"{command} of {name}", "no answer in time") for name in sorted(missing)]
        return self._sound(found)

    def _replies(self, nodes: list[str] | None, command: str, window: float) -> Replies:
        mailbox = self.app.control.mailbox(self.connection)
        mailbox.producer_pool = None  # else it asks by the app's connection, which may hang
        terms = {"timeout": window, "callback": self._note_arrival}
        if nodes is None:
            replies = mailbox.multi_call(command, **terms)
        else:
            replies = mailbox.call(nodes, command, **terms)
        return {name: answer for reply in replies or () for name, answer in reply.items()}

    def _sound(self, found: Replies) -> Replies:
        """Leave out the answers that say that there is none."""
        bad = {name: answer for name, answer in found.items() if _is_error(answer)}
        self.gaps += [Gap(f"an answer of {name}", each["error"]) for name, each in bad.items()]
        return {name: answer for name, answer in found.items() if name not in bad}

    def _note_arrival(self, reply: Replies) -> None:
        self.arrived.update(dict.fromkeys(reply, time()))


def workers_at(
    connection: Any, app: Any, server: str | None, window: float
) -> tuple[list[Worker], list[Gap]]:
    """
    Return the workers that answer to *app*, and what they could not be asked.

    Args:
        connection: Kombu's; where they are asked.
        app: The Celery app.
        server: `RedisServer.identity` of the broker, through which they answer.
        window: Seconds in which a worker must answer.
    """
    crowd = Crowd(app, connection, window)
    stats = crowd.ask("stats")
    begun = time()
    answers = crowd.ask(COMMAND, [name for name, each in stats.items() if MARK in each])
    told = {name: about for name, about in answers.items() if about.get("format") == FORMAT}
    arrived = dict(crowd.arrived)
    found = [
        *_plain(crowd, stats, stats.keys() - told.keys(), server),
        *(
            _worker(name, about, stats[name], server, about["now"] - (begun + arrived[name]) / 2)
            for name, about in told.items()
        ),
    ]
    return sorted(found, key=lambda worker: worker.name), crowd.gaps


def _worker(
    name: str, about: Mapping[str, Any], stats: Mapping[str, Any], server: str | None, ahead: float
) -> Worker:
    broker = about["broker"]
    options = broker.get("options") or {}
    return Worker(
        name=name,
        queues=frozenset(about["queues"]),
        tasks=frozenset(about["tasks"]),
        pool=about["pool"],
        concurrency=about["concurrency"],
        prefetch=_whole(stats.get("prefetch_count")),
        server=server,
        database=broker["virtual_host"],
        prefix=str(options.get("global_keyprefix") or ""),
        digests={task: digest for task, digest in about["tasks"].items() if digest},
        accepts=frozenset(about["accept"]),
        has_heartbeat=about["heartbeat"],
        longest_run=about["longest_run"],
        reserved=about["reserved"],
        releases=about["versions"],
        conf={**about["settings"], **_transport(options)},
        clock_ahead=ahead,
    )


def _plain(
    crowd: Crowd, stats: Replies, nodes: Iterable[str], server: str | None
) -> Iterator[Worker]:
    """Ask those that know Celery's own commands alone."""
    names = sorted(nodes)
    if not names:
        return
    crowd.gaps.append(
        Gap(
            f"code, clock and releases of {', '.join(names)}",
            "only a worker of this release, whose app was given to setup, tells them",
        )
    )
    answers = {command: crowd.ask(command, names) for command in PLAIN_COMMANDS}
    for name in names:
        own = {command: replies.get(name) for command, replies in answers.items()}
        yield _plain_worker(name, own, stats[name], server)


def _plain_worker(
    name: str, own: Mapping[str, Any], stats: Mapping[str, Any], server: str | None
) -> Worker:
    broker = stats.get("broker") or {}
    options = broker.get("transport_options") or {}
    queues, tasks = own["active_queues"], own["registered"]
    pool = stats.get("pool") or {}
    return Worker(
        name=name,
        queues=None if queues is None else frozenset(queue["name"] for queue in queues),
        tasks=None if tasks is None else frozenset(task.split(" ")[0] for task in tasks),
        pool=_pool(pool.get("implementation")),
        concurrency=_whole(pool.get("max-concurrency")),
        prefetch=_whole(stats.get("prefetch_count")),
        server=server,
        database=_database(broker),
        prefix=str(options.get("global_keyprefix") or ""),
        accepts=_accepts(own["conf"]),
        has_heartbeat=None if MARK in stats else False,  # of another release of ours
        longest_run=_longest_run(own["active"]),
        reserved=None if own["reserved"] is None else len(own["reserved"]),
        conf=_conf(own["conf"], options),
    )


def _conf(conf: Mapping[str, Any] | None, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what is compared of what a worker sets; what it leaves at its default is not told."""
    if conf is None:
        return None
    return {**{name: conf[name] for name in SETTINGS if name in conf}, **_transport(options)}


def _accepts(conf: Mapping[str, Any] | None) -> frozenset[str] | None:
    """Return the content types that a worker takes by its settings; JSON if they say nothing."""
    if conf is None:
        return None
    names = conf.get("accept_content") or ["json"]
    return frozenset(registry.name_to_type.get(name, name) for name in names)


def _transport(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the one option of the transport that workers are compared by."""
    kept = {name: options[name] for name in ("visibility_timeout",) if name in options}
    return {"broker_transport_options": kept}


def _database(broker: Mapping[str, Any]) -> str | None:
    """Return the database as `Place` has it; None where Kombu alone can read the address."""
    if broker.get("transport") == "redis":
        return str(broker.get("virtual_host") or "0").strip("/") or "0"
    return broker.get("virtual_host") if "amqp" in str(broker.get("transport")) else None


def _longest_run(active: Iterable[Mapping[str, Any]] | None) -> float | None:
    begun = [each["time_start"] for each in active or () if each.get("time_start")]
    return time() - min(begun) if begun else None


def _pool(implementation: Any) -> str | None:
    """Return the name that ``--pool`` takes, from ``celery.concurrency.prefork:TaskPool``."""
    return str(implementation).partition(":")[0].rpartition(".")[2] if implementation else None


def _whole(value: Any) -> int | None:
    with suppress(TypeError, ValueError):
        return int(value)
    return None


def _is_error(answer: Any) -> bool:
    return isinstance(answer, Mapping) and set(answer) == {"error"}
