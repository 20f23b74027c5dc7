"""Histories that nobody thought of: any order of steps, and faults anywhere between them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from tests.traces.bodies import checks_first, fails, kills, pays, retries_once
from tests.traces.broker import Broker, RabbitBroker, RedisBroker
from tests.traces.history import Broken
from tests.traces.rules import without
from tests.traces.schedules import Schedule
from tests.traces.world import LEASE, World

MOVES = st.integers(0, 10_000)
# Left to itself, Hypothesis tries short histories above all, and needs five times as many.
CHOICES = st.lists(MOVES, min_size=20, max_size=80)
BODIES = st.sampled_from([pays, pays, retries_once, fails, checks_first, kills])
OPTIONS = st.fixed_dictionaries(
    {
        "max_crashes": st.sampled_from([3, 2]),
        "max_run": st.just(4 * LEASE),
        "when_running": st.sampled_from(["defer", "skip"]),
        "when_done": st.sampled_from(["replay", "skip"]),
    },
    optional={"retention": st.just(0), "when_failed": st.just("remember")},
).filter(lambda options: "when_failed" not in options or "retention" not in options)


ANY_HISTORY = {
    "options": OPTIONS,
    "bodies": st.tuples(BODIES, BODIES),
    "shares": st.booleans(),
    "carries": st.booleans(),
    "choices": CHOICES,
}
QUICKLY = settings(
    max_examples=2_000, phases=[Phase.generate], report_multiple_bugs=False, derandomize=True,
    database=None,
)  # fmt: skip


def play(
    broker: Broker, options: Any, bodies: Any, shares: bool, carries: bool, choices: list[int]
) -> None:
    """Play two jobs by numbers, to their end."""
    with World(broker, **options) as world:
        for job, body in zip("ab", bodies, strict=True):
            world.calls(job, body, key="shared" if shares else "", carries=carries)
        Schedule(world).play(choices)


KILLED_WITHOUT_ITS_LEASE = {
    "options": {"max_crashes": 3, "max_run": 4 * LEASE, "when_running": "defer",
                "when_done": "replay"},
    "bodies": (kills, pays), "shares": False, "carries": False,
    "choices": [563, 345, 0, 14, 1412, 0, 0, 5],
}  # fmt: skip
"""A process dies that had no answer to its claim and said so: nothing that runs has ended."""


@pytest.mark.parametrize("broker", [RedisBroker, RabbitBroker])
@example(history=KILLED_WITHOUT_ITS_LEASE)
@given(history=st.fixed_dictionaries(ANY_HISTORY))
def test_every_history_keeps_the_promises(broker: type[Broker], history: dict[str, Any]) -> None:
    """Nothing is lost, stuck, doubled without an excuse, overwritten or quarantined alive."""
    play(broker(), **history)


@pytest.mark.parametrize(
    "rule",
    [
        *("zsucc", "samewait", "samedone", "flowsafe", "closed", "tomb", "line", "ttl", "pubsafe"),
        "repeat",
    ],
)
def test_a_rule_that_is_missing_is_noticed(rule: str) -> None:
    """The search finds a broken promise by itself when a rule is taken out."""

    @QUICKLY
    @given(history=st.fixed_dictionaries(ANY_HISTORY))
    def search(history: dict[str, Any]) -> None:
        play(RedisBroker(), **history)

    with without(rule), pytest.raises(Broken):
        search()
