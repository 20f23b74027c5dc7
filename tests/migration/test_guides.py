"""The guides say what the libraries do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery.utils import uuid

from reliable_tasks.testing import Database, Server, close_app
from tests.docs.pages import blocks
from tests.migration.libraries import LIBRARIES, Library
from tests.migration.situations import SITUATIONS, Situation
from tests.migration.stand import Stand
from tests.migration.tables import GUIDES, table

OURS = LIBRARIES["reliable-tasks"]
SERVER = "redis://localhost:6379/0"  # what the guides write

each_guide = pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda row: row.observe.__name__)
def test_cell(library: Library, situation: Situation, request: pytest.FixtureRequest) -> None:
    """What a library does in a situation is what stands in its cell, word for word."""
    stand = request.getfixturevalue("own_stand" if situation.kills else "shared_stand")

    seen = situation.observe(stand, uuid())

    told = [table(guide)[situation.words].get(library.name) for guide in GUIDES]
    assert {seen} == set(told) - {None}


@each_guide
def test_rows(guide: Path) -> None:
    """Every situation has its row in every guide, and every row is tested."""
    assert list(table(guide)) == [situation.words for situation in SITUATIONS]


@each_guide
@pytest.mark.parametrize("sign", "-+")
def test_change(guide: Path, sign: str, valkey: Server) -> None:
    """Before the change that a guide shows and after it, the second call publishes nothing."""
    database = valkey.new_database()
    change = next(block.text for block in blocks(guide.read_text()) if block.language == "diff")
    lines = [line[1:] for line in change.splitlines() if line[:1] in (" ", sign)]
    names: dict[str, Any] = {"__name__": "shop"}
    exec("\n".join(lines).replace(SERVER, database.url), names)
    try:
        for _ in range(2):
            names["on_change"](7)
        with database.client() as client:
            assert client.llen("celery") == 1
    finally:
        close_app(names["app"])


def test_workers_first(old: Library, valkey: Server, locks: Database, tmp_path: Path) -> None:
    """A new worker runs an old producer's job, and leaves the producer's lock."""
    stand = Stand(OURS, valkey, locks, tmp_path, producer=old)

    assert _ran_and_called_again(stand) != "published"


def test_producers_first(old: Library, valkey: Server, locks: Database, tmp_path: Path) -> None:
    """An old worker runs a new producer's job, and leaves its place."""
    stand = Stand(old, valkey, locks, tmp_path, producer=OURS)

    assert _ran_and_called_again(stand) == "gets the first job's result"


def _ran_and_called_again(stand: Stand) -> str:
    label = uuid()
    with stand.running(concurrency=1):
        first = stand.held(label)
        stand.release(label)
        stand.idle()
        assert stand.ran(first)
        return stand.call("work", label, first=first)
