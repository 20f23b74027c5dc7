"""Queues, routes and the schedule: whether what is published is read (pure)."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from reliable_tasks.doctor.checks.kit import (
    RABBITMQ,
    asked,
    check,
    is_elsewhere,
    longest,
    named,
    on_rabbitmq,
    queue_named,
    rabbit_tells,
    readers,
    workers_tell,
)
from reliable_tasks.doctor.facts import Declared, Facts, Queue
from reliable_tasks.doctor.findings import ERROR, INFO, QUEUES, WARNING, Found
from reliable_tasks.doctor.versions import is_at_least
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.presets.rules import check_delivery_limit, check_routing_keys

__all__ = ("CHECKS",)

ALIKE = 0.7  # from 0 to 1; of four letters two may have changed places
LIKELY = 0.8  # of the names of tasks, which often have a module in common
CELERYS_OWN = re.compile(r"celery_delayed_|celeryev|.*\.celery\.pidbox$|.*\.reply\.celery")
NEW_NAME = "presets.rabbitmq(url, queues=(...))  # a new name: RabbitMQ never changes a queue"


def _uses(facts: Facts) -> dict[str, str]:
    """Return each queue that something goes to, and what that is."""
    uses: dict[str, str] = {}
    for queue in facts.queues or ():
        if queue.depth:
            uses[queue.name] = f"{queue.depth} messages wait"
    for entry in facts.settings.entries:
        if entry.queue:
            uses[entry.queue] = f"beat's entry {entry.name}"
    by_queue: dict[str, list[str]] = {}
    for task in facts.settings.tasks:
        if task.queue:
            by_queue.setdefault(task.queue, []).append(task.name)
    return uses | {queue: f"tasks: {named(tasks)}" for queue, tasks in by_queue.items()}


def _unread(facts: Facts) -> dict[str, str]:
    """Return the queues that something goes to and nobody reads; none where that is not known."""
    here = [worker for worker in facts.workers or () if not is_elsewhere(worker, facts)]
    if not here or any(worker.queues is None for worker in here):
        return {}
    left_unread = _dead_letters(facts.settings.declared)
    return {
        queue: use
        for queue, use in _uses(facts).items()
        if not readers(queue, facts)
        and not _has_consumers(queue_named(queue, facts))
        and queue not in left_unread
        and not CELERYS_OWN.match(queue)
    }


def _has_consumers(queue: Queue | None) -> bool:
    return queue is not None and bool(queue.consumers)


def _dead_letters(declared: Iterable[Declared]) -> set[str]:
    names = (queue.arguments.get("x-dead-letter-routing-key") for queue in declared)
    return {str(name) for name in names if name}


def _nearest(queue: str, others: Iterable[str]) -> str | None:
    """Return the name among *others* that was meant; two that differ in digits are two names."""
    names = [name for name in others if re.sub(r"\d", "", name) != re.sub(r"\d", "", queue)]
    return next(iter(difflib.get_close_matches(queue, names, n=1, cutoff=ALIKE)), None)


def _misspelt(facts: Facts) -> Mapping[str, str]:
    """Return the queues that nobody reads for a slip, with the name that was meant."""
    settings = facts.settings
    known = {queue.name for queue in settings.declared}
    found: dict[str, str] = {}
    if not facts.workers and settings.names_queues:
        for queue in set(_uses(facts)) - known:
            if near := _nearest(queue, known):
                found[queue] = near
    read = {name for worker in facts.workers or () for name in worker.queues or ()}
    for queue in _unread(facts):
        odd = read - known - set(_uses(facts))
        if near := _nearest(queue, odd if queue in known else known | read):
            found[queue] = near
    return found


@check(
    "queue-unread",
    severity=ERROR,
    topic=QUEUES,
    title="Jobs go to a queue that no worker reads.",
    why="They wait for ever: Celery makes the queue, takes the message, and says nothing.",
    fix="celery -A proj worker --queues celery,NAME  # or route its tasks to a queue that is read",
    knows=workers_tell("queues"),
)
def unread(facts: Facts) -> Iterator[Found]:
    """Compare where calls go, and where messages wait, with what workers read."""
    misspelt = _misspelt(facts)
    for queue, use in sorted(_unread(facts).items()):
        if queue not in misspelt:
            yield Found(
                f"{queue} ({use})", fix=f"celery -A proj worker --queues {_with(queue, facts)}"
            )


def _with(queue: str, facts: Facts) -> str:
    read = {name for worker in facts.workers or () for name in worker.queues or ()}
    return shlex.quote(",".join([*sorted(read), queue]))


@check(
    "queue-misspelt",
    severity=ERROR,
    topic=QUEUES,
    title="The name of a queue looks like a typo.",
    why="Celery makes a queue of any name. Jobs in one that nobody reads wait for ever.",
    fix="app.conf.task_routes = {...}  # correct the name, where it is published or at --queues\n"
    "app.conf.task_create_missing_queues = False  # the next typo is an error",
    knows=workers_tell("queues"),
)
def misspelt(facts: Facts) -> Iterator[Found]:
    """Say which name was meant."""
    uses = _uses(facts)
    for queue, near in sorted(_misspelt(facts).items()):
        yield Found(f"{queue} ({uses.get(queue, 'unread')}); did you mean {near}?")


@check(
    "queue-undeclared",
    severity=WARNING,
    topic=QUEUES,
    title="Calls go to a queue that task_queues does not name.",
    why="A worker reads the queues in task_queues, unless --queues names others.",
    fix='app.conf.task_queues["NAME"] = {"exchange": "NAME", "routing_key": "NAME"}',
)
def undeclared(facts: Facts) -> Iterator[Found]:
    """Compare calls with task_queues, where no worker can be asked what it reads."""
    settings = facts.settings
    if facts.workers is not None or not settings.names_queues:
        return
    known, slips = {queue.name for queue in settings.declared}, _misspelt(facts)
    for queue, use in sorted(_uses(facts).items()):
        if queue not in known and queue not in slips:
            yield Found(
                f"{queue} ({use})",
                fix=f"app.conf.task_queues[{queue!r}] = "
                f"{{'exchange': {queue!r}, 'routing_key': {queue!r}}}",
            )


@check(
    "route-nowhere",
    severity=ERROR,
    topic=QUEUES,
    title="A task's route leads to no queue.",
    why="Each call of it raises QueueNotFound. To Redis, a call by exchange and routing key is "
    "lost without a word, unless it is made in a worker: Kombu takes an exchange for a direct one.",
    fix='app.conf.task_queues["NAME"] = {"exchange": "NAME", "routing_key": "NAME"}',
)
def route(facts: Facts) -> Iterator[Found]:
    """Follow every route."""
    for task in facts.settings.tasks:
        if task.nowhere:
            yield Found(f"{task.name}: {task.nowhere}")


@check(
    "schedule-nowhere",
    severity=ERROR,
    topic=QUEUES,
    title="An entry of beat's schedule leads nowhere.",
    why="Beat publishes by name: it does not know whether the task exists. A worker drops what it "
    "does not know, with a line in its log.",
    fix='app.conf.beat_schedule["ENTRY"]["task"] = "NAME"  # as `celery inspect registered` has it',
)
def schedule(facts: Facts) -> Iterator[Found]:
    """Follow every entry: to a task, and to a queue."""
    own = {task.name for task in facts.settings.tasks}
    known = own | {name for worker in facts.workers or () for name in worker.tasks or ()}
    asked = bool(facts.workers) and all(each.tasks is not None for each in facts.workers or ())
    for entry in facts.settings.entries:
        if entry.nowhere:
            yield Found(f"{entry.name}: {entry.nowhere}")
        elif entry.task not in known and not entry.task.startswith("celery."):
            near = difflib.get_close_matches(entry.task, known, n=1, cutoff=LIKELY)
            who = "no worker nor this app" if asked else "this app does not"
            yield Found(
                f"{entry.name}: {who} know{'s' if asked else ''} a task {entry.task}"
                + (f"; did you mean {near[0]}?" if near else ""),
                fix=f"app.conf.beat_schedule[{entry.name!r}]['task'] = "
                f"{near[0] if near else 'NAME'!r}",
                severity=ERROR if asked else WARNING,
            )


@check(
    "queues-made-on-typo",
    severity=INFO,
    topic=QUEUES,
    title="A typo in a queue's name makes a new queue.",
    why="Its jobs wait for ever, for nobody reads it. With the setting off it is an error where "
    "the task is called.",
    fix='app.conf.task_queues = {"celery": {"exchange": "celery", "routing_key": "celery"}}\n'
    "app.conf.task_create_missing_queues = False",
)
def made_on_typo(facts: Facts) -> Iterator[Found]:
    """Look at task_create_missing_queues."""
    if facts.settings.conf.get("task_create_missing_queues"):
        yield Found("task_create_missing_queues = True")


def _knows_what_was_taken(facts: Facts) -> bool:
    growing_ones = [queue for queue in facts.queues or () if (queue.grew or 0) > 0]
    is_known = all(queue.taken is not None for queue in growing_ones)
    return facts.queues is not None and facts.workers is not None and is_known


@check(
    "queue-growing",
    severity=ERROR,
    topic=QUEUES,
    title="A queue grows, and nothing is taken from it.",
    why="Workers read it and take nothing: their slots are held, they are paused, or their loop is "
    "wedged.",
    fix="celery -A proj inspect active  # what holds the slots; then restart the worker",
    knows=_knows_what_was_taken,
)
def growing(facts: Facts) -> Iterator[Found]:
    """Compare two looks a moment apart."""
    if facts.workers == ():
        return  # which is the reason
    unread_ones = _unread(facts)
    for queue in facts.queues or ():
        if (queue.grew or 0) <= 0 or queue.taken != 0 or queue.name in unread_ones:
            continue
        value = f"{queue.name}: {queue.depth} messages, {queue.grew} more at a second look"
        busy_for = _busy_for(queue.name, facts)
        if busy_for is None:
            yield Found(value)
        else:
            yield Found(
                f"{value}; a job runs for {busy_for:.0f} s",
                title="A queue grows while its workers are busy.",
                fix="celery -A proj worker  # one more, if this goes on",
                severity=INFO,
            )


def _busy_for(queue: str, facts: Facts) -> float | None:
    """Return for how long the readers of a queue have worked; None if they do nothing, or hang."""
    runs = [worker.longest_run for worker in readers(queue, facts) if worker.longest_run]
    limit = longest(facts.settings.tasks)
    is_hung = bool(limit) and max(runs, default=0) > limit
    return None if not runs or is_hung else max(runs)


@check(
    "queue-kind",
    severity=ERROR,
    topic=QUEUES,
    title="A queue is of another type than the app declares.",
    why="RabbitMQ answers 406 PRECONDITION_FAILED, and the worker cannot consume: jobs are stuck. "
    "A classic queue is on one machine, and countdowns wait inside of workers.",
    fix=NEW_NAME,
    knows=on_rabbitmq(asked("queues")),
)
def kind(facts: Facts) -> Iterator[Found]:
    """Compare types."""
    for declared, queue in _pairs(facts):
        if _is_of_other_kind(declared, queue):
            yield Found(f"{queue.name}: {queue.kind}, declared as {_kind_of(declared)}")


def _kind_of(declared: Declared) -> str:
    return str(declared.arguments.get("x-queue-type", "classic"))


def _is_of_other_kind(declared: Declared, queue: Queue) -> bool:
    return queue.kind not in (None, _kind_of(declared))


@check(
    "queue-arguments",
    severity=ERROR,
    topic=QUEUES,
    title="A queue has other arguments than the app declares.",
    why="RabbitMQ answers 406 PRECONDITION_FAILED, and the worker cannot consume: jobs are stuck.",
    fix=NEW_NAME,
    knows=on_rabbitmq(asked("queues")),
)
def arguments(facts: Facts) -> Iterator[Found]:
    """Compare arguments."""
    for declared, queue in _pairs(facts):
        if queue.arguments is None or _is_of_other_kind(declared, queue):
            continue  # a queue of another type has other arguments
        for name in sorted({*declared.arguments, *queue.arguments} - {"x-queue-type"}):
            here, there = declared.arguments.get(name), queue.arguments.get(name)
            if here != there:
                yield Found(f"{queue.name}: {name} is {there!r}, declared as {here!r}")


def _pairs(facts: Facts) -> Iterator[tuple[Declared, Queue]]:
    """Yield each declared queue of RabbitMQ with what the broker has under its name."""
    if facts.settings.broker.kind != RABBITMQ:
        return
    for declared in facts.settings.declared:
        queue = queue_named(declared.name, facts)
        if queue is not None and queue.exists:
            yield declared, queue


@check(
    "exchange-direct",
    severity=WARNING,
    topic=QUEUES,
    title="A quorum queue is behind a direct exchange.",
    why="Delayed delivery needs a topic exchange. Behind a direct one a job with a countdown or "
    "ETA sits in a worker, and enough of them keep it from taking anything else.",
    fix='app.conf.task_default_exchange_type = "topic"\n'
    'app.conf.task_queues["NAME"]["exchange_type"] = "topic"  # with a new name of exchange',
)
def direct(facts: Facts) -> Iterator[Found]:
    """Compare the types of exchanges, declared and found."""
    for queue in facts.settings.declared:
        if queue.is_quorum and queue.exchange_type == "direct":
            yield Found(f"{queue.name}: declared with a direct exchange")
    for queue, found in _pairs(facts):
        if found.exchange_type not in (None, queue.exchange_type):
            yield Found(
                f"{queue.name}: its exchange is a {found.exchange_type} one, declared as "
                f"{queue.exchange_type}",
                title="An exchange is of another type than the app declares.",
                severity=ERROR,
            )


@check(
    "routing-keys-overlap",
    severity=ERROR,
    topic=QUEUES,
    title="Two queues get each other's countdowns.",
    why="Delayed delivery finds a queue by the end of the routing key: the job runs twice.",
    fix="presets.rabbitmq(url, queues=(...))  # no name that ends in a dot and another one",
)
def overlap(facts: Facts) -> Iterator[Found]:
    """Compare names of quorum queues, by the presets' rule."""
    names = [queue.name for queue in facts.settings.declared if queue.is_quorum]
    try:
        check_routing_keys(names)
    except ConfigurationError as error:
        yield Found(str(error))


@check(
    "delivery-limit-low",
    severity=WARNING,
    topic=QUEUES,
    title="RabbitMQ gives a message up before IdempotentTask counts its deaths.",
    why="The job is taken away before it is quarantined, for no reason that anybody is told.",
    fix='app.conf.task_queues["NAME"]["queue_arguments"]["x-delivery-limit"] = 100',
)
def limit_low(facts: Facts) -> Iterator[Found]:
    """Compare x-delivery-limit with max_crashes, by the presets' rule."""
    crashes = [task.guarded.max_crashes for task in facts.settings.tasks if task.guarded]
    for queue in facts.settings.declared:
        limit = queue.arguments.get("x-delivery-limit")
        if crashes and queue.is_quorum and isinstance(limit, int):
            try:
                check_delivery_limit(limit, max(crashes))
            except ConfigurationError as error:
                yield Found(f"{queue.name}: {error}")


@check(
    "delivery-limit-drops",
    severity=WARNING,
    topic=QUEUES,
    title="RabbitMQ drops a message after 20 deliveries.",
    why="So RabbitMQ 4 does with a quorum queue that has no dead-letter exchange. A deploy, a cut "
    "connection and an outage are deliveries too.",
    fix='app.conf.task_queues["NAME"]["queue_arguments"].update({"x-delivery-limit": 100,\n'
    '    "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "NAME.dead"})',
    knows=rabbit_tells("version"),
)
def limit_drops(facts: Facts) -> Iterator[Found]:
    """Look for quorum queues of RabbitMQ 4 without dead letters."""
    rabbit = facts.broker.rabbit if facts.broker is not None else None
    if rabbit is None or not is_at_least(rabbit.version, 4):
        return
    for queue in facts.settings.declared:
        if queue.is_quorum and "x-dead-letter-exchange" not in queue.arguments:
            yield Found(f"{queue.name}, RabbitMQ {rabbit.version}")


CHECKS = (
    unread,
    misspelt,
    undeclared,
    route,
    schedule,
    made_on_typo,
    growing,
    kind,
    arguments,
    direct,
    overlap,
    limit_low,
    limit_drops,
)
