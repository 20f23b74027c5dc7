"""What a service that is down has to bear."""

from __future__ import annotations

import pytest

from reliable_tasks.testing import Server
from tests.storm.run import BATCH, DOWN, JOBS, storm

ALLOWED = 10 + 0.2 * BATCH  # retries a second, by the defaults of a budget
LATE = 1.5  # a worker that lags runs in one second what was due in two


@pytest.mark.timeout(300)
def test_a_budget_bounds_what_a_service_has_to_bear(valkey: Server) -> None:
    """Retries of a thousand jobs stay within the budget, and no job is lost."""
    seen = storm(valkey.new_database(), "with_budget")

    assert len(seen.calls) == JOBS
    assert seen.while_down <= ALLOWED * (DOWN[1] - DOWN[0])
    assert seen.highest(1.0) <= LATE * ALLOWED
