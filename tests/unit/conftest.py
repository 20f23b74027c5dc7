from __future__ import annotations

from collections.abc import Iterator

import pytest

from reliable_tasks.pools import registry


@pytest.fixture
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers ends with it."""
    monkeypatch.setattr(registry, "_entries", [])
    yield
    registry.close_all()
