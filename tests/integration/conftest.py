from __future__ import annotations

from pathlib import Path

import pytest

from reliable_tasks.testing.nodes import *  # noqa: F403 - fixtures for celery_setup
from tests.integration.flowing import *  # noqa: F403 - the worker that breaks where it is told to
from tests.integration.pooling import begin  # noqa: F401 - a fixture
from tests.integration.uniting import *  # noqa: F403 - the worker of unique tasks

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder need a server, so all carry the marker."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.integration)


@pytest.fixture
def worker_app() -> str:
    """The app that `celery_setup` runs here."""
    return "tests.integration.apps.plain"
