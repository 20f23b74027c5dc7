"""Every code block of README and docs does what the page says."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reliable_tasks.testing.servers import valkey_server
from tests.docs.pages import PROJECT, blocks, matches, pages

RUNNER = Path(__file__).with_name("runner.py")
PATIENCE = 240.0  # seconds for one page


@pytest.fixture
def url() -> Iterator[str]:
    """A server for the page, which calls it `redis://localhost:6379`."""
    with valkey_server() as server:
        yield server.url.rsplit("/", 1)[0]


def run(page: Path, url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a page in a process group of its own, and leave nothing of it behind."""
    process = subprocess.Popen(
        [sys.executable, str(RUNNER), str(page), url],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120"},  # readline may have set another behind Python's back
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def longest_first() -> list[Path]:
    """Order the pages by their commands, most of which start a Python, or wait for a worker."""
    return sorted(pages(), key=lambda page: page.read_text().count("\n$ "), reverse=True)


@pytest.mark.timeout(PATIENCE + 30)
@pytest.mark.parametrize("page", longest_first(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_page(page: Path, url: str, tmp_path: Path) -> None:
    """Every block of the page runs, and prints what the page shows."""
    done = run(page, url, tmp_path)

    assert done.returncode == 0, done.stdout


BROKEN = {
    "python that raises": ("```python\nassert 1 == 2\n```\n", 'page.md", line 2'),
    "python without a name": ("```python\nmissing()\n```\n", "NameError"),
    "wrong output": ('```python\nprint("a\\na")\n```\n\n```text title="Output"\na\n```\n', "shows"),
    "output of nothing": ('```text title="Output"\na\n```\n', "no block before"),
    "wrong session": ("```pycon\n>>> 1 + 1\n3\n```\n", "Expected"),
    "command that fails": ("```console\n$ false\n```\n", "ended with 1"),
    "wrong output of a command": ("```console\n$ echo a\nb\n```\n", "shows"),
    "background that ends": ('<!-- background until "b" -->\n```console\n$ true\n```\n', "never"),
    "command that needs what Python has set": (
        '```python\nimport os\nos.environ["A"] = "1"\n```\n\n```console\n$ test "$A" = 1\n```\n',
        "ended with 1",
    ),
    "wrong output in the background": (
        '<!-- background until "a" -->\n```console\n$ echo a; sleep 60\nb\n```\n',
        "shows",
    ),
    "file that nothing runs": ('```python title="shop.py"\nprint("a")\n```\n', "nothing runs it"),
    "language without a rule": ("```\nfree text\n```\n", "no rule"),
    "python left to nox": ("<!-- run by: nox -s package -->\n```python\n1\n```\n", "only commands"),
    "session that nox lacks": ("<!-- run by: nox -s nothing -->\n```sh\ntrue\n```\n", "no session"),
    "fence left open": ("```python\nprint()\n", "not closed"),
}


@pytest.mark.parametrize(("text", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_page_fails(text: str, reason: str, tmp_path: Path) -> None:
    """A page that does not do what it says makes the runner fail, and say why."""
    page = tmp_path / "page.md"
    page.write_text(text)

    done = run(page, "redis://nowhere", tmp_path)

    assert done.returncode == 1
    assert reason in done.stdout


GOOD = """
    ```python title="shop.py"
    URL = "redis://localhost:6379/0"
    ```

```python
import shop
print("one\\ntwo\\n3 ms")
```

```text title="Output"
one
...
... ms
```

```pycon
>>> shop.URL
'redis://nowhere/0'
```

<!-- background until "ready" -->
```console
$ echo ready; sleep 60
ready
```

```console
$ python -c "import shop; print(shop.URL)"
redis://localhost:6379/0
$ echo one \\
  two
one two
```

<!-- run by: nox -s package -->
```sh
false
```
"""


def test_good_page_passes(tmp_path: Path) -> None:
    """Files, sessions, output, commands and background commands work together."""
    page = tmp_path / "page.md"
    page.write_text(GOOD)

    done = run(page, "redis://nowhere", tmp_path)

    assert done.returncode == 0, done.stdout


def test_comparison_takes_dots_for_anything() -> None:
    """Dots stand for a part of a line, or alone for lines, and for nothing else."""
    assert matches("a ... c", "a b c\n")
    assert matches("...\nlast", "first\nsecond\nlast\n")
    assert not matches("last", "first\nlast\n")
    assert not matches("a ... c", "a b\nc\n")
    assert not matches("a", "a\na\n")


def test_ci_runs_the_command_of_the_readme() -> None:
    """The command that tests the project in CI is the very line of the README."""
    readme = (PROJECT / "README.md").read_text()
    commands = [block for block in blocks(readme) if block.comment == "run by: nox -s tests"]

    assert len(commands) == 1
    assert commands[0].text in (PROJECT / ".ci" / "run").read_text()
