"""`list`, `show` and `forget`: what operators see of records, and what they do to one."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from reliable_tasks import ConfigurationError, IdempotentTask
from reliable_tasks.commands import reliable
from reliable_tasks.commands.spans import span, told
from reliable_tasks.core.keys import message_key, record_key
from reliable_tasks.core.records import Fact, Held, Outcome, Record, Reservation, State, Waiting
from reliable_tasks.inspection.records import consequences, document, find, forget, records
from reliable_tasks.inspection.records.entries import Wanted, entry_of, name_of
from reliable_tasks.inspection.records.places import TimeOver, within
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing import close_app

TASK, HOUR_MS = "shop.charge", 3_600_000
NOW = 1_700_000_000.0
DIGEST = "A" * 22
KEYED = record_key("", TASK, DIGEST)
TERMS = {"lease_ms": 30_000, "horizon_ms": HOUR_MS, "max_crashes": 3}


class Shop:
    """An app with one guarded task, whose records are in this process."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.app = Celery("shop", set_as_current=False)
        self.app.conf.reliable_tasks_store = self.store

        @self.app.task(base=IdempotentTask, name=TASK, idempotency_key=("order",))
        def charge(order: int) -> None: ...

    def grant(self, key: str, job: str) -> int:
        answer: Any = self.store.claim(key, delivery=f"d {job}", job=job, line=0, **TERMS)
        return int(answer.token)

    def settle(self, key: str, job: str, state: State, data: bytes | None = b"{}") -> None:
        token = self.grant(key, job)
        outcome = Outcome(state, data, keep_ms=HOUR_MS)
        self.store.settle(key, token=token, job=job, line=0, outcome=outcome, horizon_ms=HOUR_MS)

    def reserve(self, key: str, job: str) -> None:
        self.store.reserve([(key, Reservation(job, grace_ms=HOUR_MS))])

    def run(self, *words: str, answer: str = "", columns: int = 120) -> Result:
        context = CLIContext(app=self.app, no_color=True, workdir=None)
        width = {"COLUMNS": str(columns)}
        return CliRunner().invoke(reliable, list(words), obj=context, input=answer, env=width)


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A shop without records."""
    shop = Shop()
    yield shop
    close_app(shop.app)


@pytest.fixture
def busy(shop: Shop) -> Shop:
    """A shop with a record in each state that a job can bring about."""
    shop.grant(message_key("", TASK, "runs"), "runs")
    shop.settle(message_key("", TASK, "waits"), "waits", State.RETRYING)
    shop.settle(KEYED, "did", State.DONE, b'{"charged": 5}')
    shop.settle(message_key("", TASK, "fell"), "fell", State.FAILED)
    shop.reserve(record_key("", TASK, "B" * 22), "queued")
    shop.settle(message_key("", "old.task", "gave up"), "gave up", State.IDLE)
    return shop


def job(state: State, **fields: Any) -> Record:
    """Return a record of a job whose last execution began a minute ago."""
    return Record(state, "job-1", token=round((NOW - 60) * 1_000_000), **fields)


# --- what a record says -------------------------------------------------------------------

WAITING = Waiting("job-2", until_ms=round((NOW + 9) * 1_000), turn=round((NOW - 5) * 1_000_000))

ENTRIES = {
    "running": (job(State.RUNNING, until_ms=int((NOW + 20) * 1_000)), "running", 60, 20),
    "its lease is over": (job(State.RUNNING, until_ms=int((NOW - 20) * 1_000)), "running", 60, -20),
    "quarantined": (job(State.QUARANTINED), "quarantined", 60, None),
    "given back": (job(State.IDLE), "idle", 60, None),
    "reserved": (Record(State.IDLE, "", waiting=WAITING), "reserved", 5, 9),
    "a reservation that is over": (
        Record(State.IDLE, "", waiting=replace(WAITING, until_ms=1)),
        "idle",
        5,
        None,
    ),
    "a ticket of a schedule": (
        Record(State.IDLE, "", held=Held("job-2", 1, since_ms=int((NOW - 7) * 1_000))),
        "idle",
        7,
        None,
    ),
    "a newer release's": (Record("X", "job-1"), "X", None, None),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_the_state_of_a_record(case: str) -> None:
    """Its state in a word, since when, and until when."""
    record, state, age, left = ENTRIES[case]

    entry = entry_of(KEYED, record, NOW)

    assert (entry.state, entry.task, entry.identity) == (state, TASK, DIGEST)
    assert entry.since == (None if age is None else pytest.approx(NOW - age))
    assert entry.until == (None if left is None else pytest.approx(NOW + left))


def test_a_job_that_waits_behind_another_is_reserved_too() -> None:
    """The record is listed under both states."""
    entry = entry_of(KEYED, job(State.RUNNING, waiting=WAITING), NOW)

    assert entry.state == "running"
    assert Wanted(state="running").matches(entry, NOW)
    assert Wanted(state="reserved").matches(entry, NOW)
    assert not Wanted(state="done").matches(entry, NOW)


def test_the_age_of_a_record() -> None:
    """It counts from the last execution; a record without one has no age."""
    entry = entry_of(KEYED, job(State.RUNNING), NOW)

    assert Wanted(older_than=60).matches(entry, NOW)
    assert not Wanted(older_than=61).matches(entry, NOW)
    assert not Wanted(older_than=0).matches(replace(entry, since=None), NOW)


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        (KEYED, ("", TASK, DIGEST)),
        (message_key("team", TASK, "a:b"), ("team", TASK, "@a:b")),
        ("rt1::once:digest", ("", "once", "digest")),
    ],
)
def test_the_parts_of_a_name(key: str, parts: tuple[str, str, str]) -> None:
    """Prefix, task and identity, whatever characters a task id has."""
    assert name_of(key) == parts


# --- list ---------------------------------------------------------------------------------


def test_all_records_of_an_app(busy: Shop) -> None:
    """Those of tasks that the app does not know too, the latest first."""
    listing = records(busy.app)

    assert [entry.job for entry in listing.entries] == [
        "gave up", "queued", "fell", "did", "waits", "runs",
    ]  # fmt: skip
    assert (listing.looked_at, listing.stopped) == (6, "")


def test_filters(busy: Shop) -> None:
    """By state, by task, and by age."""

    def jobs(**asked: Any) -> list[str]:
        return [entry.job for entry in records(busy.app, **asked).entries]

    assert jobs(state="running") == ["runs"]
    assert jobs(state="reserved") == ["queued"]
    assert jobs(task="old.task") == ["gave up"]
    assert jobs(task="old") == []
    assert jobs(older_than=60) == []
    with pytest.raises(ConfigurationError, match="state: expected one of running, retrying"):
        jobs(state="lost")


def test_a_limit_is_said(busy: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look ends after so many that fit, or that were read, and says so."""
    few = records(busy.app, limit=2)
    assert (len(few.entries), few.stopped) == (2, "2 were found")
    assert records(busy.app, limit=6).stopped == ""

    monkeypatch.setattr("reliable_tasks.inspection.records.listing.MOST", 3)
    part = records(busy.app)

    assert (part.looked_at, part.stopped) == (3, "3 records were read")


def test_a_look_ends_in_time(busy: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that goes through names without a record among them is left alone then."""
    monkeypatch.setattr("reliable_tasks.inspection.records.listing.SECONDS", 0.05)
    go_on = threading.Event()

    def slow(_prefix: str) -> Iterator[str]:
        yield KEYED
        go_on.wait(60)

    monkeypatch.setattr(busy.store, "scan", slow)
    listing = records(busy.app)
    go_on.set()

    assert [entry.job for entry in listing.entries] == ["did"]
    assert listing.stopped == "0.05 s were over"


def test_what_a_store_raises_is_raised() -> None:
    """By the look that asked, not in its thread."""

    def broken() -> Iterator[str]:
        yield "a"
        raise KeyError("b")

    keys = within(broken(), 60)
    assert next(keys) == "a"
    with pytest.raises(KeyError):
        next(keys)
    with pytest.raises(TimeOver):
        next(within(iter(lambda: threading.Event().wait(1), 0), 0.0))


# --- show and forget ----------------------------------------------------------------------


@pytest.mark.parametrize("asked", [KEYED, DIGEST, "did", "@did"])
def test_ways_to_name_a_record(busy: Shop, asked: str) -> None:
    """Its name, its digest, or the task id, which needs a look at all of them."""
    [found], stopped = find(busy.app, asked)

    assert (found.entry.key, found.entry.job, stopped) == (KEYED, "did", "")


def test_nothing_by_that_name(busy: Shop) -> None:
    """Neither by the name of a record nor by anything else."""
    assert find(busy.app, "rt1::nothing:here") == ([], "")
    assert find(busy.app, "nobody") == ([], "")


def test_jobs_beside_the_records_own_are_found() -> None:
    """A task id is also that of a job that waits, or of which only facts are left."""
    shop = Shop()
    shop.reserve(KEYED, "queued")
    [found], _ = find(shop.app, "queued")

    assert found.entry.key == KEYED
    close_app(shop.app)


def test_everything_that_is_known(busy: Shop) -> None:
    """The size of a result, and the result itself only if it is asked for."""
    [found], _ = find(busy.app, "did")

    known = document(found)
    assert (known["state"], known["outcome_bytes"], known["attempt"]) == ("done", 14, 1)
    assert (known["store"], known["closed"], known["replays"]) == ("memory", False, 0)
    assert "outcome" not in known
    assert document(found, result=True)["outcome"] == '{"charged": 5}'
    json.dumps(known)


def test_every_part_of_a_record_is_told(busy: Shop) -> None:
    """Deaths, other jobs of the key, the job that waits, and the window."""
    [found], _ = find(busy.app, "did")
    record = replace(
        found.record,
        suspects=(round(NOW * 1_000_000),),
        facts={"other": Fact(line=2_000_001, ended="D", closed=True)},
        waiting=WAITING,
        held=Held("job-2", 5_000, since_ms=1_000),
    )

    known = document(replace(found, record=record))

    assert known["suspected_deaths"] == [NOW]
    assert known["other_jobs"][0]["state"] == "done"
    assert known["other_jobs"][0]["newest_message"] == {"retries": 2, "hops": 1}
    assert known["reserved"]["job"] == "job-2"
    assert known["window"] == {"job": "job-2", "since": 1.0, "until": 5.0}


def test_what_follows(busy: Shop) -> None:
    """Each state has its own words, and so has what else the record knows."""
    [found], _ = find(busy.app, "runs")
    assert "loses the lease" in consequences(found)[0]

    fuller = replace(found.record, held=Held("a", 1), facts={"b": Fact()})
    waits = replace(found, record=fuller, entry=replace(found.entry, is_reserved=True))
    said = consequences(waits)

    assert [part in " ".join(said) for part in ("waits for the key", "window", "1 other jobs")] == [
        True, True, True,
    ]  # fmt: skip


def test_forgetting_is_logged(busy: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """Who did it, where, and what the record was; a second time it was gone."""
    [found], _ = find(busy.app, "did")
    with caplog.at_level(logging.WARNING, logger="reliable_tasks"):
        assert forget(found)
        assert not forget(found)

    first, second = caplog.records
    assert {"user", "host", "key", "task_id", "state"} <= first.data.keys()  # type: ignore[attr-defined]
    assert first.getMessage().startswith(
        f"Task {TASK}[did] forgotten: key={KEYED} state=done user="
    )
    assert "state=gone before" in second.getMessage()
    assert busy.store.peek(KEYED) is None


# --- commands -----------------------------------------------------------------------------


def test_the_table_and_the_document(busy: Shop) -> None:
    """People get lines with ages, programs what the function returns."""
    table = busy.run("list", "--state", "done")
    found = json.loads(busy.run("list", "--json", "--limit", "1").output)

    assert table.exit_code == 0
    assert DIGEST in table.output
    assert "1 of 6 records that were read" in table.output
    assert len(found["entries"]) == 1
    assert found["stopped"] == "1 were found"


def test_no_terminal_is_too_narrow_for_a_name(busy: Shop) -> None:
    """A line may go on in the next row of the screen; what stands in it can be copied and found."""
    narrow = busy.run("list", columns=40).output.splitlines()

    assert len(narrow) == 8
    assert any(TASK in line and DIGEST in line for line in narrow)


def test_a_record_is_shown(busy: Shop) -> None:
    """By all of its names; without one, exit status 1 and one line."""
    shown = busy.run("show", "did")
    whole = json.loads(busy.run("show", DIGEST, "--json", "--result").output)
    none = busy.run("show", "nobody")

    assert "charged" not in shown.output
    assert "outcome bytes" in shown.output
    assert whole[0]["outcome"] == '{"charged": 5}'
    assert (none.exit_code, none.stderr) == (1, "Error: there is no record of nobody.\n")


@pytest.mark.parametrize(("answer", "is_kept"), [("n\n", True), ("y\n", False), ("", True)])
def test_forgetting_asks_first(busy: Shop, answer: str, is_kept: bool) -> None:
    """It says what follows, and only a yes deletes the record."""
    done = busy.run("forget", "did", answer=answer)

    assert (busy.store.peek(KEYED) is not None) is is_kept
    assert done.exit_code == int(is_kept)
    assert "runs instead of getting the stored result" in done.output
    assert f"Forget {KEYED}?" in done.output


def test_forgetting_without_a_question(busy: Shop) -> None:
    """For programs, who get one document on standard output."""
    done = busy.run("forget", "did", "--yes", "--json")

    assert json.loads(done.stdout) == {"key": KEYED, "forgotten": True}


def test_a_name_of_two_records(shop: Shop) -> None:
    """None of them is forgotten; the line names both."""
    other = record_key("", TASK, "B" * 22)
    shop.settle(KEYED, "twice", State.DONE)
    shop.settle(other, "twice", State.DONE)

    done = shop.run("forget", "twice", "--yes")

    assert done.exit_code == 1
    assert KEYED in done.stderr
    assert other in done.stderr
    assert shop.store.peek(KEYED) is not None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("1h", 3_600), ("2d", 172_800)]
)
def test_a_span(text: str, seconds: float) -> None:
    """A number and a unit."""
    assert span(text) == seconds


def test_what_is_no_span(busy: Shop) -> None:
    """It is refused with status 2, in words."""
    done = busy.run("list", "--older-than", "an hour")

    assert done.exit_code == 2
    assert "expected a time such as 90s, 5m, 1h or 2d, got 'an hour'" in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7_199, "120 min"),
        (7_200, "2 h"),
        (2e5, "2 d"),
    ],
)
def test_spans_are_told(seconds: float, text: str) -> None:
    """In the largest unit that fits twice."""
    assert told(seconds) == text
