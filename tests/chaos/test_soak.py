"""Many jobs, and a death each second."""

from __future__ import annotations

import pytest

from tests.integration import scenarios


@pytest.mark.timeout(600)
def test_soak(campaign):
    """
    2,000 jobs on two workers, a child or a whole worker killed each second.

    Nothing is stuck, and lost is only what nobody ever started: kombu's own window.
    """
    figures = scenarios.soak(campaign, 2_000, timeout=400)

    print(figures)
    assert figures["deaths of workers"] >= 3
