"""`celery -A proj reliable dead ...`: what operators see of dead letters, and do with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result
from kombu.exceptions import OperationalError

from reliable_tasks.commands import reliable
from reliable_tasks.deadletter import replaying
from tests.unit.test_dead_letters import Ground

Run = Callable[..., Result]


@pytest.fixture
def ground() -> Iterator[Ground]:
    """Two jobs are dead: one killed its process, one was given up."""
    ground = Ground()
    ground.bury(ground.declare("quarantined"), "poison")
    ground.bury(ground.declare("failed"), "hopeless")
    yield ground
    ground.app.close()


@pytest.fixture
def run(ground: Ground) -> Run:
    context = CLIContext(app=ground.app, no_color=True, workdir=None)
    runner = CliRunner()
    return lambda *words, **kw: runner.invoke(reliable, ["dead", *words], obj=context, **kw)


def test_list(run: Run) -> None:
    """One line a letter, the oldest first, and how many there are."""
    done = run("list")

    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[1].split()[:3] == ["poison", "dies", "quarantined"]
    assert lines[2].split()[:5] == ["hopeless", "failed", "gave", "up:", "attempts"]
    assert "('value',)" in done.output
    assert lines[-1] == "2 dead letters"


def test_list_of_few(run: Run) -> None:
    """Filters and the limit leave some, and what was left out is said."""
    assert run("list", "--limit", "1").output.endswith("2 dead letters, the oldest 1 shown\n")
    assert "poison" not in run("list", "--reason", "gave up").output
    assert run("list", "--older-than", "1h").output == "0 dead letters\n"
    assert "hopeless" not in run("list", "--task", "dies").output


@pytest.mark.parametrize("job", ["feed[red]", "feed[/red]", "feed:bug:"])
def test_list_of_names_like_markup(run: Run, ground: Ground, job: str) -> None:
    """A name is printed as it is, whoever gave it."""
    ground.bury(ground.declare("plain"), job)

    assert job in run("list").output.split()


def test_list_for_programs(run: Run) -> None:
    """One JSON document, without bodies and tracebacks."""
    said = json.loads(run("list", "--json").output)

    assert [each["id"] for each in said["letters"]] == ["poison", "hopeless"]
    assert said["letters"][1]["attempts"] == 1
    assert (said["found"], said["unreadable"], said["uncollected"]) == (2, [], {})
    assert "traceback" not in json.dumps(said)


def test_show(run: Run) -> None:
    """Everything about one job: why, where, and the errors with their tracebacks."""
    done = run("show", "hopeless")

    for words in ("gave up", "attempts", "attempt 1 failed, at 20", "Down: the gateway said 503"):
        assert words in done.output


def test_show_for_programs(run: Run) -> None:
    """The content is shown only when it is asked for: arguments may be secret."""
    [said] = json.loads(run("show", "hopeless", "--json").output)
    assert "content" not in said
    [said] = json.loads(run("show", "hopeless", "--json", "--content").output)

    assert said["content"][0] == ["value"]
    assert said["attempts"][0]["error"].endswith("Down")


def test_replay_one(run: Run, ground: Ground) -> None:
    """The job that was named runs again, and no other."""
    done = run("replay", "poison")

    assert (done.exit_code, done.output) == (0, "dies[poison]: it is in the broker\n")
    ground.work()
    assert ground.ran == [("value", 1)]
    assert run("list").output.splitlines()[-1] == "1 dead letter"


def test_replay_all(run: Run, ground: Ground) -> None:
    """So many a second, to a queue of their own."""
    done = run("replay", "--all", "--rate", "100/s", "--queue", "isolated", "--json")

    assert [each["outcome"] for each in json.loads(done.output)] == ["published"] * 2
    ground.app.conf.task_default_queue = "isolated"
    ground.work()
    assert len(ground.ran) == 2


def test_replay_what_filters_leave(run: Run) -> None:
    """`--all` means all that the filters leave."""
    assert "hopeless" not in run("replay", "--all", "--task", "dies").output


def test_replay_that_has_to_wait(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be replayed now is said, and the status tells programs."""
    with monkeypatch.context() as patch:
        patch.setattr(replaying, "_let_go", _dies)
        assert run("replay", "poison").exit_code == 1
    done = run("replay", "poison")

    assert done.exit_code == 1
    assert "somebody is replaying it" in done.output


def test_replay_without_a_broker(run: Run, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what is wrong, and the letter stays."""

    def refuse(*_: object) -> None:
        raise OperationalError("[Errno 111] Connection refused")

    monkeypatch.setattr(replaying, "_publish", refuse)
    done = run("replay", "poison")

    assert (done.exit_code, done.output) == (
        1,
        "Error: the broker: OperationalError: [Errno 111] Connection refused\n",
    )
    assert len(ground.found.kept) == 2


def test_purge_asks_first(run: Run) -> None:
    """Nothing is thrown away unless somebody says yes."""
    assert run("purge", "--all", input="n\n").exit_code == 1
    assert run("list").output.endswith("2 dead letters\n")

    assert "Throw 2 dead letters away?" in run("purge", "--all", input="y\n").output
    assert run("list").output == "0 dead letters\n"


def test_purge_for_programs(run: Run) -> None:
    """With `--yes` it does not ask."""
    assert json.loads(run("purge", "poison", "--yes", "--json").output) == {"purged": ["poison"]}


@pytest.mark.parametrize("command", ["show", "replay", "purge"])
def test_nobody_of_that_name(run: Run, command: str) -> None:
    """A job without a letter is an error, and nothing is done to the others."""
    done = run(command, "unknown")

    assert done.exit_code == 1
    assert "there is no dead letter of unknown" in done.output


@pytest.mark.parametrize(
    "words",
    [["replay"], ["purge"], ["replay", "--all", "poison"], ["replay", "--all", "--rate", "x"]],
)
def test_orders_that_mean_nothing(run: Run, words: list[str]) -> None:
    """Neither jobs nor `--all`, or both, or a rate that is none."""
    assert run(*words).exit_code == 2


def test_a_letter_of_a_newer_release(run: Run, ground: Ground) -> None:
    """It is named with the way out."""
    [shelf] = {each.shelf.name for each in ground.found.kept}
    ground.store.bury(shelf, "new", b'{"format": 9}', at_ms=1, most=9, oldest_ms=9)

    assert "new: this dead letter is of format 9" in run("list").output
    assert "use the release that wrote it" in run("show", "new").output


def _dies(*_: object, **__: object) -> None:
    raise ConnectionError("the operator's process died here")
