"""Broken set-ups on real servers, each named by the doctor, and no finding on healthy ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reliable_tasks.doctor.facts import Facts
from reliable_tasks.testing import RabbitMQServer, Server
from tests.integration.doctoring import SET_UPS, Ground, found, look_at_all


@pytest.fixture(scope="module")
def seen(valkey: Server, rabbitmq: RabbitMQServer) -> Iterator[dict[str, Facts]]:
    """What the probes found in each set-up, looked at side by side."""
    valkey.ensure_running()
    rabbitmq.ensure_running()
    with Ground(valkey, rabbitmq) as ground:
        yield look_at_all(ground)


@pytest.mark.parametrize("name", SET_UPS)
def test_is_named(seen: dict[str, Facts], name: str) -> None:
    """What is wrong is found, and nothing else."""
    facts = seen[name]
    assert found(facts) == SET_UPS[name].ids, (facts.gaps, facts.workers)
