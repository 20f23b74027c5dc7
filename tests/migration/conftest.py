from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reliable_tasks.testing import Database, Server
from tests.migration.libraries import LIBRARIES, Library
from tests.migration.stand import Stand

HERE = Path(__file__).parent

# celery-once has one, of which Python tells when it compiles the module for the first time.
OLD_STRINGS = pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder need both libraries, so all carry the marker."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.migration)
            item.add_marker(OLD_STRINGS)


def each(*keys: str) -> list[Any]:
    """Libraries as parameters; what is tested of one of them is tested side by side with others."""
    marks = pytest.mark.xdist_group
    return [pytest.param(LIBRARIES[key], id=key, marks=marks(key)) for key in keys]


def installed(library: Library) -> Library:
    """Return the *library*; one that is missing fails the test."""
    try:
        _ = library.base_class
    except ImportError as error:
        remedy = "run `nox -s migration`, or pip install --group migration"
        pytest.fail(f"{library} is not installed ({error}): {remedy}", pytrace=False)
    return library


@pytest.fixture(scope="session", params=each(*LIBRARIES))
def library(request: pytest.FixtureRequest) -> Library:
    """Each library in turn."""
    return installed(request.param)


@pytest.fixture(params=each("celery-once", "celery-singleton"))
def old(request: pytest.FixtureRequest) -> Library:
    """Each library that a team may come from."""
    return installed(request.param)


@pytest.fixture(scope="session")
def locks(valkey: Server) -> Database:
    """Where locks are kept, for the whole session."""
    return valkey.new_database()


@pytest.fixture(scope="session")
def shared_stand(
    library: Library,
    valkey: Server,
    locks: Database,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stand]:
    """One worker for all situations in which no worker dies."""
    stand = Stand(library, valkey, locks, tmp_path_factory.mktemp("shared"))
    with stand.running(concurrency=4):
        yield stand


@pytest.fixture
def own_stand(library: Library, valkey: Server, locks: Database, tmp_path: Path) -> Iterator[Stand]:
    """A worker with one child, whose messages come back soon after its death."""
    stand = Stand(library, valkey, locks, tmp_path)
    with stand.running(concurrency=1, MIGRATION_VISIBILITY="7"):
        yield stand
