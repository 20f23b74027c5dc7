"""Every rule of the protocol has a trace that needs it."""

from __future__ import annotations

import pytest

from tests.traces import test_producers, test_traces
from tests.traces.rules import RULES

MARKS = [
    mark
    for module in (test_traces, test_producers)
    for test in vars(module).values()
    for mark in getattr(test, "pytestmark", [])
]
TAKEN_OUT = {
    name
    for mark in MARKS
    for rule in mark.args[1]
    for name in rule.removeprefix("without-").split("+")
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_needed(rule: str) -> None:
    """No rule stands in the list without a history that breaks without it."""
    assert rule in TAKEN_OUT
