"""What the doctor asks of servers and workers (I/O); the checks judge the answers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from reliable_tasks.doctor.facts import Facts, Gap, Link, Place, Settings
from reliable_tasks.doctor.probes.bounded import NoAnswer, ask, ask_all
from reliable_tasks.doctor.probes.living import Living, probe_living
from reliable_tasks.doctor.probes.reach import said_of
from reliable_tasks.doctor.probes.servers import Probed, probe_backend, probe_broker, probe_store

__all__ = ("probe",)

FOR_SERVERS, FOR_THE_LIVING = 4.0, 4.0  # times the time for one answer


def probe(app: Any, settings: Settings, *, timeout: float = 2.0) -> Facts:
    """
    Ask the app's servers and workers.

    Takes no message, and leaves no more behind than `celery inspect` does.

    Args:
        app: The Celery app.
        settings: What it says of itself.
        timeout: Seconds for one answer. The whole takes less than eight times as long.
    """
    probes = {
        "the broker": probe_broker,
        "the result backend": probe_backend,
        "the store": probe_store,
    }
    questions = [partial(each, app, settings, timeout) for each in probes.values()]
    answers = ask_all(questions, seconds=FOR_SERVERS * timeout)
    places = (settings.broker, settings.backend, settings.store)
    broker, backend, store = map(_read, probes, places, answers)
    living = _living(app, settings, broker[0], timeout)
    return Facts(
        settings=settings,
        broker=_with_alarms(broker[0], living),
        backend=backend[0],
        store=store[0],
        unacked=living.unacked,
        queues=living.queues,
        workers=living.workers,
        gaps=(*settings.gaps, *broker[1], *backend[1], *store[1], *living.gaps),
    )


def _read(what: str, place: Place | None, answer: Probed | BaseException) -> Probed:
    if isinstance(answer, NoAnswer) and place is not None:
        return Link(place=place, trouble="silent", detail=str(answer)), []
    if isinstance(answer, BaseException):
        return None, [Gap(what, said_of(answer))]
    return answer


def _with_alarms(link: Link | None, living: Living) -> Link | None:
    """Add to a RabbitMQ why it takes no messages."""
    if link is None or link.rabbit is None or living.alarms is None:
        return link
    rabbit = replace(link.rabbit, alarms=living.alarms, managed=living.is_managed)
    return replace(link, rabbit=rabbit)


def _living(app: Any, settings: Settings, broker: Link | None, timeout: float) -> Living:
    """Look at queues and workers, unless the broker cannot be used."""
    living = Living()
    if broker is None or broker.trouble is not None:
        why = "the broker cannot be asked" if broker is None else "the broker cannot be used"
        living.gaps = [Gap(what, why) for what in ("queues", "workers")]
        return living
    server = broker.redis.identity if broker.redis is not None else None
    question = partial(probe_living, app, settings, server, timeout, living)
    try:
        ask(question, seconds=FOR_THE_LIVING * timeout)
    except Exception as error:  # whatever kombu and its drivers raise
        living.gaps.append(Gap("queues and workers", said_of(error)))
    return living
