"""Real workers under real faults, in short; `tests/chaos` has the long forms."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from celery.exceptions import TaskRevokedError, TimeLimitExceeded

from reliable_tasks import Quarantined
from reliable_tasks.core.keys import shelf_name
from reliable_tasks.core.records import State
from reliable_tasks.deadletter.letters import Letter
from reliable_tasks.testing import Ledger, Server, WorkerProcess, eventually, valkey_server
from tests.integration import scenarios
from tests.integration.apps.guarded import (
    keyed,
    leave,
    longer_than_its_lease,
    poison,
    retried,
    retried_by_itself,
    work,
)
from tests.integration.campaign import Campaign, names, running
from tests.integration.grounds import Ground, RedisGround

NewGround = Callable[..., Ground]

PRODUCER = """
import json, sys
from celery import Celery
url, settings, name, job, *ids = sys.argv[1:]
app = Celery("elsewhere", broker=url)
app.conf.update(json.loads(settings))
for task_id in ids:
    app.send_task(name, [job], task_id=task_id)
"""


def send_elsewhere(campaign: Campaign, name: str, job: str, *, ids: list[str]) -> None:
    """Publish from a process that has neither this library nor the task."""
    broker = [campaign.ground.broker_url, json.dumps(campaign.ground.settings)]
    command = [sys.executable, "-c", PRODUCER, *broker, name, job, *ids]
    subprocess.run(command, check=True, timeout=60)


@pytest.fixture(scope="module")
def new_ground(valkey: Server) -> NewGround:
    """Make grounds on Valkey, or on another server that a test gives."""

    def make(server: Server = valkey) -> Ground:
        server.ensure_running()
        return RedisGround(server.new_database())

    return make


@pytest.fixture(scope="module")
def calm(new_ground, tmp_path_factory):
    """A worker that lives through many tests, each with jobs of its own."""
    ledger = Ledger(tmp_path_factory.mktemp("calm") / "ledger")

    def start(app, *, env, **options):
        env = {**env, **ledger.env}
        return stack.enter_context(WorkerProcess(app, env=env, **options))

    with running(new_ground(), ledger, start) as campaign, ExitStack() as stack:
        campaign.worker(concurrency=4)
        yield campaign


@pytest.fixture
def campaign(new_ground, ledger, worker):
    """A campaign of the test's own, with no worker yet."""
    with running(new_ground(), ledger, worker) as campaign:
        yield campaign


class TestCopies:
    """The same job more than once, from several producers."""

    def test_three_copies_of_a_message(self, calm):
        """Three copies of each of many messages, from four threads: one effect each."""
        scenarios.three_copies_race(calm, 30)

    def test_three_messages_of_a_key(self, calm):
        """Three messages for each of many keys: one effect each, and one answer for all."""
        scenarios.three_messages_race(calm, 20)

    def test_duplicate_gets_the_stored_result(self, calm):
        """A message that comes after its key's job is done gets that job's result."""
        first = calm.send(keyed, "again", job_id="again-1").get(timeout=30)

        second = calm.send(keyed, "again", job_id="again-2").get(timeout=30)

        assert second == first
        assert len(calm.begins("again")) == 1

    def test_copies_from_a_producer_without_the_task(self, calm):
        """Messages of `send_task` and of the task's own class are one job by their arguments."""
        send_elsewhere(calm, keyed.name, "foreign", ids=["foreign-1", "foreign-2"])
        calm.send(keyed, "foreign", job_id="own")
        messages = ["foreign-1", "foreign-2", "own"]
        answers = [calm.result(message).get(timeout=30) for message in messages]

        assert answers == [answers[0]] * 3
        assert len(calm.begins("foreign")) == 1

    def test_copies_of_one_id_from_a_producer_without_the_task(self, calm):
        """Copies of one task id by `send_task` take effect once."""
        send_elsewhere(calm, work.name, "same-id", ids=["same-id"] * 3)
        calm.wait_settled(["same-id"])

        assert calm.ledger.counts()["same-id"] == 1

    def test_lease_shorter_than_the_job(self, calm):
        """A job of many leases, longer than the visibility timeout, runs once beside its copies."""
        for _ in range(2):
            calm.send(longer_than_its_lease, "long", 4.5)
        calm.wait_settled(["long"])

        assert len(calm.begins("long")) == 1
        assert calm.ledger.counts()["long"] == 1


class TestEndings:
    """Ways to end that Celery knows."""

    @pytest.mark.parametrize("task", [retried, retried_by_itself], ids=["retry", "autoretry_for"])
    def test_two_retries_and_success(self, calm, task):
        """Each attempt runs once, and the third takes effect."""
        job = f"job of {task.__name__}"

        assert calm.send(task, job).get(timeout=30) == 3

        attempts = [begin.details["attempt"] for begin in calm.begins(job)]
        assert attempts == [1, 2, 3]
        assert calm.ledger.counts()[job] == 1

    def test_hard_time_limit_ends_the_job(self, calm):
        """A job at its hard time limit is over: no copy runs again, and no crash is counted."""
        result = calm.send(work, "limit", kwargs={"before": 30}, time_limit=1)
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=30)
        calm.send(work, "limit")
        calm.wait_settled(["limit"])

        record = calm.record(work, "limit")
        assert (record.state, record.closed, record.suspects) == (State.FAILED, True, ())
        assert len(calm.begins("limit")) == 1
        assert calm.ledger.counts()["limit"] == 0

    def test_jobs_that_were_ended_do_not_run_elsewhere(self, campaign):
        """It is the record that ends one: a worker that has heard of no end drops a late copy."""
        first = campaign.worker(concurrency=2)
        results = {
            job: campaign.send(work, job, kwargs={"before": 60}, time_limit=limit)
            for job, limit in (("revoked", None), ("limited", 3))
        }
        campaign.wait_begun("revoked")
        results["revoked"].revoke(terminate=True, signal="SIGKILL")
        for job, state in (("revoked", "REVOKED"), ("limited", "FAILURE")):
            eventually(lambda: results[job].state == state, timeout=30)  # noqa: B023
        first.kill()

        campaign.worker(concurrency=1)
        for job in results:
            campaign.send(work, job)
        campaign.wait_settled(results)

        for job in results:
            assert len(campaign.begins(job)) == 1
            record = campaign.record(work, job)
            assert (record.state, record.closed, record.suspects) == (State.FAILED, True, ())

    def test_new_request_after_a_revoked_countdown(self, calm):
        """A revoked job never runs, and neither it nor its end blocks the next of its key."""
        waiting = calm.send(keyed, "revoked", job_id="first", countdown=2)
        waiting.revoke()
        with pytest.raises(TaskRevokedError):
            waiting.get(timeout=30)

        answer = calm.send(keyed, "revoked", job_id="second").get(timeout=30)

        [begin] = calm.begins("revoked")
        assert begin.details["id"] == "second"
        assert answer["token"] == begin.details["token"]

    @pytest.mark.parametrize("task", [poison, leave], ids=["SIGKILL", "sys.exit"])
    def test_poison_is_quarantined_and_kept(self, calm, task):
        """A job that ends its process each time runs `max_crashes` times, and is kept whole."""
        job = f"poison by {task.__name__}"
        result = calm.send(task, job)

        with pytest.raises(Quarantined):
            result.get(timeout=60)
        calm.wait_settled([job])

        crashes = [begin.details["crashes"] for begin in calm.begins(job)]
        assert crashes == [0, 1, 2]
        letter = Letter.parse(dict(calm.records.letters(shelf_name("")))[job])
        args, kwargs, _ = letter.content(["json"])
        assert (letter.task, args, kwargs) == (task.name, [job], {})
        assert [each["outcome"] for each in letter.attempts] == ["died"] * 3
        assert calm.record(task, job).state is State.QUARANTINED


class TestDeaths:
    """Processes that die without a word."""

    def test_children_are_killed(self, campaign):
        """SIGKILL of pool children: nothing lost, doubled only between effect and record."""
        scenarios.children_die(campaign, 60, seconds=0.7)

    def test_whole_worker_is_killed(self, campaign):
        """SIGKILL of the whole worker: the same."""
        scenarios.workers_die(campaign, 40, kills=1)

    def test_children_that_are_replaced_lose_nothing(self, campaign):
        """Children that end after two tasks each are no crash and no reason to run again."""
        campaign.worker(arguments=["--max-tasks-per-child", "2"])
        jobs = names("few", 16)
        campaign.send_all(work, jobs)
        campaign.wait_settled(jobs)

        begins = [campaign.begins(job) for job in jobs]
        assert [len(each) for each in begins] == [1] * len(jobs)
        assert len({each[0].pid for each in begins}) >= len(jobs) // 2
        assert campaign.ledger.counts() == dict.fromkeys(jobs, 1)


class TestPauses:
    """Processes that are paused past their lease."""

    def test_zombie_changes_nothing(self, campaign):
        """A paused execution's fenced write is refused, a bare one doubled; the result stays."""
        scenarios.paused_past_its_lease(campaign)

    def test_zombie_leaves_the_safety_net(self, campaign):
        """A job survives its second worker's death after the first came back and stepped aside."""
        scenarios.paused_and_back_before_the_winner_dies(campaign)


class TestShutdowns:
    """Announced ends of a worker: no job is lost, and no crash is counted."""

    JOBS = names("deploy", 6)

    def _run(self, campaign: Campaign, seconds: float, stop: str) -> None:
        first = campaign.worker()
        campaign.send_all(work, self.JOBS, before=seconds)
        for job in self.JOBS[:2]:
            campaign.wait_begun(job)
        getattr(first, stop)()
        campaign.worker(concurrency=4)
        campaign.wait_settled(self.JOBS)

        assert campaign.ledger.counts() == dict.fromkeys(self.JOBS, 1)
        crashes = [begin.details["crashes"] for begin in campaign.ledger.entries("begin")]
        assert crashes == [0] * len(crashes)

    def test_warm(self, campaign):
        """SIGTERM: what runs is finished, what waits is left to the next worker."""
        self._run(campaign, 0.5, "terminate")

        assert len(campaign.ledger.entries("begin")) == len(self.JOBS)

    @pytest.mark.chaos  # `test_soft`, and in test_celery.py a job on each Celery, stay
    def test_cold(self, campaign):
        """SIGQUIT: what runs is cut off, and starts again on the next worker."""
        campaign.settings["worker_soft_shutdown_timeout"] = 0
        self._run(campaign, 2, "quit")

        assert len(campaign.ledger.entries("begin")) > len(self.JOBS)

    def test_soft(self, campaign):
        """SIGQUIT with a soft shutdown that is too short: the same."""
        campaign.settings["worker_soft_shutdown_timeout"] = 0.5
        self._run(campaign, 2, "quit")

        assert len(campaign.ledger.entries("begin")) > len(self.JOBS)


class TestServers:
    """Servers that die."""

    def test_store_restarts(self, new_ground, ledger, worker):
        """Store and backend (and Redis as broker) restarted: lost only in kombu's window."""
        with (
            valkey_server(appendonly=True, config=["appendfsync always"]) as server,
            running(new_ground(server), ledger, worker) as campaign,
        ):
            scenarios.store_dies(campaign, server, 40, down=0.5)

    def test_store_is_down_while_the_broker_is_up(self, new_ground, ledger, worker):
        """Without the store nothing runs or is lost; once it is back, each job runs once."""
        jobs = names("unguarded", 10)
        with (
            valkey_server(appendonly=True) as server,
            running(new_ground(), ledger, worker, store=server.new_database()) as campaign,
        ):
            process = campaign.worker()
            server.kill()
            campaign.send_all(work, jobs)
            eventually(lambda: process.log.count("deferred") >= 2 * len(jobs))
            assert ledger.entries() == []

            server.start()
            campaign.wait_settled(jobs)

            assert ledger.counts() == dict.fromkeys(jobs, 1)
            assert campaign.not_ready(jobs) == []

    def test_store_that_stands_still_takes_claims_that_nobody_waits_for(
        self, new_ground, ledger, worker
    ):
        """A claim that is applied after its time-out neither delays its job nor is a death."""
        settings = {"reliable_tasks_lease_seconds": 60, "reliable_tasks_store_timeout": 0.5}
        with (
            valkey_server() as server,
            running(
                new_ground(), ledger, worker, store=server.new_database(), **settings
            ) as campaign,
        ):
            process = campaign.worker(concurrency=1)
            campaign.send(work, "first").get(timeout=30)
            server.pause()
            try:
                result = campaign.send(work, "unheard")
                eventually(lambda: process.log.count("deferred") >= 1)
            finally:
                server.resume()
            result.get(timeout=30)  # the lease that nobody holds takes 60 s

            [begin] = campaign.begins("unheard")
            assert begin.details["crashes"] == 0
            assert campaign.record(work, "unheard").line >= 1

    def test_store_blinks_while_jobs_run(self, new_ground, ledger, worker):
        """A store that is away for less than a lease, when outcomes are due, doubles nothing."""
        jobs = names("blink", 4)
        with (
            valkey_server(appendonly=True) as server,
            running(new_ground(), ledger, worker, store=server.new_database()) as campaign,
        ):
            campaign.worker(concurrency=len(jobs))
            campaign.send_all(work, jobs, before=0.5)
            eventually(lambda: len(ledger.entries("begin")) == len(jobs))

            server.kill()
            eventually(lambda: len(ledger.entries("effect")) == len(jobs))
            server.start()
            campaign.wait_settled(jobs)

            assert ledger.counts("begin") == ledger.counts() == dict.fromkeys(jobs, 1)
            assert campaign.not_ready(jobs) == []
            assert {campaign.record(work, job).state for job in jobs} == {State.DONE}
