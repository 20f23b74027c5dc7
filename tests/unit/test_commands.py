"""`celery -A proj reliable preset ...` writes a file to copy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from reliable_tasks import presets
from reliable_tasks.commands import reliable
from reliable_tasks.commands.preset import preset
from reliable_tasks.presets.rendering import as_file
from reliable_tasks.testing import close_app

Run = Callable[..., Result]


@pytest.fixture
def run() -> Iterator[Run]:
    """Run `reliable preset ...` as Celery does, with an app whose broker is on `redis://own/0`."""
    app = Celery("commands", broker="redis://own/0", set_as_current=False)
    context = CLIContext(app=app, no_color=True, workdir=None)
    yield lambda *words: CliRunner().invoke(reliable, ["preset", *words], obj=context)
    close_app(app)


@pytest.mark.hooks
def test_celery_finds_the_command() -> None:
    """The command stands at Celery's plug-in point, and loads none of what it may need later."""
    (plugin,) = entry_points(group="celery.commands", name="reliable")
    program = (
        "import sys, reliable_tasks.commands;"
        "names = ('redis', 'rich', 'reliable_tasks.presets');"
        "print([name for name in names if name in sys.modules])"
    )

    assert plugin.load() is reliable
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


@pytest.mark.hooks
def test_the_file_is_that_of_the_object(run: Run) -> None:
    """The options are the function's arguments, and the address is that of the app's broker."""
    done = run("redis", "--longest-task", "60", "--queue", "fast", "--queue", "slow")

    assert done.output == as_file(
        presets.redis("redis://own/0", longest_task=60, queues=("fast", "slow"))
    )


def test_the_reasons_can_be_had_alone(run: Run) -> None:
    """`--explain` prints what `explain()` returns."""
    done = run("rabbitmq", "--url", "amqp://a//", "--queue-type", "classic", "--explain")

    assert done.output == presets.rabbitmq("amqp://a//", queue_type="classic").explain()


def test_what_cannot_hold_is_one_line(run: Run) -> None:
    """A mistake is told as the function tells it, without a traceback, and nothing is written."""
    done = run("redis", "--grace-period", "3")

    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: grace_period: expected above the 5 s")


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_every_argument_is_an_option(kind: str) -> None:
    """The command knows all arguments of its function, and no others."""
    command: Any = preset.commands[kind]
    options = {parameter.name for parameter in command.params} - {"explain"}
    arguments = getattr(presets, kind).__kwdefaults__.keys() | {"url"}

    assert options == arguments
