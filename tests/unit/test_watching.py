"""Rates, from two looks at a system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from io import StringIO
from typing import Any

import pytest
from celery import Celery
from rich.console import Console

from reliable_tasks.broker.view import QueueView
from reliable_tasks.commands.watch import views
from reliable_tasks.counting import COUNTS, NAMES
from reliable_tasks.inspection.destinations import destinations
from reliable_tasks.inspection.watching.looks import (
    EventRow,
    Look,
    QueueRow,
    TaskRow,
    View,
    WorkerLook,
    WorkerRow,
    compare,
)
from reliable_tasks.inspection.watching.screen import screen
from reliable_tasks.inspection.watching.watcher import worker_look
from reliable_tasks.testing import close_app


def worker(pid: int = 1, running: int = 0, started: Any = None, **counts: int) -> WorkerLook:
    """A worker with guarded tasks, that has counted nothing else."""
    return WorkerLook(
        pid=pid,
        started=started or {},
        slots=4,
        running=running,
        counts={**dict.fromkeys(NAMES, 0), **counts},
    )


def look(at: float, queues: Any = (), gaps: tuple[str, ...] = (), **workers: WorkerLook) -> Look:
    return Look(at=at, workers=workers, queues=queues, gaps=gaps)


def event(view: View, name: str) -> EventRow:
    return next(row for row in view.events if row.name == name)


def text_of(view: View, width: int) -> str:
    """What the screen of *view* says."""
    console = Console(width=width, record=True, file=StringIO())
    console.print(screen(view, width=width))
    return console.export_text()


def test_rates_are_differences_per_second() -> None:
    """What was started, replayed and published between two looks, each second of it."""
    before = look(
        10.0,
        (QueueView(name="celery", depth=30),),
        a=worker(started={"pay": 100}, replays=5),
        b=worker(started={"pay": 7, "ship": 1}),
    )
    after = look(
        12.0,
        (QueueView(name="celery", depth=20, consumers=2),),
        a=worker(started={"pay": 110}, replays=6, running=3),
        b=worker(started={"pay": 7, "ship": 31}, running=1),
    )

    view = compare(before, after)

    assert view.seconds == 2.0
    assert view.per_second == 20.0
    assert view.running == 4
    assert view.tasks == (TaskRow("ship", 15.0, 31), TaskRow("pay", 5.0, 117))
    assert view.workers == (WorkerRow("a", 5.0, 3, 4), WorkerRow("b", 15.0, 1, 4))
    assert event(view, "replays") == EventRow("replays", 0.5, 6)
    assert view.queues == (QueueRow("celery", 20, -5.0, 2, None),)
    assert view.notes == ()


@pytest.mark.parametrize(
    "before",
    [look(0.0), look(0.0, a=worker(pid=2, started={"pay": 900}, retries=40))],
    ids=["new", "restarted"],
)
def test_a_new_worker_has_no_rate_yet(before: Look) -> None:
    """What a worker counted before it was first seen, or under an earlier process, is no rate."""
    view = compare(before, look(1.0, a=worker(pid=3, started={"pay": 50}, retries=4)))

    assert view.workers == (WorkerRow("a", None, 0, 4),)
    assert view.tasks == (TaskRow("pay", 0.0, 50),)
    assert event(view, "retries") == EventRow("retries", 0.0, 4)


def test_a_plain_worker_counts_only_what_it_starts() -> None:
    """A worker without tasks of ours is shown with what Celery itself counts, and it is said."""
    plain = WorkerLook(pid=1, started={"add": 3})

    view = compare(look(0.0, a=plain), look(1.0, a=replace(plain, started={"add": 5})))

    assert view.workers == (WorkerRow("a", 2.0, None, None),)
    assert view.events == ()
    assert [note.split()[0] for note in view.notes] == ["a"]


def test_what_is_missing_is_said() -> None:
    """No workers, one that fell silent, and a broker that does not answer, are no zeros."""
    silent = compare(look(0.0, a=worker()), look(1.0))
    cut = compare(look(0.0), look(1.0, None, ("The broker does not answer: refused",)))

    assert [note.partition(" ")[0] for note in silent.notes] == ["No", "a"]
    assert cut.queues is None
    assert cut.notes == ("The broker does not answer: refused",)


def test_letters_are_those_of_the_last_look() -> None:
    """How many dead letters are kept is shown as it is now; unknown is no zero."""
    view = compare(Look(at=0.0, letters=9), Look(at=1.0, letters=4))

    assert view.letters == 4
    assert compare(Look(at=0.0, letters=9), Look(at=1.0)).letters is None
    assert "dead letters: 4" in text_of(view, 80)


def test_a_queue_that_was_not_there_has_no_growth() -> None:
    """A queue that appeared between the looks has a depth, and no rate yet."""
    view = compare(look(0.0), look(1.0, (QueueView(name="new", depth=3),)))

    assert view.queues == (QueueRow("new", 3, None, None, None),)


def test_a_worker_is_read_from_what_celery_says() -> None:
    """The answer to `celery inspect stats` has it all; Celery's own tasks are left out."""
    stats = {
        "pid": 17,
        "total": {"pay": 3, "celery.chord_unlock": 9},
        "pool": {"max-concurrency": 8},
        COUNTS: {"running": 2, "replays": 1},
    }

    found = worker_look(stats)

    assert (found.pid, found.started, found.slots, found.running) == (17, {"pay": 3}, 8, 2)
    assert found.counts == {"running": 2, "replays": 1}
    assert worker_look({"pid": 1, "total": {}}).counts is None


class Looks:
    """Stands for a watcher that sees one job more each time."""

    def __init__(self) -> None:
        self.number = 0

    def look(self) -> Look:
        self.number += 1
        return look(float(self.number), a=worker(started={"pay": self.number}))


def test_each_view_begins_where_the_last_one_ended() -> None:
    """A live screen shows one view after the other, each over its own time."""
    seen: Iterator[View] = views(Looks(), interval=0.0)

    assert [next(seen).tasks[0].total for _ in range(3)] == [2, 3, 4]


@pytest.mark.parametrize("width", [60, 140])
def test_screen_shows_the_view(width: int) -> None:
    """Narrow or wide, the screen has every table and every note."""
    view = compare(
        look(0.0, (QueueView(name="celery", depth=0),), a=worker()),
        look(2.0, (QueueView(name="celery", depth=9),), ("a note",), a=worker(quarantines=2)),
    )

    text = text_of(view, width)

    for words in ("1 worker", "Workers", "Tasks", "quarantined", "celery", "+4.5", "a note"):
        assert words in text
    assert max(map(len, text.splitlines())) <= width


def test_screen_shows_the_busiest_tasks() -> None:
    """A long list of tasks is cut, and that is said."""
    started = {f"task{number}": number for number in range(12)}
    view = compare(look(0.0, a=worker()), look(1.0, a=worker(started=started)))

    text = text_of(view, 80)

    assert "task11" in text
    assert "task1 " not in text
    assert "and 2 more" in text


def test_view_is_a_document() -> None:
    """`--json` prints the fields of the view by name."""
    document = asdict(compare(look(0.0), look(1.0, a=worker(started={"pay": 1}))))

    assert document["tasks"] == ({"name": "pay", "per_second": 0.0, "total": 1},)
    assert document["workers"][0]["slots"] == 4


def test_queues_that_nobody_reads_are_looked_at() -> None:
    """A route alone makes a queue, with a typo in its name as well; one that leads nowhere none."""
    app = Celery("watched", set_as_current=False)
    app.conf.task_routes = {"mail": {"queue": "mials"}}

    @app.task(name="mail", shared=False)
    def mail() -> None: ...

    assert destinations(app) == {"celery", "mials"}
    close_app(app)
