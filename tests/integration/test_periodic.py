"""Any number of beats fire each slot once, whatever becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from reliable_tasks.testing import Ledger, Server, eventually
from tests.integration.ticking import Beats, running

SUPPRESSED = "was not published again"


@pytest.fixture
def beats(
    valkey: Server, ledger: Ledger, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Beats]:
    """No beat yet; the parameter is the kind of schedule, by default a crontab."""
    with running(valkey, ledger, tmp_path, getattr(request, "param", "crontab")) as beats:
        yield beats


@pytest.mark.hooks
def test_two_beats_fire_each_slot_once(beats: Beats) -> None:
    """Both call each slot; one publishes it, and the worker gets one message."""
    worker, first, second = beats.worker(), beats.start(), beats.start()
    eventually(lambda: (first.log + second.log).count(SUPPRESSED) >= 5, timeout=60)
    first.terminate()
    second.terminate()

    eventually(lambda: worker.log.count("received") == beats.each_slot_once())
    called, suppressed = (
        first.log.count(words) + second.log.count(words)
        for words in ("Sending due task", SUPPRESSED)
    )
    slots = beats.each_slot_once()
    assert called - 2 <= slots + suppressed <= called  # each may be ended in the middle of one


@pytest.mark.parametrize("moment", ["before", "after"])
def test_beat_dies_at_the_worst_moment(beats: Beats, moment: str) -> None:
    """A beat that is killed right before or after a publish neither loses nor doubles it."""
    beats.worker()
    company = [beats.start(), beats.start()]
    beats.more(1)
    order = beats.deaths / moment
    order.touch()
    eventually(lambda: not all(beat.is_running for beat in company))
    beats.more(3)

    beats.each_slot_once()

    [survivor] = [beat for beat in company if beat.is_running]
    assert survivor.log.count("may be dead") == 1


def test_store_is_down_for_some_slots(beats: Beats, valkey: Server) -> None:
    """Without a store each beat publishes each slot, always as the same job, which runs once."""
    with Server(valkey.binary, appendonly=True) as store:
        beats.env["BEATING_STORE"] = store.url
        beats.worker()
        company = [beats.start(), beats.start()]
        beats.more(1)
        store.kill()
        eventually(lambda: all(beat.log.count("without asking") >= 2 for beat in company))
        store.restart()
        beats.more(5)

        beats.each_slot_once()


@pytest.mark.parametrize("beats", ["interval"], indirect=True)
def test_interval_is_kept_by_any_number_of_beats(beats: Beats) -> None:
    """Beats with phases of their own fire once an interval; one dies, and no run is lost."""
    beats.worker()
    company = [beats.start() for _ in range(3)]
    beats.more(6)
    company[0].kill()
    beats.more(6)

    assert set(beats.ledger.counts().values()) == {1}
    times = [entry.at for entry in beats.ledger.entries("effect")]
    gaps = [
        later - earlier for earlier, later in pairwise(times[1:])
    ]  # the first waits for a worker
    assert min(gaps) > 0.7
    assert max(gaps) < 2.5
