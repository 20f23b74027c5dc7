"""The flows of `tests/integration/test_flows.py` on RabbitMQ, with each type of queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reliable_tasks.testing import RabbitMQServer, Server
from tests.integration.flowing import Bench, bench, benched  # noqa: F401 - a fixture
from tests.integration.grounds import RabbitMQGround
from tests.integration.test_flows import (  # noqa: F401
    TestCopies,
    TestDeaths,
    TestFailure,
    TestOneKeyInAFlow,
    TestOutages,
)


@pytest.fixture(scope="module", params=["quorum", "classic"])
def shared_bench(
    request: pytest.FixtureRequest,
    rabbitmq: RabbitMQServer,
    valkey: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    """One worker for each type of queue; jobs are told apart by their labels."""
    rabbitmq.ensure_running()
    valkey.ensure_running()
    # Celery holds its claim on a chord for as long as publishing the body may take.
    ground = RabbitMQGround(rabbitmq.new_vhost(), valkey.new_database(), request.param, "web")
    with benched(ground, tmp_path_factory.mktemp("flows")) as bench:  # noqa: F811
        yield bench
