"""
Run the code blocks of one page: `python runner.py page.md REDIS_URL`.

The current directory is the page's own, empty at first. CONTRIBUTING.md says
what each kind of block means. Exit status 0: everything did what the page says.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from pages import Block, PageError, blocks, commands, matches

SERVER = "redis://localhost:6379"  # what pages write; the test's server is elsewhere
PATIENCE = 60.0  # seconds for one command, or until a background command is ready
SHOWN_ONLY = {"text", "lua", "mermaid", "diff"}
FILES = {"python", "toml", "ini", "json", "yaml", "sh"}


class Page:
    """What the blocks of one page share: names, files, output, processes."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.environment = dict(os.environ)  # of a terminal: it has nothing that Python blocks set
        self.output: str | None = None  # of the last block that ran
        self.files: dict[str, int] = {}
        self.commands: list[str] = []
        self.background: list[tuple[Block, list[str], subprocess.Popen[bytes], Path]] = []
        self._run: dict[str, Callable[[Block], None]] = {
            "python": self.python,
            "pycon": self.session,
            "console": self.console,
        }

    def run(self) -> None:
        """Run every block, then look at what runs in the background, and end it."""
        try:
            for block in blocks(self.path.read_text()):
                self.block(block)
            for block, shown, process, log in self.background:
                self.end(process)
                self.compare(block, shown, log.read_text())
            self.check_files()
        finally:
            for *_, process, _ in self.background:
                self.end(process)

    def block(self, block: Block) -> None:
        """Do what the block's language, title and comment ask for."""
        if block.comment.startswith("run by:"):
            self.check_elsewhere(block)
        elif block.title.lower() == "output":
            self.check_output(block)
        elif block.title:
            self.write(block)
        elif block.language in self._run:
            self._run[block.language](block)
        elif block.language not in SHOWN_ONLY:
            raise PageError(f"line {block.line}: no rule for a block of {block.language!r}")

    def here(self, text: str) -> str:
        """Replace the address that pages write by the address of the test's server."""
        return text.replace(SERVER, self.url)

    def python(self, block: Block) -> None:
        """Run the block in the page's namespace; tracebacks point into the page."""
        source = "\n" * block.line + self.here(block.text)
        code = compile(source, str(self.path), "exec", dont_inherit=True)
        self.capture(lambda: exec(code, self.names))

    def capture(self, work: Callable[[], object]) -> None:
        """Keep what *work* prints for the block that shows it."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            work()
        self.output = printed.getvalue()

    def session(self, block: Block) -> None:
        """Run a block of an interactive session as a doctest."""
        examples = doctest.DocTestParser().get_doctest(
            self.here(block.text), self.names, self.path.name, str(self.path), block.line
        )
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
        report = io.StringIO()
        runner.run(examples, out=report.write, clear_globs=False)
        self.names.update(examples.globs)
        if runner.failures:
            raise PageError(report.getvalue())

    def console(self, block: Block) -> None:
        """Run each line after a `$`; what stands beneath it is its output."""
        waits = re.fullmatch(r'background until "(.+)"', block.comment)
        for command, shown in commands(block):
            self.commands.append(command)
            with mock.patch.dict(os.environ, self.environment, clear=True):
                if waits:
                    self.start(block, command, shown, waits[1])
                else:
                    self.command(block, command, shown)

    def command(self, block: Block, command: str, shown: list[str]) -> None:
        """Run a command to its end."""
        done = subprocess.run(
            ["bash", "-c", self.here(command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        self.output = done.stdout.decode()
        if done.returncode:
            raise PageError(
                f"line {block.line}: {command!r} ended with {done.returncode}:\n{self.output}"
            )
        self.compare(block, shown, self.output)

    def start(self, block: Block, command: str, shown: list[str], ready: str) -> None:
        """Start a command that runs until the page ends, and wait until it says *ready*."""
        log = Path(f".background-{len(self.background)}.log").absolute()
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", self.here(command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.background.append((block, shown, process, log))
        deadline = time.monotonic() + PATIENCE
        while ready not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise PageError(
                    f"line {block.line}: {command!r} never said {ready!r}:\n{log.read_text()}"
                )
            time.sleep(0.05)

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        """Ask a background command to end; SIGKILL after 15 s. The rest ends with the page."""
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()

    def compare(self, block: Block, shown: list[str], output: str) -> None:
        """Check the output that a page shows, if it shows any."""
        if shown and not matches(self.here("\n".join(shown)), output):
            wanted = "\n".join(shown)
            raise PageError(f"line {block.line}: the page shows\n{wanted}\nbut got\n{output}")

    def check_output(self, block: Block) -> None:
        """Compare the block with what the last block printed."""
        if self.output is None:
            raise PageError(f"line {block.line}: no block before this one printed anything")
        self.compare(block, block.text.splitlines(), self.output)

    def write(self, block: Block) -> None:
        """Write the file that the block's title names."""
        if block.language not in FILES:
            raise PageError(f"line {block.line}: no rule for a file of {block.language!r}")
        path = Path(block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.here(block.text))
        self.files[block.title] = block.line

    def check_files(self) -> None:
        """A Python file of a page must be imported, or named in a command, or read by pytest."""
        for title, line in self.files.items():
            module = ".".join(Path(title).with_suffix("").parts)
            name = "pytest" if Path(title).name == "conftest.py" else module
            used = name in sys.modules or any(
                re.search(rf"\b{re.escape(name)}\b", command) for command in self.commands
            )
            if title.endswith(".py") and not used:
                raise PageError(f"line {line}: {title} is shown, but nothing runs it")

    def check_elsewhere(self, block: Block) -> None:
        """Only commands may be left to a session of nox, and it must exist."""
        session = re.fullmatch(r"run by: nox -s (\w+)", block.comment)
        noxfile = (Path(__file__).parents[2] / "noxfile.py").read_text()
        if block.language not in {"sh", "console"} or not session:
            raise PageError(f"line {block.line}: only commands can be `run by: nox -s SESSION`")
        if f"def {session[1]}(session" not in noxfile:
            raise PageError(f"line {block.line}: nox has no session {session[1]!r}")


def main() -> int:
    """Run one page; 1 and the reason if it does not do what it says."""
    sys.path.insert(0, str(Path.cwd()))
    os.environ["PYTHONUNBUFFERED"] = "1"
    programs = Path(sys.executable).parent  # a page's `python` and `celery` are this environment's
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    page = Page(Path(sys.argv[1]), sys.argv[2])
    try:
        page.run()
    except PageError as error:
        print(f"{page.path.name}, {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
