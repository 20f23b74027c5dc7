"""Timing things against each other: in turn, many short rounds, medians."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time
from typing import Any

__all__ = ("Cost", "Thing", "measure")

WARMING = 10  # calls before each round that are not timed


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call takes, in microseconds: on the clock, and of this process's CPU."""

    wall: float
    cpu: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.wall - other.wall, self.cpu - other.cpu)


@dataclass(frozen=True, slots=True)
class Thing:
    """Something to be timed: *call* takes what *prepare*, which is not timed, returns."""

    prepare: Callable[[], Any]
    call: Callable[[Any], object]


def measure(things: Mapping[str, Thing], *, rounds: int, calls: int) -> dict[str, Cost]:
    """
    Return the median cost of a call of each thing.

    A round calls every thing *calls* times, one thing after the other, so that whatever else
    the machine does meets them all alike.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in things}
    for thing in things.values():
        _cost(thing, calls)  # opens connections, loads scripts, fills caches
    for _ in range(rounds):
        for name, thing in things.items():
            costs[name].append(_cost(thing, calls))
    return {
        name: Cost(median(cost.wall for cost in found), median(cost.cpu for cost in found))
        for name, found in costs.items()
    }


def _cost(thing: Thing, calls: int) -> Cost:
    prepared = [thing.prepare() for _ in range(WARMING + calls)]
    call = thing.call
    for each in prepared[:WARMING]:  # what ran before this is not its fault
        call(each)
    gc.disable()
    try:
        wall, cpu = perf_counter(), process_time()
        for each in prepared[WARMING:]:
            call(each)
        wall, cpu = perf_counter() - wall, process_time() - cpu
    finally:
        gc.enable()
    return Cost(wall / calls * 1e6, cpu / calls * 1e6)
