"""The ledger counts every effect, whoever writes it and however the writer ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from reliable_tasks.testing import Ledger

WRITER = """
import sys
from reliable_tasks.testing.ledger import Ledger
for number in range(200):
    Ledger.from_environment().effect(f"job{number}", writer=sys.argv[1], text="x" * 200)
"""


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger")


def test_nothing_is_counted_before_the_first_line(ledger):
    """A ledger that nobody wrote to is empty, and any job counts 0."""
    assert ledger.entries() == []
    assert ledger.counts()["job"] == 0


def test_effects_and_notes_are_kept_apart(ledger):
    """Effects are counted per job, and lines of another kind are not."""
    ledger.effect("a", token=5)
    ledger.effect("a")
    ledger.effect(7)
    ledger.write("begun", "b")

    assert ledger.counts() == {"a": 2, "7": 1}
    assert ledger.counts("begun") == {"b": 1}
    assert [entry.details for entry in ledger.entries("effect")] == [{"token": 5}, {}, {}]


def test_processes_write_side_by_side(ledger):
    """Lines of several processes are neither lost nor mixed up."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, name], env=ledger.env) for name in "abc"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]

    assert set(ledger.counts().values()) == {3}
    assert len(ledger.entries()) == 600
    assert len({entry.pid for entry in ledger.entries()}) == 3


def test_a_line_cut_off_by_a_kill_is_no_effect(ledger):
    """Half a line counts nothing and does not spoil the next one."""
    ledger.effect("a")
    with ledger.path.open("a") as file:
        file.write('\n["b", "effect", 12')
    ledger.effect("c")

    assert ledger.counts() == {"a": 1, "c": 1}


def test_a_process_without_a_ledger_is_told_so(monkeypatch):
    """A worker that was started without the variable gets an error that names it."""
    monkeypatch.delenv("RELIABLE_TASKS_LEDGER", raising=False)

    with pytest.raises(LookupError, match=r"env=ledger\.env"):
        Ledger.from_environment()
