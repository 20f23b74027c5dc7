"""Deliveries carry the number of their process, and a process says who it is."""

from __future__ import annotations

import os

import pytest

from reliable_tasks import processes
from reliable_tasks.leases import LeaseKeeper
from reliable_tasks.processes import Numbering, introduce, numbering, process_of, who
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing import eventually


def test_deliveries_of_one_process_differ_and_name_it() -> None:
    """Each number is new, and the process can be read from it; 62 bits at most."""
    own = Numbering()
    numbers = [own.next() for _ in range(1_000)]

    assert len(set(numbers)) == 1_000
    assert {process_of(each) for each in numbers} == {own.process}
    assert all(int(each) < 2**62 for each in numbers)


def test_a_process_that_runs_out_of_numbers_takes_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No number comes twice, however many there were."""
    monkeypatch.setattr(processes, "MOST", 3)
    own = Numbering()
    numbers = [own.next() for _ in range(7)]

    assert len(set(numbers)) == 7
    assert len({process_of(each) for each in numbers}) == 3


def test_a_forked_child_is_a_process_of_its_own() -> None:
    """A child never goes on with its parent's numbers."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, numbering.next().encode())
        os._exit(0)
    child = os.read(read, 64).decode()
    os.wait()

    assert process_of(child) != numbering.process


def test_a_process_says_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a delivery's number the worker, the process and the machine are found."""
    store = MemoryStore()
    monkeypatch.setattr(numbering, "worker", "celery@here")
    introduce(store, "shop")

    known = who(store, "shop", numbering.next())
    assert (known["worker"], known["pid"]) == ("celery@here", os.getpid())
    assert {"host", "started"} < known.keys()


@pytest.mark.parametrize("delivery", ["", "17", "no number", str(2**62 - 1)])
def test_nobody_knows_a_stranger(delivery: str) -> None:
    """A delivery of an older release, or of a process that said nothing, names nobody."""
    assert who(MemoryStore(), "shop", delivery) == {}


def test_the_keeper_introduces_the_process_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its thread says who the process is: at once, and before that is forgotten."""
    store, keeper = MemoryStore(), LeaseKeeper()
    keeper.introduce(store, "shop")
    eventually(lambda: who(store, "shop", numbering.next()).get("pid") == os.getpid())

    before = dict(keeper._introductions)
    keeper._introduce()
    assert keeper._introductions == before


def test_a_running_keeper_is_woken() -> None:
    """A thread that sleeps until its next renewal introduces the process now."""
    store, keeper = MemoryStore(), LeaseKeeper()
    keeper._start()
    keeper.introduce(store, "shop")

    eventually(lambda: who(store, "shop", numbering.next()))
