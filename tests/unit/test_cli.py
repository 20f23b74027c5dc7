from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from reliable_tasks.cli import main

REPORT = """
import json, sys
from reliable_tasks.cli import main
try:
    main(["demo", "--help"])
except SystemExit as end:
    loaded = [name for name in ("redis", "rich", "kombu.transport.redis") if name in sys.modules]
    print(json.dumps([end.code, loaded]))
"""


def test_version_is_the_installed_one(capsys):
    """`--version` prints the version of the package, and nothing else."""
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == version("reliable-tasks")


def test_help_loads_neither_redis_nor_rich():
    """`--help` answers without loading what only a demo needs."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT], capture_output=True, text=True, check=True, timeout=60
    )

    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]


@pytest.mark.parametrize("jobs", ["9", "-5", "many", "1e3", ""])
def test_too_few_jobs_are_refused(capsys, jobs):
    """A number of jobs that leaves no room for the faults is refused in words, with status 2."""
    with pytest.raises(SystemExit) as end:
        main(["demo", f"--jobs={jobs}"])

    assert end.value.code == 2
    assert "expected a number of at least 10" in capsys.readouterr().err


def test_a_command_is_asked_for(capsys):
    """Without a command the usage is shown, with status 2."""
    with pytest.raises(SystemExit) as end:
        main([])

    assert end.value.code == 2
    assert "usage: reliable-tasks" in capsys.readouterr().err
