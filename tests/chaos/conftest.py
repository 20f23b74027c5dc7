from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.campaign import running
from tests.integration.grounds import RedisGround
from tests.integration.pooling import begin  # noqa: F401 - a fixture

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are long, so all carry the marker."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.chaos)


@pytest.fixture
def campaign(database, ledger, worker):
    """A campaign on Valkey, then on Redis, with no worker yet."""
    with running(RedisGround(database), ledger, worker) as campaign:
        yield campaign
