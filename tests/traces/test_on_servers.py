"""The same traces on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from reliable_tasks.testing import Database
from tests.stores import redis_store
from tests.traces import test_producers, test_traces
from tests.traces.broker import Broker
from tests.traces.places import Place, Served
from tests.traces.rules import TRACES
from tests.traces.world import World

assert test_traces.__name__
assert test_producers.__name__


@pytest.fixture
def place(database: Database) -> Iterator[Place]:
    with redis_store(database) as store, database.client() as client:
        yield Served(store, client)


@pytest.mark.parametrize("trace", TRACES)
def test_the_scripts_keep_the_promise(trace: str, place: Place) -> None:
    """What holds on the table holds on the scripts."""

    def play(broker: Broker | None = None, **options: Any) -> World:
        return World(broker, place=place, **options)

    TRACES[trace](play)
