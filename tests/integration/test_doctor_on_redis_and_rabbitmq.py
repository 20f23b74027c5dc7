"""Broken set-ups on real servers, each named by the doctor, and no finding on healthy ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reliable_tasks.doctor import Report
from reliable_tasks.testing import RabbitMQServer, Server
from tests.integration.doctoring import SET_UPS, WRONG, Ground, look_at_all


@pytest.fixture(scope="module")
def seen(
    valkey: Server, rabbitmq: RabbitMQServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Report]]:
    """What the doctor says of each set-up; they are examined side by side."""
    valkey.ensure_running()
    rabbitmq.ensure_running()
    with Ground(valkey, rabbitmq, tmp_path_factory.mktemp("doctor")) as ground:
        yield look_at_all(ground)


@pytest.mark.parametrize("name", SET_UPS)
def test_is_named(seen: dict[str, Report], name: str) -> None:
    """What is wrong is found, and nothing else; no password is told."""
    report = seen[name]
    assert report.ids == SET_UPS[name].ids, (report.findings, report.gaps)
    assert WRONG not in repr(report.as_dict())
