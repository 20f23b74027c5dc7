"""Real jobs that die, fail or are refused: kept whole, and run again when an operator says so."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from celery import chord

from reliable_tasks import Quarantined
from reliable_tasks.core.records import State
from reliable_tasks.deadletter.replaying import Replay, replay
from reliable_tasks.testing import Ledger, Server, WorkerProcess, eventually
from tests.integration.apps.dying import cure, dies, guarded_hopeless, heard, hopeless, noted
from tests.integration.campaign import Campaign, running
from tests.integration.dying import TASKS, cured, effect, has_letter, letter_of, quarantined
from tests.integration.grounds import RedisGround


@pytest.fixture(scope="module")
def calm(valkey: Server, tmp_path_factory: pytest.TempPathFactory):
    """A worker that lives through all tests here, each with jobs of its own."""
    ledger = Ledger(tmp_path_factory.mktemp("dying") / "ledger")

    def start(app, *, env, **options):
        env = {**env, **ledger.env}
        return stack.enter_context(WorkerProcess(app, env=env, **options))

    with (
        running(RedisGround(valkey.new_database()), ledger, start) as campaign,
        ExitStack() as stack,
    ):
        campaign.worker(arguments=TASKS, concurrency=2)
        yield campaign


def test_poison_is_kept_and_runs_once_it_is_cured(calm: Campaign) -> None:
    """Three deaths, each with its worker; after the replay a first attempt without any."""
    kept = quarantined(calm, "killed")
    letter = kept.letter
    assert {each["worker"] for each in letter.attempts} == {letter.worker}
    assert [each["pid"] for each in letter.attempts] == [e.pid for e in calm.begins(letter.id)]
    with pytest.raises(Quarantined):
        calm.result(letter.id).get(timeout=10)

    cured(calm, kept)
    assert effect(calm, letter.id)["attempt"] == 1
    assert effect(calm, letter.id)["crashes"] == 0
    eventually(lambda: calm.ledger.counts("heard")[letter.id] == 1)
    record = calm.record(dies, letter.id)
    assert record is not None
    assert record.state is State.DONE


def test_a_job_that_was_given_up_runs_again(calm: Campaign) -> None:
    """A task without a guard too; its letter has the error of each attempt."""
    calm.app.send_task(hopeless.name, ("given-up",), task_id="given-up")
    eventually(lambda: has_letter(calm, "given-up"))
    kept = letter_of(calm, "given-up")
    assert [each["attempt"] for each in kept.letter.attempts] == [1, 2]
    assert "the gateway is down" in kept.letter.attempts[1]["traceback"]

    cured(calm, kept)


def test_what_two_operators_publish_of_a_task_without_a_guard(
    calm: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator who dies after publishing, and another who does it again: one effect."""
    calm.app.send_task(hopeless.name, ("twice",), task_id="twice")
    eventually(lambda: has_letter(calm, "twice"))
    kept = letter_of(calm, "twice")
    cure(calm.ledger, "twice").touch()
    with monkeypatch.context() as patch:
        patch.setattr("reliable_tasks.deadletter.replaying._let_go", _dies)
        patch.setattr("reliable_tasks.deadletter.replaying.LEASE_MS", 50)
        with pytest.raises(ConnectionError):
            replay(calm.app, kept)

    eventually(lambda: replay(calm.app, kept) is Replay.PUBLISHED)
    eventually(lambda: calm.ledger.counts()["twice"])
    calm.wait_settled([])
    assert calm.ledger.counts()["twice"] == 1


@pytest.mark.parametrize("task", [hopeless, guarded_hopeless], ids=["plain", "guarded"])
def test_a_chain_goes_on(calm: Campaign, task: Any) -> None:
    """What comes after a job that was given up comes after its replay."""
    job = f"chained-{task.name}"
    sign = calm.app.signature
    chain = sign(task.name, (job,), task_id=job) | sign(heard.name)
    chain.apply_async()
    eventually(lambda: has_letter(calm, job))
    cured(calm, letter_of(calm, job))

    eventually(lambda: calm.ledger.counts("heard")[job] == 1)


def test_a_chord_that_has_failed_stays_failed(calm: Campaign) -> None:
    """Celery counts a member that failed; its replay runs the member, and not the chord's body."""
    sign = calm.app.signature
    members = [sign(guarded_hopeless.name, ("member",), task_id="member"), sign(heard.name, ("x",))]
    result = chord(members, app=calm.app)(sign(noted.name, kwargs={"job": "body"}))
    eventually(lambda: has_letter(calm, "member") and result.failed())
    cured(calm, letter_of(calm, "member"))

    assert calm.ledger.counts("noted")["body"] == 0


@pytest.mark.hooks
def test_what_no_worker_takes(calm: Campaign) -> None:
    """An unknown task and a refused content type are kept whole instead of being dropped."""
    calm.app.send_task("nobody.knows", ("unknown",), task_id="unknown")
    calm.app.send_task(dies.name, ("pickled", "killed"), task_id="pickled", serializer="pickle")
    for job, why in (("unknown", "does not know the task nobody.knows"), ("pickled", "refuses")):
        eventually(lambda job=job: has_letter(calm, job))
        letter = letter_of(calm, job).letter
        assert letter.kind == "refused"
        assert why in letter.reason

    assert letter_of(calm, "pickled").letter.content(["pickle"])[0] == ("pickled", "killed")


def test_a_refused_message_whose_task_is_there_now(calm: Campaign) -> None:
    """It goes to its queue as it was; where nobody knows it still, it comes back."""
    calm.app.send_task("nobody.knows", ("later",), task_id="later")
    eventually(lambda: has_letter(calm, "later"))
    kept = letter_of(calm, "later")

    assert replay(calm.app, kept) is Replay.PUBLISHED
    eventually(lambda: has_letter(calm, "later") and letter_of(calm, "later") != kept)


def _dies(*_: object, **__: object) -> None:
    raise ConnectionError("the operator's process died here")
