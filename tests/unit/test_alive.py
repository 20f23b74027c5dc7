"""Whether a worker is alive, from what it reports; `tests/integration` asks real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner

from _reliable_tasks.alive import judge, look
from _reliable_tasks.pids import is_taken
from _reliable_tasks.probe import main
from _reliable_tasks.report import (
    Report,
    default_directory,
    erase_forgotten,
    read,
    report_path,
    write,
)
from reliable_tasks.commands import reliable
from reliable_tasks.core import settings
from reliable_tasks.leases import Lease, LeaseKeeper
from reliable_tasks.liveness.beats import Beats
from reliable_tasks.liveness.hands import WorkerHands
from reliable_tasks.liveness.sample import Run, Sample, hangs, idle_since
from reliable_tasks.liveness.watch import Watch
from reliable_tasks.testing import close_app, eventually

NOW = 1_000.0
NOBODY = 2**22 + 1  # above every process id
WELL = Report(node="shop@here", pid=os.getpid(), written=NOW - 1, loop=NOW - 2, slots=2)
IDLE = Sample(runs=(), slots=2, waiting=0, begun=7, is_closing=False, runs_in_loop=False)

VERDICTS = {
    "an idle worker": ({}, "its main loop turns, 0 of 2 slots run jobs"),
    "all slots are busy": ({"busy": 2}, "its main loop turns, 2 of 2 slots run jobs"),
    "one of two hangs": (
        {"busy": 2, "hung": 1, "hung_jobs": ("a[1]",)},
        "its main loop turns, 2 of 2 slots run jobs, of which 1 hang",
    ),
    "the solo pool runs a job": (
        {"loop": 1.0, "rests": True, "slots": 1, "busy": 1},
        "a job runs in its main loop, 1 of 1 slots run jobs",
    ),
    "a pool that was scaled down": ({"slots": 0}, "its main loop turns, 0 of 0 slots run jobs"),
    "it shuts down": ({"loop": 1.0, "closing": True, "busy": 1}, "it shuts down, and 1 jobs still"),
    "the broker is away for a moment": (
        {"loop": 900.0, "lost": NOW - 20},
        "it has been without its broker for 20 s",
    ),
    "jobs wait for slots that are free for a moment": (
        {"waiting": 1, "idle_since": NOW - 10},
        "its main loop turns",
    ),
}

FAULTS = {
    "it is stopped": ({"written": NOW - 61}, "its last report is 61 s old"),
    "it was stopped while it shut down": (
        {"written": NOW - 61, "closing": True},
        "its last report is 61 s old",
    ),
    "it wrote before the machine was started": ({"written": NOW + 99}, "of before this machine"),
    "its loop stands still": ({"loop": NOW - 76}, "its main loop has not turned for 75 s"),
    "its solo job is past its time": (
        {"loop": NOW - 76, "slots": 1, "busy": 1, "hung": 1},
        "its main loop has not turned for 75 s",
    ),
    "the broker is away": ({"lost": NOW - 61}, "it has been without its broker for 61 s"),
    "all slots hang": (
        {"busy": 2, "hung": 2, "hung_jobs": ("a[1]", "b[2]")},
        "jobs that hang have all of its slots (2): a[1], b[2]",
    ),
    "all slots hang, and the broker is away for a moment": (
        {"busy": 2, "hung": 2, "lost": NOW - 5},
        "jobs that hang have all of its slots",
    ),
    "nothing begins": (
        {"waiting": 3, "idle_since": NOW - 61},
        "3 jobs wait for a free slot, and none has begun for 61 s",
    ),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_it_gets_on(case: str) -> None:
    """Whatever a worker does that gets on with its work, it is alive, and the line says how."""
    fields, reason = VERDICTS[case]

    verdict = judge(WELL._replace(**fields), NOW, within=60, broker_within=60)

    assert (verdict.is_alive, verdict.node) == (True, "shop@here")
    assert verdict.reason.startswith(reason)


@pytest.mark.parametrize("case", FAULTS)
def test_it_does_not(case: str) -> None:
    """Each way to stand still is told from the others."""
    fields, reason = FAULTS[case]

    verdict = judge(WELL._replace(**fields), NOW, within=60, broker_within=60)

    assert not verdict.is_alive
    assert reason in verdict.reason


def test_a_broker_may_be_away_for_longer() -> None:
    """Whoever wants no restarts in an outage of the broker says so, and faults still count."""
    away = WELL._replace(lost=NOW - 600, loop=NOW - 600)

    assert judge(away, NOW, within=60, broker_within=3_600).is_alive
    assert not judge(away._replace(written=NOW - 90), NOW, within=60, broker_within=3_600).is_alive


# --- what the worker notes ----------------------------------------------------------------

RUN = Run("a[1]", ends_at=NOW + 1, lease=30.0, renewed_at=NOW - 60)


@pytest.mark.parametrize(
    ("run", "it_hangs"),
    [
        (RUN, False),
        (replace(RUN, ends_at=NOW), True),
        (replace(RUN, renewed_at=NOW - 60.1), True),
        (replace(RUN, renewed_at=NOW - 60.1, lease=None), False),
        (replace(RUN, renewed_at=None), False),
    ],
)
def test_a_job_hangs(run: Run, it_hangs: bool) -> None:
    """Past its time, or when its process has renewed no lease for two of them."""
    assert hangs(run, NOW) is it_hangs


def test_a_slot_is_idle_while_jobs_wait() -> None:
    """It counts from the first look at it, until a job begins, or all slots have one."""
    waiting = replace(IDLE, waiting=1)

    assert idle_since(None, IDLE, None, NOW) is None
    assert idle_since(IDLE, waiting, None, NOW) == NOW
    assert idle_since(waiting, waiting, NOW, NOW + 9) == NOW
    assert idle_since(waiting, replace(waiting, begun=8), NOW, NOW + 9) == NOW + 9
    assert idle_since(waiting, replace(waiting, runs=(RUN, RUN)), NOW, NOW + 9) is None


class Hands:
    """A worker for the watch: what it has, and a loop that turns when it is told to."""

    def __init__(self) -> None:
        self.has = IDLE
        self.asked: list[Callable[[], None]] = []

    def sample(self) -> Sample:
        return self.has

    def ask_loop(self, answer: Callable[[], None]) -> None:
        self.asked.append(answer)


def test_a_report_says_what_the_worker_has() -> None:
    """The loop's last turn, the broker, what runs and what hangs, in words of its own."""
    hands, now = Hands(), NOW
    watch = Watch(hands, "shop@here", "unused", clock=lambda: now)
    assert watch.report().lost == NOW

    watch.connected()
    now += 5
    hands.has = replace(IDLE, runs=[RUN, replace(RUN, ends_at=NOW + 99)], waiting=4)
    report = watch.report()

    assert (report.loop, report.lost, report.written) == (NOW, None, NOW + 5)
    assert (report.busy, report.hung, report.waiting, report.idle_since) == (2, 2, 4, None)
    assert report.hung_jobs == ["a[1]", "a[1]"]

    watch.lost()
    now += 5
    watch.lost()
    assert watch.report().lost == NOW + 5


def test_a_watch_writes_until_it_is_stopped(tmp_path: Path) -> None:
    """It asks the loop each time, and leaves no report of a worker that ended."""
    hands, path = Hands(), report_path(str(tmp_path), "shop@here")
    watch = Watch(hands, "shop@here", path)
    watch.start()
    eventually(lambda: read(path))

    watch.stop()

    assert hands.asked
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the worker goes on."""
    (tmp_path / "file").touch()
    watch = Watch(Hands(), "shop@here", str(tmp_path / "file" / "shop.alive.json"))

    watch.start()
    eventually(lambda: caplog.messages)
    watch.stop()

    [line] = caplog.messages
    assert line.startswith("the worker's report for a liveness probe is not written: ")


def test_beats_of_other_processes() -> None:
    """A child's sign of life reaches its parent, by the child's process id."""
    beats = Beats()
    assert beats.collect() == {}
    child = os.fork()
    if not child:
        beats.beat()
        os._exit(0)
    os.waitpid(child, 0)

    assert beats.collect().keys() == {child}


class Request:
    """A guarded job that runs, as Celery's main process knows it."""

    name, id, time_limits, hostname = "a", "1", (None, None), "here"
    task = SimpleNamespace(guard_options=settings.read({"lease_seconds": 1}), time_limit=None)

    def __init__(self, worker_pid: int) -> None:
        self.worker_pid = worker_pid


@pytest.mark.parametrize(
    ("is_green", "process"),
    [(False, os.getpid()), (True, NOBODY)],
    ids=["process", "greenlets"],  # every process of a run must collect the same names
)
def test_a_job_is_renewed_by_its_process(
    is_green: bool, process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a greenlet runs it, Celery gives the greenlet's number for that of the process."""
    job, beats = Request(process), Beats()
    monkeypatch.setattr("reliable_tasks.liveness.hands.active", lambda: [job])
    pool = SimpleNamespace(is_green=is_green, num_processes=1)
    hands = WorkerHands(SimpleNamespace(pool=pool, blueprint=SimpleNamespace(state=0)), beats)
    [begun] = hands.sample().runs

    beats.beat()
    [run] = hands.sample().runs

    assert begun.renewed_at is None
    assert run.renewed_at == beats.collect()[os.getpid()]


def test_the_thread_that_renews_beats() -> None:
    """At each of its turns: as long as leases are renewed, their process is known to live."""
    keeper, turned = LeaseKeeper(), threading.Event()
    keeper.on_turn = turned.set
    lease = Lease(None, "a", 1, lease_ms=100)

    keeper.hold(lease)
    assert turned.wait(30)
    turned.clear()
    assert turned.wait(30)

    keeper.let_go(lease)


# --- files and commands -------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A directory of reports that does not exist yet."""
    return str(tmp_path / "reports")


def report(folder: str, node: str, **fields: object) -> None:
    """Write a report of a moment ago."""
    now = monotonic()
    whole = WELL._replace(node=node, written=now, loop=now)._replace(**fields)
    write(report_path(folder, node), whole)


def test_a_report_comes_back_as_it_was(folder: str) -> None:
    """Names of nodes that are no names of files included; no other user can write there."""
    path = report_path(folder, "shop/1@here")
    write(path, whole := WELL._replace(hung_jobs=["a[1]"]))

    assert Path(path).parent == Path(folder)
    assert read(path) == whole
    assert Path(folder).stat().st_mode & 0o077 == 0


def test_the_reports_of_killed_workers_go(folder: str) -> None:
    """After an hour, when the next worker starts; other files of the directory are left alone."""
    report(folder, "dead@here", pid=NOBODY)
    report(folder, "young@here", pid=NOBODY)
    (Path(folder) / "other.json").write_text("{}")
    (Path(folder) / "other.alive.json").write_text("{}")
    for name in ("dead@here.alive.json", "other.json", "other.alive.json"):
        os.utime(Path(folder) / name, (1, 1))

    erase_forgotten(folder)

    assert sorted(path.name for path in Path(folder).iterdir()) == [
        "other.alive.json", "other.json", "young@here.alive.json",
    ]  # fmt: skip


def test_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that is read-only everywhere keeps no worker from its start."""

    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)

    assert default_directory() == f"/tmp/reliable-tasks-{os.getuid()}"


def test_a_directory_of_another_user(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written there: who made it first could change the reports. Root may."""
    Path(folder).mkdir()
    owner = Path(folder).stat().st_uid
    monkeypatch.setattr("_reliable_tasks.report._ROOT", owner)
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    write(report_path(folder, "shop@here"), WELL)
    monkeypatch.setattr("_reliable_tasks.report._ROOT", owner + 2)

    with pytest.raises(PermissionError, match="belongs to another user"):
        write(report_path(folder, "shop@here"), WELL)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"version": 1}', "{"])
def test_what_is_no_report(folder: str, text: str) -> None:
    """It counts as none."""
    Path(folder).mkdir()
    Path(report_path(folder, "shop@here")).write_text(text)

    assert [str(each) for each in look(folder)] == [
        f"no worker is not alive: there is no report of it in {folder}"
    ]


def test_no_report_at_all(folder: str) -> None:
    """Neither a worker that never began nor one that ended is alive."""
    [verdict] = look(folder, "shop@here")

    assert str(verdict) == f"shop@here is not alive: there is no report of it in {folder}"


def test_a_process_that_was_killed(folder: str) -> None:
    """Its last report is not believed, however young; one that runs beside it is."""
    report(folder, "dead@here", pid=NOBODY)

    assert str(look(folder)[0]) == (
        f"dead@here is not alive: its process {NOBODY} ended without a word"
    )
    report(folder, "shop@here")
    assert [each.is_alive for each in look(folder)] == [True]
    assert [each.is_alive for each in look(folder, "dead@here")] == [False]


def test_a_process_of_another_user_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may not be signalled is there all the same."""

    def forbid(pid: int, signal: int) -> None:
        raise PermissionError(pid, signal)

    assert not is_taken(NOBODY)
    monkeypatch.setattr(os, "kill", forbid)
    assert is_taken(NOBODY)


def test_the_command_fails_if_one_worker_does(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each gets a line, and a program one document."""
    report(folder, "one@here")
    assert main(["--directory", folder]) == 0
    report(folder, "two@here", loop=0.0)
    assert main(["--directory", folder, "--node", "one@here"]) == 0
    capsys.readouterr()

    assert main(["--directory", folder, "--json"]) == 1

    found = json.loads(capsys.readouterr().out)
    assert found["alive"] is False
    assert [each["alive"] for each in found["workers"]] == [True, False]


@pytest.mark.parametrize("seconds", ["4.9", "-1", "nan", "soon"])
def test_a_time_that_no_report_can_keep(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Reports come every two seconds, so a shorter time would fail a worker that is well."""
    with pytest.raises(SystemExit) as end:
        main(["--within", seconds])

    assert end.value.code == 2
    assert "expected seconds of at least 5" in capsys.readouterr().err


@pytest.fixture
def app(folder: str) -> Iterator[Celery]:
    """An app whose workers report to the test's directory."""
    app = Celery("alive", set_as_current=False)
    app.conf.reliable_tasks_alive_directory = folder
    yield app
    close_app(app)


def test_celerys_command_says_the_same(app: Celery, folder: str) -> None:
    """It takes the directory from the app's settings."""
    context = CLIContext(app=app, no_color=True, workdir=None)
    report(folder, "one@here")
    well = CliRunner().invoke(reliable, ["alive"], obj=context)
    report(folder, "one@here", loop=0.0)
    ill = CliRunner().invoke(reliable, ["alive", "--within", "5"], obj=context)

    assert (well.exit_code, ill.exit_code) == (0, 1)
    assert well.output == "one@here is alive: its main loop turns, 0 of 2 slots run jobs\n"
    assert ill.output.startswith("one@here is not alive: its main loop has not turned for ")


def test_the_probe_loads_nothing_heavy(folder: str) -> None:
    """It loads neither the library nor Celery, for it is started every few seconds."""
    program = (
        "import sys, _reliable_tasks\n"
        f"sys.argv[1:] = ['alive', '--directory', {folder!r}]\n"
        "status = _reliable_tasks.main()\n"
        "names = ('celery', 'click', 'kombu', 'redis', 'reliable_tasks', 'rich', 'logging')\n"
        "print(status, [name for name in names if name in sys.modules])"
    )

    printed = subprocess.check_output([sys.executable, "-c", program], text=True)

    assert printed.splitlines()[-1] == "1 []"
