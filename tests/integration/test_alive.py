"""The liveness probe of real workers, healthy and wedged."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from _reliable_tasks.alive import Verdict, look
from reliable_tasks.testing import Ledger, WorkerProcess, eventually, valkey_server
from tests.integration.apps.holding import QUEUES
from tests.integration.holders import Holders, holders

WITHIN = 4.0  # seconds; reports come every two
LONG = 7.0
MARGIN = 20.0  # for a busy machine


class Watched:
    """One worker of `apps.holding`, and the reports that it writes."""

    def __init__(self, held: Holders, folder: Path) -> None:
        self.held, self.folder = held, folder

    @property
    def worker(self) -> WorkerProcess:
        return self.held.workers[0]

    def verdict(self, broker_within: float | None = None) -> Verdict:
        given = {"within": WITHIN, "broker_within": broker_within}
        [found] = look(str(self.folder), self.worker.name, **given)
        return found

    def pings(self) -> bool:
        """Whether the worker answers `celery inspect ping`."""
        given = {"destination": [self.worker.name], "timeout": MARGIN, "limit": 1}
        return bool(self.held.app.control.ping(**given))

    def wait_alive(self, words: str = "") -> None:
        self._wait(words, is_alive=True)

    def wait_dead(self, words: str) -> None:
        self._wait(words, is_alive=False)

    def _wait(self, words: str, *, is_alive: bool) -> None:
        last: list[Verdict] = []

        def found() -> bool:
            last[:] = [self.verdict()]
            return last[0].is_alive is is_alive and words in last[0].reason

        eventually(found, timeout=WITHIN + MARGIN, message=lambda: f"{words!r}, not {last[0]}")

    def wait_without_fault(self, seconds: float) -> None:
        """See it alive at each look for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.verdict().is_alive, str(self.verdict())
            time.sleep(0.1)

    def begin(self, task: str, *jobs: str, seconds: float = LONG) -> None:
        for job in jobs:
            self.held.send(task, job, seconds)
        for job in jobs:
            self.held.wait_begun(job)


def start(stack: ExitStack, database, ledger: Ledger, pool: str, **given: object) -> Watched:
    """Start a worker with two slots, one in the solo pool."""
    folder = ledger.path.parent / "reports"
    held = stack.enter_context(
        holders(database, ledger, [pool], concurrency=2, reports=str(folder), **given)
    )
    return Watched(held, folder)


@pytest.fixture(scope="module")
def prefork(valkey, tmp_path_factory) -> Iterator[Watched]:
    """A prefork worker for the tests here, all of which leave it well."""
    valkey.ensure_running()
    ledger = Ledger(tmp_path_factory.mktemp("alive") / "ledger")
    with ExitStack() as stack:
        yield start(stack, valkey.new_database(), ledger, "prefork")


def test_an_idle_worker(prefork):
    """It has nothing to do and is alive; both commands say so, one of them in a moment."""
    prefork.wait_alive("its main loop turns, 0 of 2 slots run jobs")

    begun = time.monotonic()
    words = [Path(sys.executable).with_name("reliable-tasks"), "alive"]
    done = subprocess.run(
        [*words, "--directory", prefork.folder], capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - begun

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{prefork.worker.name} is alive: its main loop turns")
    assert seconds < 1


def test_a_main_process_that_stands_still(prefork):
    """SIGSTOP of the main process alone, until it goes on."""
    prefork.worker.pause(prefork.worker.pid)
    try:
        prefork.wait_dead("so its main process stands still")
    finally:
        prefork.worker.resume(prefork.worker.pid)
    prefork.wait_alive()


@pytest.mark.hooks
def test_children_that_stand_still(prefork):
    """SIGSTOP of both children is fatal, for they renew no lease; of one of two it is borne."""
    prefork.begin("guarded_work", "first", "second")
    one, other = prefork.worker.children()
    prefork.worker.pause(one)
    prefork.worker.pause(other)
    try:
        prefork.wait_dead("jobs that hang have all of its slots (2): tests.integration.apps.")
        assert prefork.pings(), "Celery's own question says that all is well"
        prefork.worker.resume(one)
        prefork.wait_alive("of which 1 hang")
    finally:
        prefork.worker.resume()
    prefork.wait_alive()


@pytest.mark.chaos
class TestLong:
    """What takes longer, or kills the worker."""

    @pytest.fixture(params=["prefork", "threads", "solo", "gevent"])
    def watched(self, request, valkey, tmp_path) -> Iterator[Watched]:
        """A worker in each pool."""
        valkey.ensure_running()
        ledger = Ledger(tmp_path / "ledger")
        with ExitStack() as stack:
            yield start(stack, valkey.new_database(), ledger, request.param)

    def test_busy_and_killed(self, watched):
        """All slots are busy for long, by right; then the worker is killed."""
        pool_is_solo = watched.worker.arguments[2] == "solo"
        watched.begin("work", *(["one"] if pool_is_solo else ["one", "two"]), seconds=3 * WITHIN)
        if pool_is_solo:
            watched.wait_alive("a job runs in its main loop, 1 of 1 slots run jobs")
        watched.wait_without_fault(2 * WITHIN)
        watched.worker.kill()

        assert "ended without a word" in watched.verdict().reason

    def test_guarded_jobs_that_last(self, watched):
        """Jobs of many leases are renewed, in whatever they run."""
        pool_is_solo = watched.worker.arguments[2] == "solo"
        jobs = ["one"] if pool_is_solo else ["one", "two"]
        watched.begin("guarded_work", *jobs, seconds=4 * WITHIN)
        watched.wait_alive(f"{len(jobs)} of {len(jobs)} slots run jobs")

        watched.wait_without_fault(2 * WITHIN)
        assert "hang" not in watched.verdict().reason

    def test_jobs_past_their_time(self, watched):
        """What nobody ends is past its max_run, in each slot."""
        pool_is_solo = watched.worker.arguments[2] == "solo"
        hung = ["one"] if pool_is_solo else ["one", "two"]
        watched.begin("hung_work", *hung, seconds=60)
        words = "its main loop has not turned" if pool_is_solo else "jobs that hang have all"

        watched.wait_dead(words)

    def test_a_loop_that_stands_still(self, watched):
        """The main loop is held by something that is no job, though its other threads run."""
        name = watched.worker.name
        watched.held.app.control.broadcast("wedge", {"seconds": 3 * WITHIN}, destination=[name])

        watched.wait_dead("")  # gevent's other greenlets stand still as well
        watched.wait_alive("its main loop turns")

    def test_children_that_take_nothing(self, valkey, tmp_path):
        """Idle children stand still: jobs wait for slots that are free."""
        valkey.ensure_running()
        with ExitStack() as stack:
            prefork = start(stack, valkey.new_database(), Ledger(tmp_path / "ledger"), "prefork")
            prefork.wait_alive()
            children = prefork.worker.children()
            for child in children:
                prefork.worker.pause(child)
            prefork.held.send("work", "waits", 0.1)

            prefork.wait_dead("1 jobs wait for a free slot, and none has begun")
            for child in children:
                prefork.worker.resume(child)
            prefork.wait_alive("0 of 2 slots run jobs")

    @pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
    def test_a_broker_that_is_away(self, tmp_path, pool):
        """It fails after its own time, which may be a longer one, and heals by itself."""
        with valkey_server() as server, ExitStack() as stack:
            watched = start(stack, server.new_database(), Ledger(tmp_path / "ledger"), pool)
            watched.wait_alive("its main loop turns")
            server.kill()
            watched.wait_dead("it has been without its broker for")
            assert watched.verdict(broker_within=3_600).is_alive
            server.restart()

            watched.wait_alive("its main loop turns")

    def test_a_broker_that_was_never_there(self, tmp_path):
        """The reports begin before the first connection."""
        with valkey_server() as server:
            database, folder = server.new_database(), tmp_path / "reports"
            server.kill()
            env = {**database.celery_env, "HOLDING_SETTINGS": f'{{"reports": "{folder}"}}'}
            worker = WorkerProcess("tests.integration.apps.holding", env=env, queues=QUEUES)
            try:
                worker.start()
                eventually(
                    lambda: look(str(folder), within=1)[0].reason.startswith("it has been without")
                )
            finally:
                worker.close()

    def test_a_warm_shutdown(self, watched):
        """Its loop has ended and its jobs have not; it is alive until they have."""
        watched.begin("work", "last", seconds=4 * WITHIN)
        watched.wait_alive("1 of ")  # the main process knows of it too
        watched.worker.terminate(timeout=None)
        if watched.worker.arguments[2] != "solo":  # whose loop hears of it after the job
            watched.wait_alive("it shuts down, and 1 jobs still run")
        watched.wait_without_fault(2 * WITHIN)

        eventually(lambda: not watched.worker.is_running, timeout=MARGIN + 2 * WITHIN)
        assert "there is no report of it" in watched.verdict().reason
