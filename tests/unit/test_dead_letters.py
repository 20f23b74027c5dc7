"""Dead letters: found, shown, thrown away, and run again, once, whatever breaks in between."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Task

from reliable_tasks import (
    ConfigurationError,
    IdempotentTask,
    StoreUnavailable,
    UniqueTask,
    retry_task,
)
from reliable_tasks.burial import Shelf
from reliable_tasks.core.records import State
from reliable_tasks.deadletter import replaying
from reliable_tasks.deadletter.copies import REPLAY_HEADER
from reliable_tasks.deadletter.letters import Letter, Standing, UnreadableLetter, letter_of_message
from reliable_tasks.deadletter.replaying import Replay, replay, replay_all
from reliable_tasks.deadletter.shelves import Found, Kept, Wanted, find, purge
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing import ManualClock
from reliable_tasks.worker import check
from tests.unit.test_publishing import Bench

MINUTE = 61.0


class Down(Exception):
    """A dependency is away."""


class Ground(Bench):
    """A bench whose app keeps its records in memory, on a clock that the test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.store = self.app.conf.reliable_tasks_store = MemoryStore(self.clock)
        self.broken = True

    def declare(self, kind: str, **options: Any) -> Any:
        """Declare a task whose job becomes a dead letter for as long as something is `broken`."""
        if kind == "quarantined":
            return self.task(self._dies, name="dies", store=None, max_crashes=1, **options)
        base = {"failed": IdempotentTask, "plain": Task, "unique": UniqueTask}[kind]
        body = retry_task(on=Down, attempts=1, dead_letter=True)(self._fails())
        options = {"bind": True, "shared": False, "name": kind, **options}
        return self.app.task(base=base, **options)(body)

    def _noted(self, task: Any, value: Any) -> Any:
        lease = task.lease if hasattr(task, "lease") else None
        self.ran.append((value, lease.attempt if lease else task.request.retries + 1))
        return value

    @property
    def hears(self) -> Callable[..., Any]:
        """The body of what hangs on a job."""
        ground = self

        def hears(self: Any, value: Any) -> None:
            ground.ran.append(value)

        return hears

    @property
    def _dies(self) -> Callable[..., Any]:
        ground = self

        def dies(self: Any, value: Any) -> Any:
            if ground.broken:
                raise SystemExit
            return ground._noted(self, value)

        return dies

    def _fails(self) -> Callable[..., Any]:
        ground = self

        def fails(self: Any, value: Any) -> Any:
            if ground.broken:
                raise Down("the gateway said 503")
            return ground._noted(self, value)

        return fails

    def bury(self, task: Any, job: str = "job", **options: Any) -> Kept:
        """Publish a job of *task* and let it become a dead letter; then nothing is broken."""
        self.broken = True
        task.apply_async(("value",), task_id=job, **options)
        try:
            self.work()
        except SystemExit:  # the message is delivered again
            task.apply_async(("value",), task_id=job, **options)
            self.work()
        self.broken = False
        return next(each for each in self.found.kept if each.letter.id == job)

    @property
    def found(self) -> Found:
        """All dead letters."""
        return find(self.app)


@pytest.fixture
def ground() -> Iterator[Ground]:
    ground = Ground()
    yield ground
    ground.app.close()


KINDS = pytest.mark.parametrize("kind", ["quarantined", "failed", "plain", "unique"])


class TestReplay:
    """An operator's word lets a job run again."""

    @KINDS
    def test_runs_once_more(self, ground: Ground, kind: str) -> None:
        """With a fresh count of attempts; the letter is gone."""
        kept = ground.bury(ground.declare(kind))

        assert replay(ground.app, kept) is Replay.PUBLISHED
        assert ground.found.kept == []
        ground.work()
        assert ground.ran == [("value", 1)]

    @KINDS
    def test_a_second_time_after_it_failed_again(self, ground: Ground, kind: str) -> None:
        """A job that breaks again is a dead letter again, and can be replayed again."""
        kept = ground.bury(ground.declare(kind))
        for _ in range(3):
            ground.broken = True
            replay(ground.app, kept)
            try:
                ground.work()
            except SystemExit:
                [copy] = ground.headers[-1:]
                ground.app.send_task("dies", ("value",), task_id="job", headers=copy)
                ground.work()
            [kept] = ground.found.kept
        ground.broken = False

        replay(ground.app, kept)
        ground.work()
        assert [value for value, _ in ground.ran] == ["value"]

    @pytest.mark.parametrize("kind", ["quarantined", "failed", "plain"])
    def test_what_hangs_on_it_is_sent(self, ground: Ground, kind: str) -> None:
        """Chain and callbacks belong to the message, and come with it."""
        task = ground.declare(kind)
        after = ground.task(ground.hears, name="after", store=None)
        ground.bury(task, chain=[after.s().set(task_id="next")], link=[after.s()])
        [kept] = [each for each in ground.found.kept if each.letter.id == "job"]

        replay(ground.app, kept)
        ground.work()
        assert ground.ran == [("value", 1), "value", "value"]

    @KINDS
    def test_an_operator_who_dies_before_publishing(
        self, ground: Ground, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The letter stays, and whoever replays it next is not in doubt."""
        kept = ground.bury(ground.declare(kind))
        with monkeypatch.context() as patch:
            patch.setattr(replaying, "_publish", _dies)
            with pytest.raises(ConnectionError):
                replay(ground.app, kept)
        assert len(ground.found.kept) == 1

        assert replay(ground.app, kept) is Replay.PUBLISHED
        ground.work()
        assert ground.ran == [("value", 1)]

    @KINDS
    @pytest.mark.parametrize("runs_first", [False, True])
    def test_an_operator_who_dies_after_publishing(
        self, ground: Ground, kind: str, runs_first: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The job runs once, whether it ran before somebody repeats the replay or not."""
        kept = ground.bury(ground.declare(kind))
        with monkeypatch.context() as patch:
            patch.setattr(replaying, "_let_go", _dies)
            with pytest.raises(ConnectionError):
                replay(ground.app, kept)
        if runs_first:
            ground.work()
        assert replay(ground.app, kept) is Replay.ELSEWHERE
        ground.clock.advance(MINUTE)

        assert replay(ground.app, kept) is Replay.PUBLISHED
        ground.work()
        assert ground.ran == [("value", 1)]
        assert ground.found.kept == []

    @KINDS
    def test_an_operator_who_dies_before_the_letter_is_off(
        self, ground: Ground, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The letter of a job that was published is only taken off."""
        kept = ground.bury(ground.declare(kind))
        with monkeypatch.context() as patch:
            patch.setattr(Kept, "take_off", _dies)
            with pytest.raises(ConnectionError):
                replay(ground.app, kept)

        assert replay(ground.app, kept) is Replay.TAKEN_OFF
        ground.work()
        assert ground.ran == [("value", 1)]
        assert ground.found.kept == []

    @KINDS
    def test_an_operator_who_was_paused_for_long(
        self, ground: Ground, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What two operators publish runs once; a later letter of the job is not taken off."""
        task = ground.declare(kind)
        kept = ground.bury(task)
        publish = replaying._publish

        def paused(*args: Any) -> None:
            monkeypatch.setattr(replaying, "_publish", publish)
            ground.clock.advance(MINUTE)
            assert replay(ground.app, kept) is Replay.PUBLISHED
            publish(*args)

        monkeypatch.setattr(replaying, "_publish", paused)
        replay(ground.app, kept)
        ground.work()

        assert ground.ran == [("value", 1)]

    def test_an_operator_who_is_quicker_than_the_worker(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that has kept a letter, and was slow to go on, does not end its replay."""
        task, close = ground.declare("quarantined"), ground.store.close
        replayed = []

        def slow(*args: Any, **terms: Any) -> None:
            monkeypatch.setattr(ground.store, "close", close)
            ground.broken = False
            replayed.append(replay(ground.app, ground.found.kept[0]))
            close(*args, **terms)

        monkeypatch.setattr(ground.store, "close", slow)
        task.apply_async(("value",), task_id="job")
        with pytest.raises(SystemExit):
            ground.work()
        task.apply_async(("value",), task_id="job")
        ground.work()

        assert replayed == [Replay.PUBLISHED]
        assert ground.ran == [("value", 1)]

    def test_a_later_letter_is_not_taken_off(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who has published an earlier letter of a job, and was paused then, takes off nothing."""
        kept = ground.bury(ground.declare("failed"))
        let_go = replaying._let_go

        def paused(*args: Any) -> None:
            ground.broken = True
            ground.work()
            let_go(*args)

        monkeypatch.setattr(replaying, "_let_go", paused)
        replay(ground.app, kept)

        [later] = ground.found.kept
        assert later.letter.at > kept.letter.at

    def test_a_job_that_goes_on_is_left_alone(self, ground: Ground) -> None:
        """The letter stays while its job still runs, or waits for a retry."""
        task = ground.declare("failed")
        kept = ground.bury(task)
        standing = kept.letter.standing
        assert standing is not None
        ground.store.forget(standing.key)
        terms = {"lease_ms": 60_000, "horizon_ms": 90_000_000, "max_crashes": 3}
        ground.store.claim(standing.key, delivery="d", job="job", line=standing.line, **terms)

        assert replay(ground.app, kept) is Replay.GOES_ON
        assert len(ground.found.kept) == 1
        ground.clock.advance(MINUTE)
        assert replay(ground.app, kept) is Replay.PUBLISHED

    @KINDS
    def test_a_letter_that_was_thrown_away_meanwhile(self, ground: Ground, kind: str) -> None:
        """Who has seen a letter before another operator threw it away runs nothing."""
        kept = ground.bury(ground.declare(kind))
        purge(kept)

        assert replay(ground.app, kept) is Replay.GONE
        ground.work()
        assert ground.ran == []

    def test_an_older_copy_does_not_run(self, ground: Ground) -> None:
        """A message from before the replay that turns up late is dropped."""
        task = ground.declare("quarantined")
        kept = ground.bury(task)
        replay(ground.app, kept)
        ground.work()
        task.apply_async(("value",), task_id="job")
        ground.work()

        assert ground.ran == [("value", 1)]

    def test_a_done_job_only_sends_what_hangs_on_it(self, ground: Ground) -> None:
        """What was done is not done again by a letter that turns up late."""
        after = ground.task(ground.hears, name="after", store=None)
        kept = ground.bury(ground.declare("failed"), link=[after.s()])
        replay(ground.app, kept)
        ground.work()
        standing = kept.letter.standing
        assert standing is not None
        late = dataclasses.replace(
            kept.letter, at=kept.letter.at + 1, standing=Standing(standing.key, standing.line + 1)
        )
        kept = dataclasses.replace(kept, letter=late)
        terms = {"at_ms": late.at_ms, "most": 9, "oldest_ms": 9}
        ground.store.bury(kept.shelf.name, "job", late.encode(), **terms)

        assert replay(ground.app, kept) is Replay.PUBLISHED
        ground.work()
        assert [each for each in ground.ran if each != "value"] == [("value", 1)]

    def test_to_another_queue(self, ground: Ground) -> None:
        """A job that kills its process may be tried where it can do no harm."""
        kept = ground.bury(ground.declare("quarantined"))
        replay(ground.app, kept, queue="isolated")
        ground.work()
        assert ground.ran == []

        ground.app.conf.task_default_queue = "isolated"
        ground.work()
        assert ground.ran == [("value", 1)]

    def test_to_a_queue_that_the_app_does_not_have(self, ground: Ground) -> None:
        """It says what is missing, and touches neither letter nor record."""
        kept = ground.bury(ground.declare("quarantined"))
        standing = kept.letter.standing
        assert standing is not None
        before = ground.store.peek(standing.key)
        ground.app.conf.task_create_missing_queues = False

        with pytest.raises(ConfigurationError, match=r"got 'isolated'\. Declare it in task_queues"):
            replay(ground.app, kept, queue="isolated")

        assert kept.is_there()
        assert ground.store.peek(standing.key) == before

    @pytest.mark.parametrize("serializer", ["json", "pickle"])
    def test_a_message_that_was_refused(self, ground: Ground, serializer: str) -> None:
        """It goes to its queue as it was, also where the operator may not read it."""
        task = ground.declare("quarantined")
        ground.broken = False
        task.apply_async(("value",), task_id="job", serializer=serializer)
        with ground.app.connection_for_read() as connection:
            queue = connection.SimpleQueue(ground.app.conf.task_default_queue)
            taken = queue.get(block=False)
            taken.ack()
            terms = {"reason": "refused", "at_ms": 1, "worker": "here", "queue": None}
            letter = letter_of_message(taken, **terms)
            queue.close()
        shelf = Shelf("")
        shelf.bury(ground.store, "job", letter.encode(), at_ms=1, dropped=_dies)
        assert replay(ground.app, ground.found.kept[0]) is Replay.PUBLISHED

        ground.app.conf.accept_content = ["json", "pickle"]
        ground.work()
        assert ground.ran == [("value", 1)]

    def test_a_message_that_has_expired_meanwhile(self, ground: Ground) -> None:
        """An operator's word outlasts the message's own expiry."""
        kept = ground.bury(ground.declare("quarantined"), expires=3_600)
        replay(ground.app, kept)
        ground.work()

        assert ground.headers[-1]["expires"] is None

    def test_a_message_of_a_task_that_is_not_known_here(self, ground: Ground) -> None:
        """The app of the operator need not have the task."""
        kept = ground.bury(ground.declare("failed"))
        task = ground.app.tasks.pop("failed")
        replay(ground.app, kept)
        ground.app.tasks["failed"] = task
        ground.work()

        assert ground.ran == [("value", 1)]

    def test_it_is_logged(self, ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
        """Who did it, and where the job went."""
        kept = ground.bury(ground.declare("failed"))
        with caplog.at_level(logging.WARNING):
            replay(ground.app, kept)

        assert "Task failed[job] was replayed to" in caplog.text

    def test_many_at_a_rate(self, ground: Ground) -> None:
        """So many a second, the first at once, in the order in which they died."""
        task = ground.declare("failed")
        for number in range(4):
            ground.bury(task, f"job-{number}")
        slept: list[float] = []
        said = [
            (kept.letter.id, outcome)
            for kept, outcome in replay_all(
                ground.app, ground.found.kept, per_second=10, sleep=slept.append
            )
        ]

        assert said == [(f"job-{number}", Replay.PUBLISHED) for number in range(4)]
        assert slept[0] == 0
        assert 0.2 < max(slept) <= 0.4

    def test_retries_of_a_replay_are_the_replay(self, ground: Ground) -> None:
        """A replayed job of a task without a guard may be tried again like any other."""
        runs: list[int] = []

        @ground.app.task(name="again", bind=True, shared=False)
        @retry_task(on=Down, attempts=2, dead_letter=True, max_wait=0)
        def again(self: Any) -> None:
            runs.append(self.request.retries)
            if len(runs) < 4:
                raise Down

        again.apply_async(task_id="job")
        ground.work()
        [kept] = ground.found.kept
        replay(ground.app, kept)
        ground.work()

        assert runs == [0, 1, 0, 1]

    def test_without_the_store_a_replay_goes_back(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A message that is acknowledged late waits until somebody knows whether it is the one."""
        kept = ground.bury(ground.declare("plain", acks_late=True))
        replay(ground.app, kept)
        monkeypatch.setattr("reliable_tasks.publish.sleep", lambda _: None)
        monkeypatch.setattr(ground.store, "claim", _unavailable)
        ground.work()

        assert ground.ran == []
        assert ground.ended["job"][0] == "REJECTED"

    @pytest.mark.parametrize("said", [None, [2, "job", 1, "x"], [1, "other", 1, "x"], [1, "job"]])
    def test_headers_of_strangers_stop_nothing(self, ground: Ground, said: Any) -> None:
        """Users forward headers, and a newer release may write others."""
        task = ground.declare("plain")
        ground.broken = False
        for _ in range(2):
            task.apply_async(("value",), task_id="job", headers={REPLAY_HEADER: said})
        ground.work()

        assert len(ground.ran) == 2


class TestShelves:
    """Letters as operators see them."""

    def test_what_is_wanted(self, ground: Ground) -> None:
        """By task, by reason, by age, and by job."""
        for kind in ("quarantined", "failed"):
            ground.bury(ground.declare(kind), f"the {kind}")

        def ids(**wanted: Any) -> list[str]:
            return [each.letter.id for each in find(ground.app, Wanted(**wanted)).kept]

        assert ids() == ["the quarantined", "the failed"]
        assert ids(task="dies") == ["the quarantined"]
        assert ids(reason="gave up") == ids(reason="attempts") == ["the failed"]
        assert ids(older_than=60) == []
        assert ids(jobs=("the failed", "unknown")) == ["the failed"]

    def test_what_is_known_of_a_letter(self, ground: Ground) -> None:
        """The errors of each attempt, where it ran, and the arguments as logs show them."""
        task = ground.declare("failed")
        [said] = [ground.bury(task, argsrepr="(a secret)").letter.described()]

        assert (said["task"], said["id"], said["kind"]) == ("failed", "job", "gave up")
        assert said["arguments"] == "(a secret)"
        [attempt] = said["attempts"]
        assert attempt["message"] == "the gateway said 503"
        assert "Traceback" in attempt["traceback"]
        assert attempt["pid"]

    def test_a_store_of_a_tasks_own(self, ground: Ground) -> None:
        """Letters are found wherever tasks keep them."""

        class Apart(MemoryStore):
            identity = "apart"

        options = {"name": "apart", "store": Apart(), "max_crashes": 1}
        kept = ground.bury(ground.task(ground._dies, **options))
        ground.bury(ground.declare("failed"), "other")

        assert {each.letter.id for each in ground.found.kept} == {"job", "other"}
        replay(ground.app, kept)
        ground.work()
        assert ground.ran == [("value", 1)]

    def test_a_letter_of_a_newer_release(self, ground: Ground) -> None:
        """It is named, and hides no other."""
        kept = ground.bury(ground.declare("failed"))
        for job, data in (("new", b'{"format": 99}'), ("none", b"\xff"), ("text", b"[]")):
            ground.store.bury(kept.shelf.name, job, data, at_ms=1, most=9, oldest_ms=9)

        assert [each.letter.id for each in ground.found.kept] == ["job"]
        assert [job for job, _ in ground.found.unreadable] == ["new", "none", "text"]
        with pytest.raises(UnreadableLetter, match="format 99, and this release reads 1"):
            Letter.parse(b'{"format": 99}')

    def test_thrown_away(self, ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
        """The letter is gone, and the log says who did it; the job stays what it is."""
        kept = ground.bury(ground.declare("quarantined"))
        assert purge(kept)
        assert not purge(kept)

        assert "Task dies[job]: its dead letter was thrown away by" in caplog.text
        assert ground.found.kept == []
        standing = kept.letter.standing
        assert standing is not None
        record = ground.store.peek(standing.key)
        assert record is not None
        assert record.state is State.QUARANTINED


class TestBounds:
    """The shelf is bounded, and nothing goes silently."""

    def test_the_oldest_goes_and_is_named(
        self, ground: Ground, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A letter that is one too many takes the place of the oldest."""
        ground.app.conf.reliable_tasks_dead_letter_limit = 2
        task = ground.declare("failed")
        for number in range(3):
            ground.bury(task, f"job-{number}")

        assert [each.letter.id for each in ground.found.kept] == ["job-1", "job-2"]
        assert "[job-2] took the place of a dead letter: dropped=job-0" in caplog.text

    @pytest.mark.parametrize(
        ("setting", "value", "words"),
        [
            ("limit", 0, "expected a whole number from 1, got 0"),
            ("limit", True, "expected a whole number from 1, got True"),
            ("age", 0, "expected seconds"),
            ("age", "1 day", "expected seconds"),
        ],
    )
    def test_bounds_that_cannot_be(
        self, ground: Ground, setting: str, value: Any, words: str
    ) -> None:
        """A worker refuses them at its start."""
        ground.app.conf[f"reliable_tasks_dead_letter_{setting}"] = value
        with pytest.raises(ConfigurationError, match=f"dead_letter_{setting}: {words}"):
            check(ground.app)

    def test_what_cannot_be_dropped_stays(self) -> None:
        """A store that falls silent in between has kept the new letter all the same."""
        store, shelf = MemoryStore(), Shelf("unit", most=1)
        shelf.bury(store, "a", b"a", at_ms=1, dropped=_dies)
        store.unbury = _unavailable  # type: ignore[method-assign]
        named: list[str] = []
        shelf.bury(store, "b", b"b", at_ms=2, dropped=named.append)

        assert named == ["a"]
        assert store.letter_count(shelf.name) == 2


def _dies(*_: Any, **__: Any) -> None:
    raise ConnectionError("the operator's process died here")


def _unavailable(*_: Any, **__: Any) -> None:
    raise StoreUnavailable("test", "down")
