"""A schedule whose beats die, stand still and come back all the time."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reliable_tasks.testing import BeatProcess, Ledger, Server, eventually
from tests.integration.ticking import Beats, running

SECONDS = 150


@pytest.fixture
def beats(valkey: Server, ledger: Ledger, tmp_path: Path) -> Iterator[Beats]:
    with running(valkey, ledger, tmp_path, "crontab") as beats:
        yield beats


@pytest.mark.timeout(240)
def test_beats_come_and_go(beats: Beats) -> None:
    """Killed, started later, paused, and restarted with an old schedule file: each slot once."""
    beats.worker()
    first, second = beats.start(), beats.start()
    beats.more(2)
    first.kill()
    beats.more(2)
    third = beats.start(skew=20)  # a third of a minute ahead
    beats.more(2)
    second.pause()
    beats.more(3)
    second.resume()
    first.restart()  # its last word on the schedule is some slots old
    beats.more(3)
    third.kill()
    beats.more(2)

    beats.each_slot_once()

    words = "was not published again"
    assert first.log.count(words) + second.log.count(words) > 3


class Trouble:
    """What can happen to one beat of several."""

    def __init__(self, beats: Beats, company: list[BeatProcess], chance: random.Random) -> None:
        self.beats, self.company, self.chance = beats, company, chance

    def kill(self) -> None:
        """A machine dies, and another takes its place some slots later."""
        beat = self.chance.choice(self.company)
        beat.kill()
        self.beats.more(self.chance.randrange(3))
        beat.restart()

    def deploy(self) -> None:
        """A beat is restarted in good order."""
        beat = self.chance.choice(self.company)
        beat.terminate()
        beat.restart()

    def pause(self) -> None:
        """A beat stands still for some slots, and comes late."""
        beat = self.chance.choice(self.company)
        beat.pause()
        self.beats.more(self.chance.randrange(1, 4))
        beat.resume()

    def worst_moment(self) -> None:
        """A beat dies right before or after it publishes."""
        (self.beats.deaths / self.chance.choice(["before", "after"])).touch()
        dead = eventually(lambda: [beat for beat in self.company if not beat.is_running])
        self.beats.more(1)
        for beat in dead:
            beat.restart()


@pytest.mark.timeout(SECONDS * 3)
@pytest.mark.parametrize("seed", [1, 2])
def test_beats_in_trouble(beats: Beats, seed: int) -> None:
    """Three beats, one of them in trouble at any time: each slot runs once, and none is missing."""
    chance = random.Random(seed)
    beats.worker()
    company = [beats.start(skew=skew) for skew in (0, 10, 20)]
    trouble = Trouble(beats, company, chance)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        beats.more(1)
        chance.choice([trouble.kill, trouble.deploy, trouble.pause, trouble.worst_moment])()
    beats.more(2)

    slots = beats.each_slot_once()

    print(f"{slots} slots")
    assert slots > SECONDS / 2 - 10
