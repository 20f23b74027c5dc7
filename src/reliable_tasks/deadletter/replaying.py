"""
A dead letter back into the broker, once.

The steps: nobody else replays it; the record lets its job run again; the message is published; the
letter is taken off. Whoever repeats them after a crash does no harm. A guarded task's message has a
place among those of its job that comes from the letter, so a second one is a copy like any other.
A message of any other task names its publication, and `retry_task` lets only one of them run.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from time import monotonic, sleep
from typing import Any

from celery.app.amqp import task_message
from celery.app.task import Context

from reliable_tasks.core.defaults import GUARDED
from reliable_tasks.core.durations import HOPS_PER_REPLAY
from reliable_tasks.core.header import NAME, Header
from reliable_tasks.core.keys import replay_key
from reliable_tasks.core.records import Finished, Granted, Outcome, State
from reliable_tasks.core.store import Store
from reliable_tasks.deadletter.copies import NO_END_OF_DEATHS, REPLAY_HEADER, WEEK_MS
from reliable_tasks.deadletter.letters import (
    RETRY_HEADER,
    Letter,
    Standing,
    header_in,
    line_in,
)
from reliable_tasks.deadletter.shelves import Kept, operator
from reliable_tasks.errors import ConfigurationError, StoreUnavailable

__all__ = ("Replay", "replay", "replay_all")

logger = logging.getLogger("reliable_tasks")

LEASE_MS = 60_000  # how long an operator who died keeps others from a letter
_OF_THIS_RUN = {"retries": 0, "eta": None, "expires": None}
_OF_EARLIER_RUNS = (RETRY_HEADER, REPLAY_HEADER, "redelivered")

_fresh = random.SystemRandom()


class Replay(StrEnum):
    """What became of a letter."""

    PUBLISHED = "published"
    """The job is in the broker."""
    TAKEN_OFF = "taken off"
    """An earlier replay had published it, and died before it took the letter off."""
    ELSEWHERE = "elsewhere"
    """Somebody else is replaying it, or was a minute ago; the letter stays."""
    GOES_ON = "goes on"
    """The job runs, waits for its retry, or was published again since; the letter stays."""
    GONE = "gone"
    """The letter was thrown away, or a later one of the job took its place."""


def replay(app: Any, kept: Kept, *, queue: str | None = None) -> Replay:
    """
    Let the job of a letter run again, with a fresh count of attempts and deaths.

    Args:
        app: The Celery app.
        kept: From `shelves.find`.
        queue: Where to; where it came from if left out.

    Raises:
        ConfigurationError: The app has no *queue*, and makes none; nothing was done.
        StoreUnavailable: Repeat it.
        Exception: The message could not be published; repeat it. The letter stays.
    """
    letter, store = kept.letter, kept.store
    key = replay_key(kept.shelf.prefix, letter.id, letter.at_ms)
    mine = str(_fresh.getrandbits(62))
    answer = store.claim(
        key,
        delivery=mine,
        job=letter.id,
        line=0,
        lease_ms=LEASE_MS,
        horizon_ms=WEEK_MS,
        max_crashes=NO_END_OF_DEATHS,
    )
    if isinstance(answer, Finished):
        kept.take_off()
        return Replay.TAKEN_OFF
    if not isinstance(answer, Granted):
        return Replay.ELSEWHERE
    try:
        outcome = _publish_once(app, kept, mine, queue)
    except BaseException:
        with suppress(StoreUnavailable):  # else others wait for a minute
            _let_go(store, key, answer.token, letter.id, State.IDLE)
        raise
    is_over = outcome is Replay.PUBLISHED
    _let_go(store, key, answer.token, letter.id, State.DONE if is_over else State.IDLE)
    if is_over:
        kept.take_off()
    return outcome


def _let_go(store: Store, key: str, token: int, job: str, state: State) -> None:
    outcome = Outcome(state)
    store.settle(key, token=token, job=job, line=0, outcome=outcome, horizon_ms=WEEK_MS)


def replay_all(
    app: Any,
    letters: Iterable[Kept],
    *,
    queue: str | None = None,
    per_second: float | None = None,
    sleep: Callable[[float], None] = sleep,
) -> Iterator[tuple[Kept, Replay]]:
    """
    Replay one letter after the other, and yield what became of each.

    Args:
        app: The Celery app.
        letters: Those to replay.
        queue: As for `replay`.
        per_second: At most so many; None: as fast as it goes.
        sleep: Replaces `time.sleep` in tests.

    Raises:
        Exception: As `replay` does; the rest is left alone.
    """
    due = monotonic()
    for kept in letters:
        if per_second:
            sleep(max(0.0, due - monotonic()))
            due = max(due, monotonic()) + 1 / per_second
        yield kept, replay(app, kept, queue=queue)


def _publish_once(app: Any, kept: Kept, publication: str, queue: str | None) -> Replay:
    letter = kept.letter
    if not kept.is_there():
        return Replay.GONE
    route = _route(app, letter, queue)
    standing = _standing(app, letter)
    headers: dict[str, Any] = {REPLAY_HEADER: [1, letter.id, letter.at_ms, publication]}
    if standing is not None:
        line = standing.line + HOPS_PER_REPLAY
        records = getattr(app.tasks.get(letter.task), "records", kept.store)  # may be its own
        horizon_ms = _horizon_ms(app, letter.task)
        if not records.reopen(standing.key, job=letter.id, line=line, horizon_ms=horizon_ms):
            return Replay.GOES_ON
        own = header_in(letter.headers) or Header(letter.id)
        headers = {NAME: replace(own, hop=line, abandoned=(), turn=0).encode()}
    _publish(app, letter, headers, route)
    place = getattr(route.get("queue"), "name", route.get("queue")) or "its queue"
    logger.warning("Task %s[%s] was replayed to %s by %s",
                   letter.task, letter.id, place, operator())  # fmt: skip
    return Replay.PUBLISHED


def _standing(app: Any, letter: Letter) -> Standing | None:
    """Return record and line of a guarded job, also of a message that no worker could take."""
    task = app.tasks.get(letter.task)
    if letter.standing is not None or not hasattr(task, "identity_of"):
        return letter.standing
    request = Context(id=letter.id, headers=letter.headers)
    try:
        args, kwargs, _ = letter.content(app.conf.accept_content)
        identity = task.identity_of(request, args, kwargs)
    except Exception:  # what nobody could read has never run, and needs no word
        return None
    return Standing(identity.key, line_in(letter.headers, identity.header))


def _horizon_ms(app: Any, name: str) -> int:
    task = app.tasks.get(name)
    if hasattr(task, "guard_options"):
        horizon_ms: int = task.guard_options.horizon_ms
        return horizon_ms
    return int(GUARDED["redelivery_horizon"] * 1_000)


def _route(app: Any, letter: Letter, queue: str | None) -> dict[str, Any]:
    name = queue or letter.queue
    if name not in app.amqp.queues and not app.conf.task_create_missing_queues:
        if queue is not None:
            raise ConfigurationError(
                f"queue: expected one of the app's ({', '.join(sorted(app.amqp.queues))}), got "
                f"{queue!r}. Declare it in task_queues, or with queues= of the preset, and start a "
                "worker that reads it"
            )
        name = None  # the app has been told of other queues since
    return dict(app.amqp.router.route({"queue": name} if name else {}, letter.task))


def _publish(
    app: Any, letter: Letter, headers: Mapping[str, Any], route: Mapping[str, Any]
) -> None:
    kept = {name: each for name, each in letter.headers.items() if name not in _OF_EARLIER_RUNS}
    properties = {name: each for name, each in letter.properties.items() if each is not None}
    message = task_message(
        headers={**kept, **_OF_THIS_RUN, **headers},
        properties=properties,
        body=letter.body,
        sent_event=None,
    )
    with app.producer_or_acquire() as producer:
        app.amqp.send_task_message(
            producer,
            letter.task,
            message,
            content_type=letter.content_type,
            content_encoding=letter.content_encoding,
            **route,
        )
