"""Workers and pytest-celery nodes as local processes: real, breakable, never left behind."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeout

from reliable_tasks.testing import (
    BeatFailed,
    BeatProcess,
    Ledger,
    WorkerFailed,
    WorkerProcess,
    connected_app,
    eventually,
    valkey_server,
)
from reliable_tasks.testing.processes import children_of, group_of
from tests.integration.apps.plain import pay, pay_slowly

APP = "tests.integration.apps.plain"


@pytest.fixture(autouse=True)
def no_docker(monkeypatch):
    """Point Docker's client at nothing, so that a use of it would be an error."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/daemon")


on_valkey = pytest.mark.parametrize("server", ["valkey"], indirect=True)
on_redis = pytest.mark.parametrize("server", ["redis_server"], indirect=True)


class TestCelerySetup:
    """pytest-celery's `celery_setup` on our nodes."""

    def test_runs_a_task_without_docker(self, celery_setup, ledger):
        """A task that is published by the test runs in a worker process and answers."""
        assert celery_setup.ready(ping=True, control=True)

        assert pay.delay("a").get(timeout=30) == "a"

        assert ledger.counts() == {"a": 1}
        assert len(celery_setup) == 3

    @on_valkey
    def test_killed_worker_restarts(self, celery_setup):
        """A worker node that was killed is gone, and after a restart works again."""
        node = celery_setup.worker
        processes = group_of(node.container.process.pid)
        node.kill()
        assert node.container.status == "exited"
        eventually(lambda: not set(processes) & set(group_of(processes[0])))

        node.restart()

        assert pay.delay("b").get(timeout=30) == "b"

    @on_redis
    def test_broker_keeps_messages_over_a_restart(self, celery_setup, ledger):
        """A message that waits in the broker is there after the broker was restarted."""
        celery_setup.worker.kill()
        pay.delay("c")

        celery_setup.broker.restart(force=True)
        celery_setup.worker.restart()

        eventually(lambda: ledger.counts()["c"] == 1)

    @on_valkey
    def test_node_knows_its_worker(self, celery_setup):
        """Name, log and processes are those of the worker."""
        node = celery_setup.worker
        [answer] = celery_setup.app.control.ping([node.hostname()], timeout=10)

        assert list(answer) == [node.hostname()]
        node.assert_log_exists("ready.")
        rows = node.get_running_processes_info(["pid", "cmdline"])
        assert {row["pid"] for row in rows} == set(group_of(node.container.process.pid))
        assert node.get_running_processes_info(["pid"], {"pid": -1}) == []


@pytest.fixture
def database(valkey):
    """One kind of server is enough where the worker is the subject."""
    return valkey.new_database()


@pytest.fixture
def app(database):
    """A producer and reader on the test's database."""
    with connected_app(database.url) as app:
        yield app


@pytest.fixture
def start(worker, database, app):
    """Start a worker of the plain app on the test's database."""

    def start(**options):
        return worker(APP, env=database.celery_env, **options)

    return start


def test_closed_app_leaves_no_connection():
    """A connected app has closed every connection at its end, and its results open none."""
    with valkey_server() as server:
        with connected_app(server.url) as app:
            result = app.send_task(pay.name, ["a"])
            with pytest.raises(CeleryTimeout):
                result.get(timeout=0.1)
            assert len(server.client().client_list()) > 2
        del result

        assert len(server.client().client_list()) == 1


POOLS = ["prefork", "threads", "solo", "gevent"]


class TestWorkerProcess:
    """A worker process that a test can break."""

    @pytest.mark.parametrize("pool", POOLS)
    def test_runs_jobs_in_every_pool(self, start, app, ledger, pool):
        """
        A job takes effect once in each kind of pool; only prefork has children.

        terminate() lets a running job finish and ends the worker with status 0.
        """
        process = start(pool=pool)

        assert app.send_task(pay.name, ["a"]).get(timeout=30) == "a"

        assert len(process.children()) == (2 if pool == "prefork" else 0)
        if pool != "prefork":
            with pytest.raises(WorkerFailed, match="has no child"):
                process.kill_child()
        app.send_task(pay_slowly.name, ["b", 1])
        eventually(lambda: ledger.counts("begun")["b"] == 1)

        assert process.terminate() == 0

        assert ledger.counts() == {"a": 1, "b": 1}

    def test_cold_shutdown_does_not_wait(self, start, app, ledger):
        """quit() ends the worker while its job is still running."""
        process = start()
        app.send_task(pay_slowly.name, ["a", 60])
        eventually(lambda: ledger.counts("begun")["a"] == 1)

        process.quit(timeout=30)

        assert ledger.counts() == {}

    def test_kill_takes_main_process_and_children(self, start, app, ledger):
        """kill() leaves nothing of the worker, in the middle of a job."""
        process = start()
        app.send_task(pay_slowly.name, ["a", 60])
        eventually(lambda: ledger.counts("begun")["a"] == 1)

        process.kill()

        assert process.exit_code == -9
        eventually(lambda: group_of(process.pid) == [])
        assert ledger.counts() == {}

    def test_killed_main_process_leaves_its_job_undone(self, start, app, ledger):
        """kill_main() ends the main process alone; the clean-up takes what it left."""
        process = start()
        app.send_task(pay_slowly.name, ["a", 60])
        eventually(lambda: ledger.counts("begun")["a"] == 1)

        process.kill_main()

        assert not process.is_running
        process.close()
        eventually(lambda: group_of(process.pid) == [])

    def test_nothing_is_left_behind(self, database):
        """After the with block no process of the worker lives, even if some were paused."""
        with WorkerProcess(APP, env=database.celery_env) as process:
            processes = group_of(process.pid)
            process.pause(process.children()[0])

        assert len(processes) == 3
        eventually(lambda: group_of(process.pid) == [])
        assert not process.directory.exists()
        assert not set(processes) & set(children_of(1))

    def test_worker_that_cannot_start_shows_its_log(self):
        """A worker that ends before it is ready is an error with the worker's own words."""
        with pytest.raises(WorkerFailed, match="no_such_module"), WorkerProcess("no_such_module"):
            pass


@dataclass(frozen=True)
class Company:
    """A worker with two children, and who gives it jobs."""

    process: WorkerProcess
    app: Celery
    ledger: Ledger


@pytest.fixture(scope="module")
def company(valkey, tmp_path_factory):
    """One worker for all tests after which it still works; their jobs have names of their own."""
    database = valkey.new_database()
    ledger = Ledger(tmp_path_factory.mktemp("company") / "ledger")
    with (
        connected_app(database.url) as app,
        WorkerProcess(APP, env={**database.celery_env, **ledger.env}) as process,
    ):
        yield Company(process, app, ledger)


class TestWorkerThatLivesOn:
    """What a test can do to a worker process that works again afterwards."""

    def test_killed_child_is_replaced(self, company):
        """A killed child is dead, and the worker starts another."""
        process = company.process
        before = process.children()

        victim = process.kill_child()

        assert victim == before[0]
        eventually(lambda: len(process.children()) == 2 and victim not in process.children())
        assert process.is_running

    def test_only_its_own_children_can_be_killed(self, company):
        """kill_child() and pause() refuse a process that is not the worker's."""
        with pytest.raises(WorkerFailed, match="has no child"):
            company.process.kill_child(1)
        with pytest.raises(WorkerFailed, match="does not belong"):
            company.process.pause(1)

    def test_paused_worker_runs_nothing(self, company):
        """A paused worker takes no job; resumed, it does."""
        company.process.pause()
        result = company.app.send_task(pay.name, ["a"])
        assert not company.app.control.ping(timeout=0.5)

        company.process.resume()

        assert result.get(timeout=30) == "a"
        assert company.ledger.counts()["a"] == 1

    def test_paused_child_stops_in_the_middle_of_its_job(self, company):
        """A child that is paused makes no progress while the main process still answers."""
        result = company.app.send_task(pay_slowly.name, ["b", 0.5])
        eventually(lambda: company.ledger.counts("begun")["b"] == 1)
        [begun] = company.ledger.entries("begun")

        company.process.pause(begun.pid)
        assert company.app.control.ping(timeout=1)
        assert company.ledger.counts()["b"] == 0
        company.process.resume(begun.pid)

        assert result.get(timeout=30) == "b"

    def test_restart_keeps_name_and_log(self, company):
        """A restarted worker has the same name, a new process and one log."""
        process = company.process
        name, pid = process.name, process.pid

        process.restart()

        assert (process.name, process.log.count(f"{name} ready.")) == (name, 2)
        assert process.pid != pid
        assert company.app.send_task(pay.name, ["c"]).get(timeout=30) == "c"


class TestBeatProcess:
    """A beat process that a test can break."""

    def test_publishes_until_it_is_killed(self, database):
        """A beat publishes what is due; killed, it does not, and nothing of it is left."""
        published = database.client()
        with BeatProcess(APP, env=database.celery_env) as beat:
            eventually(lambda: published.llen("celery") >= 2)
            beat.kill()
            count = published.llen("celery")

        assert beat.exit_code == -9
        assert published.llen("celery") == count
        assert not beat.directory.exists()

    def test_restart_keeps_the_schedule(self, database):
        """A beat that ended in good order goes on from the schedule file that it left."""
        with BeatProcess(APP, env=database.celery_env, log_level="DEBUG") as beat:
            eventually(lambda: "Ticking" in beat.log)  # it has opened its schedule file
            assert beat.terminate() == 0
            assert list(beat.directory.glob("schedule*"))

            beat.restart()

            assert beat.log.count(beat.ready_line) == 2

    def test_beat_that_cannot_start_shows_its_log(self):
        """A beat that ends before it is ready is an error with the beat's own words."""
        with pytest.raises(BeatFailed, match="no_such_module"), BeatProcess("no_such_module"):
            pass
