"""From what is known of a job to where it is, row by row."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from reliable_tasks.broker.view import QueueView, Sighting
from reliable_tasks.core.records import Fact, Record, State, Waiting
from reliable_tasks.inspection.why.evidence import (
    Ending,
    Evidence,
    Gap,
    Jot,
    Letter,
    RecordSeen,
    RequestSeen,
    Worker,
)
from reliable_tasks.inspection.why.reading import (
    ending_from,
    jots_from,
    letter_from,
    record_from,
    seconds_of,
)
from reliable_tasks.inspection.why.standings import Note, Standing
from reliable_tasks.inspection.why.verdict import judge
from reliable_tasks.inspection.why.words import (
    document_of,
    headline,
    line_of,
    remedy,
    sentence_of,
)

NOW = 1_795_284_000.0  # 2026-11-21 18:00:00 UTC
KEY = "rt1::shop.charge:@job"
NODE = "w1@host"
UNSEARCHED = Gap("broker", "RabbitMQ lets nobody look into a queue")


def iso(seconds: float) -> str:
    return f"2026-11-21T18:{int(seconds) // 60:02d}:{int(seconds) % 60:02d}+00:00"


def record(state: str = "", **known: Any) -> RecordSeen:
    return RecordSeen(key=KEY, state=state, **known)


def taken(state: str = "running", **known: Any) -> RecordSeen:
    """Return a record that another job has."""
    return record(holder="other", holder_state=state, until=NOW + 20, **known)


def queued(**known: Any) -> Sighting:
    return Sighting(**{"queue": "celery", "state": "queued", "ahead": 2, **known})


def held(state: Any = "unacked", **known: Any) -> Sighting:
    return Sighting(queue="celery", state=state, since=NOW - 5, **known)


def request(state: Any, **known: Any) -> RequestSeen:
    return RequestSeen(node=NODE, state=state, **known)


def jot(event: str, *, ago: float = 10.0, where: str = NODE, **details: Any) -> Jot:
    return Jot(NOW - ago, event, where, details)


def headers(hop: int = 0, **known: Any) -> dict[str, Any]:
    return {"id": "job", "reliable_tasks": [1, "job", None, None, hop, None], **known}


def attempts(attempt: int, due: float) -> dict[str, Any]:
    return headers(reliable_tasks_retry=[1, "job", attempt, NOW - 60, 10.0, due, []])


@dataclass
class Row:
    """What is known, and what is to be said of it."""

    seen: dict[str, Any]
    standing: Standing
    says: str
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


READERS = {"workers": (Worker(NODE, frozenset({"celery"})),)}
DEPTH = {"queues": (QueueView(name="celery", depth=7),)}

ROWS = {
    "runs, by the worker and the record": Row(
        {
            "requests": (request("active", pid=7, since=NOW - 30),),
            "record": record("running", until=NOW + 20, attempt=2, worker=NODE),
        },
        Standing.RUNNING,
        "It runs on w1@host (process 7), since 2026-11-21 17:59:30 UTC (30 s ago), attempt 2. "
        "Its lease lasts until 2026-11-21 18:00:20 UTC (in 20 s)",
    ),
    "runs, a plain task": Row(
        {"requests": (request("active", pid=7),)}, Standing.RUNNING, "It runs on w1@host"
    ),
    "runs twice": Row(
        {"requests": (request("active"), RequestSeen(node="w2@host", state="active"))},
        Standing.RUNNING,
        "It runs",
        notes=("runs-twice",),
    ),
    "runs on, though revoked": Row(
        {"requests": (request("active"),), "revoked_at": (NODE,)},
        Standing.RUNNING,
        "It runs",
        notes=("revoke-too-late",),
    ),
    "runs without renewing its lease": Row(
        {"requests": (request("active"),), "record": record("running", until=NOW - 3)},
        Standing.RUNNING,
        "It runs",
        notes=("lease-over",),
    ),
    "runs, by the record alone": Row(
        {"record": record("running", until=NOW + 20, worker=NODE, attempt=1)},
        Standing.RUNNING,
        "It runs on w1@host.",
        {"until": NOW + 20},
    ),
    "runs on a worker that is shutting down": Row(
        {"record": record("running", until=NOW + 20, is_draining=True)},
        Standing.RUNNING,
        "It runs on a worker that is not known by name.",
        notes=("draining",),
    ),
    "its worker lives and says no": Row(
        {
            "record": record("running", since=NOW - 9, until=NOW + 20, worker=NODE),
            "asked_at": NOW - 2,
            **READERS,
        },
        Standing.ABANDONED,
        "Its execution on w1@host ended without a word: the worker says that it does not run it. "
        "It is taken over in 20 s (2026-11-21 18:00:20 UTC), or later.",
        {"denied": True},
    ),
    "begun since its worker was asked": Row(
        {
            "record": record("running", since=NOW - 2.5, until=NOW + 20, worker=NODE),
            "asked_at": NOW - 2,
            **READERS,
        },
        Standing.RUNNING,
        "It runs on w1@host",
    ),
    "runs, but its worker is silent": Row(
        {"record": record("running", until=NOW + 20, worker="w9@host"), **READERS},
        Standing.RUNNING,
        "It runs on w9@host",
        notes=("worker-silent",),
    ),
    "died, and its message is held": Row(
        {
            "record": record("running", until=NOW - 3, worker=NODE),
            "sightings": (held(),),
            "visibility_timeout": 60.0,
        },
        Standing.ABANDONED,
        "Its execution on w1@host ended without a word: the lease was over 3 s ago "
        "(2026-11-21 17:59:57 UTC). Its message is delivered again in 55 s",
        {"redelivery_at": NOW + 55},
    ),
    "died, and a message waits": Row(
        {"record": record("running", until=NOW - 3), "sightings": (queued(ahead=0),)},
        Standing.ABANDONED,
        "A message of it waits in the queue celery, next in line, and takes it over.",
    ),
    "died, and RabbitMQ shows nothing": Row(
        {"record": record("running", until=NOW - 3), "gaps": (UNSEARCHED,)},
        Standing.ABANDONED,
        "No message of it was seen",
    ),
    "quarantined": Row(
        {"record": record("quarantined", crashes=3), "letter": Letter(reason="died", at=NOW)},
        Standing.QUARANTINED,
        "It is quarantined after 3 executions that ended without a word, and runs no more. Its "
        "message is among the dead letters.",
    ),
    "its key is quarantined": Row(
        {"record": taken("quarantined")},
        Standing.QUARANTINED,
        "Its key is quarantined, because of the job other.",
    ),
    "done": Row(
        {
            "record": record("done", replays=2, is_closed=True),
            "ending": Ending(status="SUCCESS", at=iso(0)),
        },
        Standing.DONE,
        "It is done, just now. Copies were answered with its result twice.",
        {"replays": 2},
    ),
    "done, and what hangs on it is unsent": Row(
        {"record": record("done", replays=1)}, Standing.DONE, "done", notes=("unfinished-replays",)
    ),
    "done, and a copy waits": Row(
        {"record": record("done"), "sightings": (queued(),), "is_guarded": True},
        Standing.DONE,
        "It is done.",
        notes=("copy-waits",),
    ),
    "done, by the backend": Row(
        {"ending": Ending(status="SUCCESS", at=iso(0), worker=NODE)},
        Standing.DONE,
        "It is done, just now, on w1@host.",
    ),
    "done, by the recorder": Row(
        {
            "jots": (
                jot("published"),
                jot("claimed", answer="granted"),
                jot("settled", state="done"),
            )
        },
        Standing.DONE,
        "It is done, 10 s ago (2026-11-21 17:59:50 UTC), on w1@host.",
    ),
    "done, by the recorder, a plain task": Row(
        {"jots": (jot("started"), jot("ended", state="SUCCESS"))}, Standing.DONE, "It is done"
    ),
    "failed": Row(
        {
            "record": record("failed"),
            "ending": Ending(status="FAILURE", error="GatewayDown", at=iso(0)),
        },
        Standing.FAILED,
        "It failed with GatewayDown, just now.",
    ),
    "failed, by the backend": Row(
        {"ending": Ending(status="FAILURE", error="ValueError")},
        Standing.FAILED,
        "It failed with ValueError.",
    ),
    "failed, by the recorder": Row(
        {"jots": (jot("ended", state="FAILURE"),)}, Standing.FAILED, "It failed, 10 s ago"
    ),
    "failed, and was published again": Row(
        {"ending": Ending(status="FAILURE", error="ValueError"), "sightings": (queued(),)},
        Standing.QUEUED,
        "It waits in the queue celery, behind 2 messages.",
    ),
    "given up": Row(
        {
            "ending": Ending(status="FAILURE", error="GatewayDown"),
            "letter": Letter(reason="attempts", at=NOW - 60),
        },
        Standing.DEAD_LETTER,
        "It was given up and is among the dead letters, since 2026-11-21 17:59:00 UTC (60 s ago): "
        "attempts.",
    ),
    "given up, by the recorder": Row(
        {"jots": (jot("dead-lettered", reason="stop"),)}, Standing.DEAD_LETTER, ": stop."
    ),
    "revoked before it began": Row(
        {"record": record("failed"), "ending": Ending(status="REVOKED", reason="revoked")},
        Standing.REVOKED,
        "It was revoked, and dropped unrun.",
    ),
    "revoked, where nobody can look for its message": Row(
        {"ending": Ending(status="REVOKED", reason="revoked"), "gaps": (UNSEARCHED,)},
        Standing.REVOKED,
        "It was revoked. Its message was dropped, or still waits and is dropped when it comes",
    ),
    "revoked while it ran": Row(
        {"ending": Ending(status="REVOKED", reason="terminated", at=iso(0))},
        Standing.REVOKED,
        "It was revoked, and terminated while it ran, just now.",
    ),
    "to be revoked": Row(
        {"revoked_at": (NODE,), "sightings": (queued(),), **READERS},
        Standing.REVOKED,
        "It was revoked: w1@host will drop its message when it comes.",
    ),
    "to be revoked, and stored already": Row(
        {
            "ending": Ending(status="REVOKED", reason="revoked"),
            "sightings": (queued(),),
            "revoked_at": (NODE,),
        },
        Standing.REVOKED,
        "It was revoked: w1@host will drop its message when it comes.",
    ),
    "revoked, and forgotten by restarted workers": Row(
        {
            "ending": Ending(status="REVOKED", reason="revoked"),
            "sightings": (queued(),),
            **READERS,
        },
        Standing.REVOKED,
        "It was revoked: a worker will drop its message when it comes.",
        notes=("revoke-forgotten",),
    ),
    "expired": Row(
        {"ending": Ending(status="REVOKED", reason="expired")},
        Standing.EXPIRED,
        "It expired before it began.",
    ),
    "expired, by the recorder": Row(
        {"jots": (jot("published"), jot("revoked", reason="expired"))},
        Standing.EXPIRED,
        "It expired before it began, 10 s ago",
    ),
    "expired, by the recorder, in RabbitMQ": Row(
        {
            "jots": (
                jot("published", ago=60, queue="celery", expires="2026-11-21T17:59:30+00:00"),
            ),
            "gaps": (UNSEARCHED,),
        },
        Standing.EXPIRED,
        "It expired before it began, 30 s ago (2026-11-21 17:59:30 UTC).",
    ),
    "queued, and too late": Row(
        {"sightings": (queued(headers={"expires": "2026-11-21T17:59:30+00:00"}),)},
        Standing.QUEUED,
        "It waits in the queue celery",
        notes=("too-late",),
    ),
    "replaced": Row(
        {"ending": Ending(status="REVOKED", reason="replaced")},
        Standing.REPLACED,
        "A later call of the same unique task took its place.",
    ),
    "dropped as unknown": Row(
        {"ending": Ending(status="FAILURE", error="NotRegistered", at=iso(0))},
        Standing.UNREGISTERED,
        "A worker does not know its task and dropped it, just now.",
    ),
    "dropped as unknown, by the recorder": Row(
        {"jots": (jot("published", where="web"), jot("unknown", task="shop.charge"))},
        Standing.UNREGISTERED,
        "A worker (w1@host) does not know its task and dropped it",
    ),
    "refused": Row(
        {"jots": (jot("published"), jot("rejected", reason="ContentDisallowed"))},
        Standing.REFUSED,
        "A worker (w1@host) refused its message, 10 s ago (2026-11-21 17:59:50 UTC): "
        "ContentDisallowed.",
    ),
    "dropped as unknown, and kept": Row(
        {"letter": Letter(reason="", at=NOW, is_refused=True, is_unknown=True)},
        Standing.UNREGISTERED,
        "A worker does not know its task and dropped it, just now.",
        notes=("kept-whole",),
    ),
    "refused, and kept": Row(
        {"letter": Letter(reason="ContentDisallowed: no pickle", at=NOW, is_refused=True)},
        Standing.REFUSED,
        "A worker refused its message, just now: ContentDisallowed: no pickle.",
        notes=("kept-whole",),
    ),
    "dropped as a duplicate": Row(
        {"record": taken(), "jots": (jot("published"), jot("deduplicated", reason="running"))},
        Standing.DUPLICATE,
        "It was dropped as a duplicate 10 s ago (2026-11-21 17:59:50 UTC): the job other of its "
        "key ran.",
    ),
    "retrying": Row(
        {
            "record": record("retrying", attempt=1, until=NOW + 60),
            "sightings": (held("scheduled", headers=attempts(2, NOW + 30), eta=iso(10)),),
            "requests": (request("scheduled"),),
        },
        Standing.RETRYING,
        "It is tried again: attempt 2 in 30 s (2026-11-21 18:00:30 UTC); its message waits on "
        "w1@host.",
        {"attempt": 2, "next_at": NOW + 30},
    ),
    "retrying, by the record and the recorder": Row(
        {
            "record": record("retrying", attempt=3, until=NOW + 60),
            "jots": (jot("retrying", attempt=3, wait=40.0),),
            "gaps": (UNSEARCHED,),
        },
        Standing.RETRYING,
        "It is tried again: attempt 4 in 30 s (2026-11-21 18:00:30 UTC).",
    ),
    "retrying, by the record alone": Row(
        {"record": record("retrying", attempt=3, until=NOW + 60)},
        Standing.RETRYING,
        "It is tried again: attempt 4 by 2026-11-21 18:01:00 UTC (in 60 s).",
    ),
    "retrying, a plain task": Row(
        {"sightings": (held("scheduled", headers={"retries": 2}, eta=iso(20)),)},
        Standing.RETRYING,
        "It is tried again: attempt 3 in 20 s",
    ),
    "retrying in a worker, by the recorder": Row(
        {
            "requests": (request("scheduled", eta=iso(50)),),
            "jots": (jot("published"), jot("published", retries=1, eta=iso(50)), jot("received")),
            "gaps": (UNSEARCHED,),
        },
        Standing.RETRYING,
        "It is tried again: attempt 2 in 50 s (2026-11-21 18:00:50 UTC); its message waits on "
        "w1@host.",
    ),
    "retrying in a worker, by the backend": Row(
        {
            "requests": (request("scheduled", eta=iso(50)),),
            "ending": Ending(status="RETRY"),
            "gaps": (UNSEARCHED,),
        },
        Standing.RETRYING,
        "It is tried again: its next attempt in 50 s",
    ),
    "retrying, and due": Row(
        {"sightings": (queued(headers={"retries": 1}, ahead=1),), **READERS, **DEPTH},
        Standing.RETRYING,
        "It is tried again: attempt 2; its message waits in the queue celery, behind 1 message, "
        "which w1@host reads.",
    ),
    "retrying, by the backend": Row(
        {"ending": Ending(status="RETRY")},
        Standing.RETRYING,
        "It is tried again: its next attempt.",
    ),
    "retrying, by the recorder of a plain task": Row(
        {
            "jots": (
                jot("started", ago=16),
                jot("retrying", ago=15, attempt=1, wait=20.0),
                jot("published", ago=14, retries=1, eta=iso(5)),
                jot("ended", ago=13, state="RETRY"),
            )
        },
        Standing.RETRYING,
        "It is tried again: attempt 2 in 5 s",
    ),
    "waits for its ETA, by the recorder": Row(
        {"jots": (jot("published", queue="celery", eta=iso(60)),), "gaps": (UNSEARCHED,)},
        Standing.SCHEDULED,
        "It waits for its time, in 60 s (2026-11-21 18:01:00 UTC); the broker or a worker holds "
        "its message.",
    ),
    "retrying, by the recorder": Row(
        {"jots": (jot("retrying", attempt=1, wait=15.0),)},
        Standing.RETRYING,
        "It is tried again: attempt 2 in 5 s",
    ),
    "deferred": Row(
        {
            "record": taken(worker="w2@host"),
            "sightings": (held("scheduled", headers=headers(hop=3), eta=iso(8)),),
            "requests": (request("scheduled"),),
        },
        Standing.DEFERRED,
        "It waits for its turn: the job other of the same key runs on w2@host, until 2026-11-21 "
        "18:00:20 UTC (in 20 s) or longer. It asks again in 8 s (2026-11-21 18:00:08 UTC); its "
        "message waits on w1@host.",
        {"behind": "other"},
    ),
    "deferred, by the record alone": Row(
        {"record": taken("retrying", hops=2), "gaps": (UNSEARCHED,)},
        Standing.DEFERRED,
        "It waits for its turn: the job other of the same key waits for its retry, until",
    ),
    "deferred, by the recorder alone": Row(
        {"jots": (jot("deferred", wait=12.0),)},
        Standing.DEFERRED,
        "It waits for its turn, and asks again in 2 s",
    ),
    "fetched ahead": Row(
        {"requests": (request("reserved"),), "sightings": (held(),), "record": taken()},
        Standing.PREFETCHED,
        "w1@host has fetched it ahead, and runs it as soon as a process is free.",
        notes=("key-taken",),
    ),
    "waits for its ETA": Row(
        {
            "requests": (request("scheduled"),),
            "sightings": (held("scheduled", eta=iso(50)),),
        },
        Standing.SCHEDULED,
        "It waits for its time, in 50 s (2026-11-21 18:00:50 UTC); w1@host holds its message.",
        {"eta": NOW + 50, "worker": NODE},
    ),
    "waits for its ETA on RabbitMQ": Row(
        {"requests": (request("scheduled", eta=iso(50)),), "gaps": (UNSEARCHED,)},
        Standing.SCHEDULED,
        "It waits for its time, in 50 s",
    ),
    "held by a worker that does not answer": Row(
        {"sightings": (held(redelivered=True),), "visibility_timeout": 3600.0, "workers": ()},
        Standing.HELD,
        "A worker took it from the queue celery; last heard of 5 s ago (2026-11-21 17:59:55 UTC), "
        "but none that answered has it. Unless it is heard of, it is delivered again in 60 min",
        notes=("redelivered",),
    ),
    "received, by the recorder": Row(
        {"jots": (jot("published"), jot("received"))},
        Standing.HELD,
        "w1@host received it 10 s ago",
    ),
    "queued": Row(
        {"sightings": (queued(),), "jots": (jot("published"),), **READERS, **DEPTH},
        Standing.QUEUED,
        "It waits in the queue celery, behind 2 messages, which w1@host reads. It was published "
        "at 2026-11-21 17:59:50 UTC (10 s ago).",
        {"ahead": 2, "depth": 7},
    ),
    "queued before its time": Row(
        {"sightings": (queued(ahead=0, eta=iso(90)),)},
        Standing.QUEUED,
        "It waits in the queue celery, next in line. It is due in 90 s",
    ),
    "queued where nobody reads": Row(
        {"sightings": (queued(queue="other"),), **READERS},
        Standing.QUEUED,
        "It waits in the queue other",
        notes=("queue-unread",),
    ),
    "queued, and a worker did not say what it reads": Row(
        {"sightings": (queued(queue="other"),), "workers": (Worker(NODE),)},
        Standing.QUEUED,
        "It waits in the queue other, behind 2 messages.",
    ),
    "queued without workers": Row(
        {"sightings": (queued(),), "workers": ()},
        Standing.QUEUED,
        "It waits",
        notes=("no-worker",),
    ),
    "queued, and its key is done": Row(
        {"sightings": (queued(),), "record": taken("done")},
        Standing.QUEUED,
        "It waits",
        notes=("answered-by",),
    ),
    "queued after a death": Row(
        {"sightings": (queued(),), "record": record("idle", crashes=1)},
        Standing.QUEUED,
        "It waits",
        notes=("crashes",),
    ),
    "reserved": Row(
        {"record": record("idle", reserved_until=NOW + 25)},
        Standing.RESERVED,
        "Its key is reserved for it until 2026-11-21 18:00:25 UTC (in 25 s), but no message of it "
        "was found",
    ),
    "reserved, with RabbitMQ": Row(
        {"record": record("idle", reserved_until=NOW + 25), "gaps": (UNSEARCHED,)},
        Standing.RESERVED,
        "Its message waits, or its publish failed.",
    ),
    "reserved long ago": Row(
        {"record": record("idle", reserved_until=NOW - 25)}, Standing.UNKNOWN, "Nothing is known"
    ),
    "begun, by the backend": Row(
        {"ending": Ending(status="STARTED", worker=NODE)}, Standing.RUNNING, "It runs on w1@host."
    ),
    "published, by the recorder": Row(
        {"jots": (jot("published", where="web", queue="celery"),), "gaps": (UNSEARCHED,)},
        Standing.PUBLISHED,
        "It was published to the queue celery, 10 s ago (2026-11-21 17:59:50 UTC); no worker has "
        "noted it since.",
    ),
    "published, and due": Row(
        {"jots": (jot("published", queue="celery", eta=iso(0)),), "gaps": (UNSEARCHED,)},
        Standing.PUBLISHED,
        "no worker has noted it since.",
    ),
    "the job of which others are duplicates": Row(
        {"sightings": (queued(),), "jots": (jot("suppressed"), jot("suppressed"))},
        Standing.QUEUED,
        "It waits",
        notes=("suppressed-others",),
    ),
    "never published": Row({}, Standing.UNKNOWN, "Nothing is known of it."),
    "not seen on RabbitMQ": Row(
        {"gaps": (UNSEARCHED,), **DEPTH}, Standing.UNKNOWN, "Nothing", notes=("may-be-in",)
    ),
}


def verdict_of(row: Row) -> Any:
    return judge(Evidence(task_id="job", now=NOW, **row.seen))


@pytest.mark.parametrize("name", ROWS)
def test_where_it_is(name: str) -> None:
    """What is known of a job leads to where it is, in words and with the reasons."""
    row = ROWS[name]
    verdict = verdict_of(row)

    assert verdict.standing is row.standing
    assert row.says in headline(verdict)
    assert row.facts.items() <= verdict.facts.items()
    assert tuple(note.name for note in verdict.notes) == row.notes


@pytest.mark.parametrize("name", ROWS)
def test_words_read_well(name: str) -> None:
    """Every sentence ends once, and shows nothing that only a program would say."""
    verdict = verdict_of(ROWS[name])
    said = [headline(verdict), *(sentence_of(note, NOW) for note in verdict.notes)]

    for sentence in said:
        assert sentence.endswith(".")
        assert not re.search(r"None|\.\.|  | [.,;]|\{|\}|\(\)", sentence)


def test_advice_can_be_copied() -> None:
    """It names the job whose letter is replayed, be it another job of the key."""
    assert remedy(verdict_of(ROWS["quarantined"])).endswith("dead replay job")
    assert remedy(verdict_of(ROWS["its key is quarantined"])).endswith("dead replay other")


@pytest.mark.parametrize(("names", "said"), [("a", "queue a (7)"), ("ab", "queues a (7), b (7)")])
def test_one_queue_or_more(names: str, said: str) -> None:
    """On RabbitMQ a job can be in any queue with messages."""
    depths = tuple(QueueView(name=name, depth=7) for name in names)
    row = replace(ROWS["not seen on RabbitMQ"], seen={"gaps": (UNSEARCHED,), "queues": depths})
    verdict = verdict_of(row)

    assert [sentence_of(note, NOW) for note in verdict.notes] == [
        f"It may be among the messages of the {said}."
    ]


def test_every_standing_has_a_row() -> None:
    """No place in which a job can be is left out of the table."""
    assert {row.standing for row in ROWS.values()} == set(Standing)


def test_every_note_has_a_row() -> None:
    """No remark is left out of the table."""
    from reliable_tasks.inspection.why import words

    assert {name for row in ROWS.values() for name in row.notes} == set(words._NOTES)


@pytest.mark.parametrize("name", ROWS)
def test_document_is_json(name: str) -> None:
    """A program gets the same as a reader, and what was not looked at."""
    verdict = verdict_of(ROWS[name])
    document = json.loads(json.dumps(document_of(verdict)))

    assert document["state"] == verdict.standing
    assert document["says"] == headline(verdict)
    assert [each["source"] for each in document["not_looked_at"]] == [
        gap.source for gap in verdict.gaps
    ]


def test_record_of_its_own_job() -> None:
    """A record that the job holds tells its state, its lease and its process."""
    kept = Record(
        State.RUNNING,
        "job",
        token=int(NOW * 1e6),
        until_ms=int(NOW * 1e3) + 500,
        line=1_000_002,
        retries=1,
        suspects=(5,),
    )

    seen = record_from(KEY, kept, "job", {"worker": NODE, "pid": 7})

    assert seen == record(
        "running",
        since=NOW,
        until=NOW + 0.5,
        worker=NODE,
        pid=7,
        attempt=2,
        hops=2,
        crashes=1,
    )


def test_record_of_another_job() -> None:
    """A record that another job holds tells what became of this one, and who is before it."""
    kept = Record(
        State.RUNNING,
        "other",
        token=1,
        until_ms=int(NOW * 1e3),
        facts={"job": Fact(line=3, ended="D", closed=True, replays=1)},
        waiting=Waiting("job", int(NOW * 1e3) + 9_000, 1),
    )

    seen = record_from(KEY, kept, "job", {"worker": "", "host": "machine"})

    assert (seen.state, seen.holder, seen.holder_state) == ("done", "other", "running")
    assert (seen.replays, seen.is_closed, seen.hops) == (1, True, 3)
    assert (seen.reserved_until, seen.worker) == (NOW + 9, "machine")


def test_state_of_a_newer_release_is_shown_as_it_is() -> None:
    """A state that this release does not know is no error."""
    assert record_from(KEY, Record("X", "job"), "job", {}).state == "X"


def test_backend_tells_class_and_reason_only() -> None:
    """Neither a result nor an error's text is taken from the backend."""
    failed = ending_from({"status": "FAILURE", "result": ValueError("secret"), "name": "shop.x"})
    done = ending_from({"status": "SUCCESS", "result": {"card": "secret"}, "date_done": iso(1)})
    begun = ending_from({"status": "STARTED", "result": {"hostname": NODE, "pid": 1}})

    assert failed == Ending(status="FAILURE", error="ValueError", task="shop.x")
    assert done == Ending(status="SUCCESS", at=iso(1))
    assert begun == Ending(status="STARTED", worker=NODE)
    assert ending_from({"status": "PENDING", "result": None}) is None


def test_what_strangers_wrote_is_passed_over() -> None:
    """Lines and letters that cannot be read are as if they were not there."""
    lines = [
        b"{",
        b"[1]",
        b'[2,"published","web",{"queue":"q"}]',
        b'[2,"published","web",{"queue":"q"}]',
    ]

    assert jots_from(lines) == (Jot(2.0, "published", "web", {"queue": "q"}),)
    assert letter_from(b"no json") is None
    assert letter_from(b'{"reason": "died", "at": 5}') == Letter(reason="died", at=5.0)
    assert seconds_of("soon") is None


def test_line_of_the_recorder() -> None:
    """A line shows when, what, where and the details."""
    assert (
        line_of(jot("retrying", attempt=1, wait=2.0))
        == "2026-11-21 17:59:50 UTC retrying w1@host attempt=1 wait=2.0"
    )


def test_notes_without_facts_have_words() -> None:
    """A remark needs no fact to be said."""
    assert sentence_of(Note("draining"), NOW) == "Its worker has begun to shut down."
