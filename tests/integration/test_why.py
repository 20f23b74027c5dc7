"""A job is found wherever it is: on a real server, with a real worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery import signals as celery_signals
from celery.bin.base import CLIContext
from click.testing import CliRunner

from reliable_tasks.commands import reliable
from reliable_tasks.core.records import Reservation
from reliable_tasks.flight.listening import HEARD, uid_of
from reliable_tasks.inspection.why import Standing, Verdict, headline, why
from reliable_tasks.testing import Database, WorkerProcess, close_app, eventually
from tests.integration.apps import sought

APP = "tests.integration.apps.sought"
REPLY = 0.4  # seconds for the worker, on a busy machine
SECRETS = ("nobody shall see", "secret")

ENDED = {
    "done": Standing.DONE,
    "failed": Standing.FAILED,
    "hopeless": Standing.DEAD_LETTER,
    "poison": Standing.QUARANTINED,
    "expired": Standing.EXPIRED,
    "unregistered": Standing.UNREGISTERED,
    "refused": Standing.REFUSED,
    "retried": Standing.RETRYING,
    "guarded-retried": Standing.RETRYING,
    "later": Standing.SCHEDULED,
}


@dataclass
class Place:
    """A worker, its broker, and the app that asks."""

    database: Database
    worker: WorkerProcess
    folder: Path
    app: Celery = sought.app

    def where(self, task_id: str, **options: Any) -> Verdict:
        return why(self.app, task_id, **{"timeout": REPLY, **options})

    def becomes(
        self,
        task_id: str,
        standing: Standing,
        known: Callable[[Verdict], bool] = lambda _: True,
    ) -> Verdict:
        """Wait until a job is there, and so much is *known* of it; return the verdict."""
        last: list[Verdict] = []

        def is_there() -> bool:
            last[:] = [self.where(task_id)]
            return last[0].standing is standing and known(last[0])

        eventually(is_there, interval=0.1, message=lambda: f"{task_id}: {last}")
        return last[0]

    def hold(self, task: Any, label: str, *arguments: Any) -> None:
        """Have a job begin that runs until it is let go."""
        task.apply_async((*arguments, label), task_id=label)
        eventually((self.folder / f"{label}-begun").exists)

    @contextmanager
    def held(self, task: Any, label: str, *arguments: Any) -> Iterator[None]:
        """Have a job run during the block, and be over after it."""
        self.hold(task, label, *arguments)
        try:
            yield
        finally:
            (self.folder / label).touch()
        eventually(lambda: task.AsyncResult(label).ready())


@pytest.fixture(scope="module")
def place(valkey, tmp_path_factory) -> Iterator[Place]:
    """One worker with three processes for the whole module; what ends by itself is under way."""
    database, folder = valkey.new_database(), tmp_path_factory.mktemp("sought")
    app = sought.app
    app.conf.update(broker_url=database.url, result_backend=database.url)
    env = {**database.celery_env, sought.FOLDER: str(folder)}
    with WorkerProcess(APP, concurrency=3, env=env) as worker:
        sought.publish()
        yield Place(database, worker, folder)
    for signal in (*(signal for signal, _ in HEARD), celery_signals.worker_process_shutdown):
        signal.disconnect(dispatch_uid=uid_of(app))
    close_app(app)


@pytest.fixture(autouse=True)
def log(place, request) -> Iterator[None]:
    """Show the worker's log of a test that fails."""
    start = len(place.worker.log)
    yield
    request.node.add_report_section("teardown", "worker", place.worker.log[start:][-20_000:])


@pytest.mark.parametrize("task_id", ENDED)
def test_where_it_ends_up(place, task_id):
    """A job that needs no further word is found where it is, and its arguments are not shown."""
    verdict = place.becomes(task_id, ENDED[task_id])

    assert verdict.facts.get("task", "sought").startswith(("tests.integration", "sought", "nobody"))
    assert not any(secret in repr(verdict) for secret in SECRETS)


def test_retry_is_counted_and_timed(place):
    """Which attempt comes next is said, and when, though its message goes in shorter hops."""
    for task_id in ("retried", "guarded-retried"):
        verdict = place.becomes(task_id, Standing.RETRYING, lambda seen: "next_at" in seen.facts)
        assert verdict.facts["attempt"] == 2
        assert 0 < verdict.facts["next_at"] - verdict.now <= 600


@pytest.mark.hooks
def test_eta_is_told_with_the_worker_that_holds_it(place):
    """Of a job that waits for its time both are known."""
    verdict = place.becomes("later", Standing.SCHEDULED, lambda seen: "worker" in seen.facts)

    assert 0 < verdict.facts["eta"] - verdict.now <= 900
    assert verdict.facts["worker"] == place.worker.name


@pytest.mark.chaos
def test_deaths_and_letter_of_a_quarantined_job(place):
    """A quarantined job is among the dead letters, and the deaths are counted."""
    verdict = place.becomes("poison", Standing.QUARANTINED)

    assert (verdict.facts["crashes"], verdict.facts["letter"]) == (1, True)


def test_history_of_a_job(place):
    """The recorder has what happened, from the publish to the end, in order."""
    verdict = place.becomes("done", Standing.DONE, lambda seen: len(seen.jots) == 4)

    assert [jot.event for jot in verdict.jots] == ["published", "received", "claimed", "settled"]
    assert verdict.jots[1].where == place.worker.name


def test_running_job(place):
    """A job that runs is found with its worker, its process and its lease."""
    with place.held(sought.guarded, "running"):
        verdict = place.becomes("running", Standing.RUNNING, lambda seen: "pid" in seen.facts)

    assert verdict.facts["worker"] == place.worker.name
    assert verdict.facts["pid"] in place.worker.children()
    assert 0 < verdict.facts["until"] - verdict.now <= 2


def test_deferred_job_names_the_one_before_it(place):
    """Of a job that waits for its turn are said: for which other, until when, when it asks."""
    with place.held(sought.keyed, "first", "key"):
        sought.keyed.apply_async(("key", "second"), task_id="second")
        verdict = place.becomes("second", Standing.DEFERRED, lambda seen: "next_at" in seen.facts)
        (place.folder / "second").touch()

    assert (verdict.facts["behind"], verdict.facts["behind_state"]) == ("first", "running")
    assert verdict.facts["until"] > verdict.now
    assert verdict.facts["next_at"] - verdict.now < 6


def test_fetched_ahead_and_queued(place):
    """With all processes busy a job is fetched ahead, and the next one is in the queue."""
    with ExitStack() as stack:
        for number in range(3):
            stack.enter_context(place.held(sought.plain, f"busy-{number}"))
        for number in range(8):
            sought.quick.apply_async(task_id=f"waits-{number}")

        fetched = place.becomes("waits-0", Standing.PREFETCHED)
        queued = place.becomes(
            "waits-7", Standing.QUEUED, lambda seen: bool(seen.facts.get("readers"))
        )

    assert fetched.facts["worker"] == place.worker.name
    assert 0 < queued.facts["ahead"] < 8
    assert queued.facts["readers"] == (place.worker.name,)


@pytest.mark.chaos
def test_queue_that_nobody_reads(place):
    """A job in a queue that no worker reads is found there, and that is said."""
    sought.quick.apply_async(task_id="unread", queue="forgotten")
    place.app.amqp.queues.add("forgotten")

    place.becomes(
        "unread",
        Standing.QUEUED,
        lambda seen: [note.name for note in seen.notes] == ["queue-unread"],
    )


@pytest.mark.chaos
def test_revoked_before_and_after(place):
    """A revoke is known before the message has come, and when it was dropped."""
    name = place.worker.name
    place.app.amqp.queues.add("unread-yet")
    sought.quick.apply_async(task_id="revoked", queue="unread-yet")
    place.app.control.revoke("revoked")

    def is_pending(seen: Verdict) -> bool:
        return seen.facts["reason"] == "pending" and seen.facts["nodes"] == (name,)

    place.becomes("revoked", Standing.REVOKED, is_pending)
    place.app.control.add_consumer("unread-yet", reply=True, destination=[name])
    place.becomes("revoked", Standing.REVOKED, lambda seen: seen.facts["reason"] == "revoked")


@pytest.mark.chaos
def test_unique_job_and_its_duplicates(place):
    """The job that was there counts the calls that published nothing."""
    first = sought.unique.apply_async((1,), queue="other")
    assert sought.unique.apply_async((1,), queue="other").id == first.id
    place.app.amqp.queues.add("other")

    place.becomes(
        first.id,
        Standing.QUEUED,
        lambda seen: "suppressed-others" in [note.name for note in seen.notes],
    )


def test_reserved_and_never_published(place):
    """A key that was reserved by a producer that died is found, by the records of its task."""
    header = sought.unique._header_of((2,), {}, "lost", None)
    key = f"rt1::{sought.unique.name}:{header.key_digest}"
    sought.unique.records.reserve([(key, Reservation("lost", 60_000))])
    verdict = place.where("lost")

    assert (verdict.standing, verdict.facts["key"]) == (Standing.RESERVED, key)
    assert "no message of it was found" in headline(verdict)


@pytest.mark.chaos
def test_search_that_ends_early_says_so(place):
    """What was not read is among the gaps."""
    for number in range(5):
        sought.quick.apply_async(task_id=f"deep-{number}", queue="deep")
    place.app.amqp.queues.add("deep")

    (gap,) = [each for each in place.where("x", limit=3).gaps if each.source == "broker"]

    assert gap.why.startswith("3 messages were read, but not ")
    assert "of the queue deep" in gap.why


@pytest.mark.chaos
def test_never_published(place):
    """Of an id that nobody knows, it is said what that can mean."""
    place.becomes("no such id", Standing.UNKNOWN, lambda seen: seen.gaps == ())


@pytest.mark.parametrize("as_json", [False, True])
def test_command(place, as_json):
    """The command prints the same, for people and for programs."""
    context = CLIContext(app=place.app, no_color=True, workdir=None)
    words = ["why", "later", "--timeout", str(REPLY), *(["--json"] if as_json else [])]

    done = CliRunner().invoke(reliable, words, obj=context)

    assert done.exit_code == 0, done.output
    if as_json:
        document = json.loads(done.output)
        assert (document["state"], document["task_id"]) == ("scheduled", "later")
        assert [each["event"] for each in document["history"]] == ["published", "received"]
    else:
        assert done.output.startswith("scheduled: It waits for its time, in 1")
        assert "holds its message." in done.output


def test_execution_that_died(place):
    """A job whose worker was killed is found as one that nobody runs any more; the last test."""
    place.hold(sought.guarded, "killed")
    place.worker.kill_main()
    verdict = place.becomes("killed", Standing.ABANDONED)

    assert verdict.facts["worker"] == place.worker.name
    assert verdict.facts["redelivery_at"] > verdict.now
    assert {gap.source for gap in verdict.gaps} == {"workers"}


def test_answers_with_everything_down(place):
    """With store, broker and backend away it answers soon, and names what it could not ask."""
    app = Celery(
        "away",
        broker="redis://localhost:1/0",
        backend="redis://localhost:1/1",
        set_as_current=False,
    )
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 0}}
    verdict = why(app, "any", timeout=REPLY)
    close_app(app)

    assert verdict.standing is Standing.UNKNOWN
    assert {gap.source for gap in verdict.gaps} >= {
        "broker", "workers", "result backend", "flight recorder", "dead letters",
    }  # fmt: skip
