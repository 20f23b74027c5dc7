"""The visibility heartbeat: what it holds, what it lets go, and what it says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.concurrency.base import BasePool
from celery.concurrency.solo import TaskPool as SoloPool
from kombu.transport.redis import QoS

from reliable_tasks import IdempotentTask, setup
from reliable_tasks.broker import HEARTBEAT_STEP, consumer, step, unacked
from reliable_tasks.broker.consumer import WorkerHands
from reliable_tasks.broker.heartbeat import RETRY_SECONDS, Heartbeat
from reliable_tasks.broker.holdings import PATIENCE, Holdings, Run, interval_of, plan
from reliable_tasks.publish import longest_wait_ms
from reliable_tasks.testing import eventually

TIMEOUT = 60.0
NOW = 1_000.0


def run(tag: str, *, left: float = 1.0, is_acknowledged: bool = False) -> Run:
    """Return a job that may run for *left* seconds more."""
    return Run(tag, f"task[{tag}]", NOW + left, is_acknowledged)


def holdings(*delivered: str, runs: Collection[Run] = (), **more: Any) -> Holdings:
    """Return what a worker holds that has two slots and whose loop turns."""
    usual = {"slots": 2, "silent_for": 0.0, "loop_may_rest": False}
    return Holdings(delivered=delivered, runs=runs, **{**usual, **more})


class TestPlan:
    """Which deliveries are held."""

    def test_all_that_runs_and_waits_is_held(self) -> None:
        """What runs, what was fetched ahead, and what waits for its time."""
        found = plan(holdings("running", "fetched", "later", runs=[run("running")]), NOW)

        assert found.tags == {"running", "fetched", "later"}

    def test_a_job_of_an_earlier_connection_is_held(self) -> None:
        """It runs on after a reconnection, though the new channel never delivered it."""
        assert plan(holdings("new", runs=[run("old")]), NOW).tags == {"old", "new"}

    def test_a_job_is_held_until_its_time_is_over(self) -> None:
        """Then its message goes to others, and the others of this worker stay."""
        found = plan(holdings("late", "next", runs=[run("late", left=0)]), NOW)

        assert found.tags == {"next"}
        assert found.overdue == {"late": "task[late]"}

    def test_an_acknowledged_job_is_not_held(self) -> None:
        """Its message is gone, or in other hands under the same tag."""
        found = plan(holdings("next", runs=[run("early", is_acknowledged=True)]), NOW)

        assert found.tags == {"next"}

    def test_what_no_slot_is_left_for_is_let_go(self) -> None:
        """Hung jobs in all slots do not hold what waits behind them."""
        hung = [run("one", left=-1), run("two", left=-1)]

        assert plan(holdings("one", "two", "next", runs=hung), NOW).tags == set()

    def test_nothing_is_held_by_a_wedged_worker(self) -> None:
        """A loop that does not turn acknowledges nothing, not even what its pool finishes."""
        given = holdings("running", "next", runs=[run("running")], silent_for=PATIENCE)

        found = plan(given, NOW)

        assert found.tags == set()
        assert found.is_stuck

    def test_a_loop_may_be_slow(self) -> None:
        """A result backend that is down blocks it for a while."""
        given = holdings("next", silent_for=PATIENCE - 1)

        assert plan(given, NOW).tags == {"next"}

    def test_a_loop_rests_while_a_job_runs_in_it(self) -> None:
        """The solo pool's, for as long as the job may take, and that of a worker that ends."""
        given = {"silent_for": 9 * PATIENCE, "loop_may_rest": True}

        lively = plan(holdings("running", "next", runs=[run("running")], **given), NOW)
        hung = plan(holdings("running", "next", runs=[run("running", left=0)], **given), NOW)

        assert lively.tags == {"running", "next"}
        assert (hung.tags, hung.is_stuck) == (set(), True)

    @pytest.mark.parametrize(("timeout", "interval"), [(3_600, 15), (60, 15), (5, 1.25)])
    def test_three_beats_may_fail(self, timeout: float, interval: float) -> None:
        """A delivery that was just made is heard of again long before its timeout."""
        assert interval_of(timeout) == interval


class FakeIndex:
    """An index in memory that fails on demand."""

    def __init__(self) -> None:
        self.refreshed: list[set[str]] = []
        self.error: Exception | None = None
        self.is_closed = False

    def visibility_timeout(self) -> float:
        return TIMEOUT

    def refresh(self, tags: Collection[str]) -> None:
        if self.error is not None:
            raise self.error
        self.refreshed.append(set(tags))

    def close(self) -> None:
        self.is_closed = True


class FakeHands:
    """A worker that holds two messages and whose loop turns on demand."""

    def __init__(self) -> None:
        self.runs = [run("running", left=10 * PATIENCE)]
        self.loop_turns = True

    def holdings(self, *, silent_for: float) -> Holdings:
        return holdings("running", "next", runs=self.runs, silent_for=silent_for)

    def ask_loop(self, answer: Callable[[], None]) -> None:
        if self.loop_turns:
            answer()


class Worker:
    """A heartbeat between the two, by a clock that the test moves."""

    def __init__(self) -> None:
        self.index, self.hands, self.now = FakeIndex(), FakeHands(), NOW
        self.heartbeat = Heartbeat(self.hands, self.index, clock=lambda: self.now)

    def beat(self) -> float:
        pause = self.heartbeat.beat()
        self.now += pause
        return pause


@pytest.fixture
def worker() -> Worker:
    return Worker()


class TestHeartbeat:
    """One beat after the other."""

    def test_each_beat_says_all(self, worker: Worker) -> None:
        """A quarter of the timeout later the same is said again."""
        assert [worker.beat(), worker.beat()] == [15, 15]
        assert worker.index.refreshed == [{"running", "next"}] * 2

    def test_a_beat_that_fails_comes_again_soon(
        self, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With a new connection; one line says so, and one that it is over."""
        caplog.set_level(logging.INFO, "reliable_tasks")
        worker.index.error = ConnectionError("refused")
        assert [worker.beat(), worker.beat()] == [RETRY_SECONDS] * 2
        assert worker.index.is_closed

        worker.index.error = None
        worker.beat()

        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        assert "refused" in caplog.text
        assert worker.index.refreshed == [{"running", "next"}]

    def test_a_silence_that_others_noticed_is_said(
        self, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A pause of the process, or an outage, that was longer than the timeout."""
        worker.beat()
        worker.now += TIMEOUT
        worker.beat()

        assert "silent for 75.0 s" in caplog.text

    def test_a_loop_that_stops_turning_is_noticed(
        self, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """All is let go, said once, until it turns again."""
        worker.hands.loop_turns = False
        while worker.now < NOW + 2 * PATIENCE:
            worker.beat()
        before = len(worker.index.refreshed)
        assert before * 15 == pytest.approx(PATIENCE, abs=45)
        assert caplog.text.count("has not turned") == 1

        worker.hands.loop_turns = True
        worker.beat()
        worker.beat()

        assert len(worker.index.refreshed) == before + 1

    def test_a_pause_is_not_the_loops_fault(self, worker: Worker) -> None:
        """After a pause of the whole process the thread can be back before the loop."""
        worker.beat()
        worker.hands.loop_turns = False
        worker.now += 9 * PATIENCE
        worker.beat()
        worker.beat()

        assert worker.index.refreshed[-1] == {"running", "next"}

    def test_an_outage_is_not_the_loops_fault(self, worker: Worker) -> None:
        """It connects anew for as long as the broker is away; only beats that arrive count."""
        worker.hands.loop_turns = False
        worker.index.error = ConnectionError("refused")
        while worker.now < NOW + 2 * PATIENCE:
            worker.beat()
        worker.index.error = None
        worker.beat()

        assert worker.index.refreshed == [{"running", "next"}]

    def test_a_job_past_its_time_is_named_once(
        self, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its message goes to others, which is never silent."""
        worker.hands.runs = [run("running", left=0)]
        worker.beat()
        worker.beat()

        assert caplog.text.count("task[running] runs past its time limit") == 1
        assert worker.index.refreshed == [{"next"}] * 2

    def test_the_thread_begins_once_and_ends(self, worker: Worker) -> None:
        """Each reconnection starts it again; the shutdown closes its connection."""
        before = threading.active_count()
        worker.heartbeat.start()
        worker.heartbeat.start()
        eventually(lambda: worker.index.refreshed)
        assert threading.active_count() == before + 1

        worker.heartbeat.stop()

        assert threading.active_count() == before
        assert worker.index.is_closed


def request(tag: str, task: Any = None, **more: Any) -> Any:
    """Return what is asked of a Celery request."""
    usual = {"name": "task", "id": tag, "acknowledged": False, "time_limits": (None, None)}
    task = task or SimpleNamespace(time_limit=None)
    message = SimpleNamespace(delivery_tag=tag)
    return _Request(**{**usual, "task": task, "message": message, **more})


class _Request(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


def nothing() -> None:
    """Do nothing, as a task."""


@pytest.mark.hooks
class TestWorkerHands:
    """What is read from Celery and kombu."""

    @pytest.fixture
    def active(self, monkeypatch: pytest.MonkeyPatch) -> set[Any]:
        """Requests that run."""
        active: set[Any] = set()
        monkeypatch.setattr(consumer.state, "active_requests", active)
        return active

    @pytest.fixture
    def hands(self) -> WorkerHands:
        """A worker that was delivered three messages, and is done with one."""
        qos = QoS(SimpleNamespace(do_restore=False))
        for tag in ("one", "two", "three"):
            qos._delivered[tag] = tag
        qos._quick_ack("two")
        channel = SimpleNamespace(qos=qos)
        hands = WorkerHands(
            SimpleNamespace(
                task_consumer=SimpleNamespace(channel=channel),
                blueprint=SimpleNamespace(state=consumer.RUN),
                pool=SimpleNamespace(num_processes=4),
            )
        )
        hands.turn_to_new_channel()
        return hands

    def test_what_was_given_back_is_not_held(self, hands: WorkerHands, active: set[Any]) -> None:
        """Another worker may have it, under the same tag; kombu forgets it only later."""
        assert hands.holdings(silent_for=0).delivered == ["one", "three"]

    def test_a_hard_limit_ends_a_run(self, hands: WorkerHands, active: set[Any]) -> None:
        """The call's, else the task's, with the margin that the guard's max_run has; else a day."""
        app = Celery(set_as_current=False)
        task = app.task(name="plain", time_limit=20)(nothing)
        guarded = app.task(name="guarded", base=IdempotentTask, max_run=50)(nothing)
        active |= {
            request("none"),
            request("task", task),
            request("call", task, time_limits=(10, None)),
            request("guarded", guarded),
        }
        ends = {each.tag: each.ends_at for each in hands.holdings(silent_for=0).runs}
        begun = ends["guarded"] - 50

        lengths = {tag: end - begun for tag, end in ends.items()}

        expected = {"none": 86_400, "task": 50, "call": 40, "guarded": 50}
        assert lengths == pytest.approx(expected, abs=1)

    def test_a_run_begins_once(self, hands: WorkerHands, active: set[Any]) -> None:
        """Each beat sees the same end."""
        active.add(request("one"))

        [first] = hands.holdings(silent_for=0).runs
        [second] = hands.holdings(silent_for=0).runs

        assert first == second

    @pytest.mark.parametrize("pool", [SoloPool, BasePool])
    def test_the_loop_rests_in_a_solo_pool(
        self, hands: WorkerHands, active: set[Any], pool: type[BasePool]
    ) -> None:
        """There the job runs in it."""
        hands._consumer.pool = pool(limit=1)

        assert hands.holdings(silent_for=0).loop_may_rest is (pool is SoloPool)

    def test_the_loop_rests_when_the_worker_ends(
        self, hands: WorkerHands, active: set[Any]
    ) -> None:
        """A warm shutdown waits for what runs."""
        hands._consumer.blueprint.state = None

        assert hands.holdings(silent_for=0).loop_may_rest

    def test_sets_that_change_are_read_again(
        self, hands: WorkerHands, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The loop goes on while the thread looks."""
        monkeypatch.setattr(consumer.state, "active_requests", Changing({request("one"): None}))
        hands._qos._delivered = Changing({"one": None})

        found = hands.holdings(silent_for=0)

        assert found.delivered == ["one"]
        assert [each.tag for each in found.runs] == ["one"]


@pytest.mark.hooks
class TestLostConnection:
    """What happens to the messages of a channel that closes."""

    @pytest.fixture
    def active(self, monkeypatch: pytest.MonkeyPatch) -> set[Any]:
        """Requests that run."""
        active: set[Any] = set()
        monkeypatch.setattr(consumer.state, "active_requests", active)
        return active

    @pytest.fixture
    def celery_consumer(self) -> Any:
        """A consumer with a channel to which a running and a waiting message were delivered."""
        app = Celery(set_as_current=False)
        channel = FakeChannel("running", "waiting")
        return SimpleNamespace(
            app=app,
            task_consumer=SimpleNamespace(channel=channel),
            blueprint=SimpleNamespace(state=consumer.RUN),
        )

    def close(self, celery_consumer: Any, active: set[Any]) -> list[str]:
        """Close the channel while a job runs; returns what it gave back."""
        active.add(request("running"))
        qos = celery_consumer.task_consumer.channel.qos
        given_back: list[str] = []
        qos.restore_unacked = lambda: given_back.extend(qos._delivered)
        WorkerHands(celery_consumer).turn_to_new_channel()

        qos.restore_unacked()

        return given_back

    def test_what_runs_on_is_kept(self, celery_consumer: Any, active: set[Any]) -> None:
        """Only what waits goes back to the queues at once."""
        assert self.close(celery_consumer, active) == ["waiting"]

    def test_what_is_cancelled_is_given_back(self, celery_consumer: Any, active: set[Any]) -> None:
        """Celery can be told to cancel what runs."""
        celery_consumer.app.conf.worker_cancel_long_running_tasks_on_connection_loss = True

        assert self.close(celery_consumer, active) == ["running", "waiting"]

    def test_all_is_given_back_when_the_worker_ends(
        self, celery_consumer: Any, active: set[Any]
    ) -> None:
        """A cold shutdown ends the jobs."""
        celery_consumer.blueprint.state = None

        assert self.close(celery_consumer, active) == ["running", "waiting"]

    def test_a_broker_that_is_away_ends_no_worker(self, caplog: pytest.LogCaptureFixture) -> None:
        """What could not be given back comes again after the timeout; a line says so."""
        qos = FakeChannel("waiting").qos
        qos.restore_unacked = lambda: 1 / 0
        unacked.keep_when_cut(qos, list)

        qos.restore_unacked()

        assert "(1 messages)" in caplog.text
        assert not qos._delivered

    def test_the_new_channel_acknowledges(self, celery_consumer: Any, active: set[Any]) -> None:
        """The message of a job that ran, even if it has ended by then."""
        first, job = celery_consumer.task_consumer.channel, request("running")
        active |= {job, request("waiting", acknowledged=True)}
        hands = WorkerHands(celery_consumer)
        hands.turn_to_new_channel()
        first.qos.restore_unacked()
        active.clear()
        second = celery_consumer.task_consumer.channel = FakeChannel("new")

        hands.turn_to_new_channel()

        assert job.message.channel is second


class FakeChannel:
    """A channel to which messages were delivered."""

    do_restore = False

    def __init__(self, *tags: str) -> None:
        self.qos = QoS(self)
        self.qos._delivered.update(dict.fromkeys(tags))


class Changing(dict[Any, Any]):
    """A collection that changes under the first look."""

    looks = 0

    def __iter__(self) -> Any:
        self.looks += 1
        if self.looks == 1:
            raise RuntimeError("Set changed size during iteration")
        return super().__iter__()


@pytest.mark.hooks
class TestStep:
    """Where it takes part."""

    @pytest.fixture
    def app(self) -> Celery:
        app = Celery("held", broker="redis://localhost:1/0", set_as_current=False)
        setup(app, {"broker_transport_options": {"visibility_timeout": 60, "socket_timeout": 2}})
        return app

    def include(self, app: Celery) -> bool:
        parent = SimpleNamespace(app=app, steps=[])
        step.HeartbeatStep(parent).include(parent)
        return bool(parent.steps)

    def test_redis_workers_beat(self, app: Celery) -> None:
        """And kombu has all that this leans on."""
        assert unacked.missing_names() == []
        assert self.include(app)

    def test_sentinel_workers_beat(self, app: Celery) -> None:
        """Behind the sentinels is a Redis like any other."""
        app.conf.broker_url = "sentinel://localhost:1/0"

        assert self.include(app)

    def test_others_do_not(self, app: Celery) -> None:
        """RabbitMQ knows who holds what."""
        app.conf.broker_url = "amqp://localhost:1//"

        assert not self.include(app)

    def test_a_worker_can_be_without(self) -> None:
        """`setup` adds it unless it is told not to, and a second call adds nothing."""
        without, twice = (Celery(set_as_current=False) for _ in range(2))
        setup(without, heartbeat=False)
        setup(twice)
        setup(twice)

        assert HEARTBEAT_STEP not in without.steps["consumer"]
        assert HEARTBEAT_STEP in twice.steps["consumer"]

    def test_an_unknown_kombu_gets_a_long_timeout(
        self,
        app: Celery,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Better a late second delivery than one in the middle of each long job."""
        needed = {**unacked._NEEDED, QoS: ("_delivered", "_renamed")}
        monkeypatch.setattr(unacked, "_NEEDED", needed)

        assert not self.include(app)

        options = {"visibility_timeout": 3_600, "socket_timeout": 2}
        assert app.conf.broker_transport_options == options
        assert HEARTBEAT_STEP not in app.steps["consumer"]
        assert "QoS._renamed" in caplog.text

    def test_waits_may_be_longer_than_the_timeout(self, app: Celery) -> None:
        """Deferrals and retries that wait in a worker are held like anything else."""
        without = Celery(set_as_current=False)
        setup(without, {"broker_transport_options": {"visibility_timeout": 60}}, heartbeat=False)

        assert longest_wait_ms(app) == 900_000
        assert longest_wait_ms(without) == 30_000
