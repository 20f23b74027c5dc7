"""Faults that only RabbitMQ has, with each type of queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reliable_tasks.testing import Ledger, RabbitMQServer, Server, rabbitmq_server
from reliable_tasks.testing.fixtures import StartWorker
from tests.integration import scenarios
from tests.integration.campaign import Campaign, running
from tests.integration.grounds import QueueType, RabbitMQGround

CONSUMER_TIMEOUT = 3  # seconds


@pytest.fixture(params=["quorum", "classic"])
def queue_type(request: pytest.FixtureRequest) -> QueueType:
    """Each type of queue."""
    return request.param


@pytest.fixture
def campaign(
    rabbitmq: RabbitMQServer,
    valkey: Server,
    ledger: Ledger,
    worker: StartWorker,
    queue_type: QueueType,
) -> Iterator[Campaign]:
    """A campaign on RabbitMQ, with no worker yet."""
    rabbitmq.ensure_running()
    valkey.ensure_running()
    ground = RabbitMQGround(rabbitmq.new_vhost(), valkey.new_database(), queue_type)
    with running(ground, ledger, worker) as campaign:
        yield campaign


def test_short_countdowns(campaign: Campaign) -> None:
    """Countdowns below a second, some twice, and a dead worker: none is lost or early."""
    scenarios.short_countdowns(campaign, 60)


def test_connections_are_cut(campaign: Campaign) -> None:
    """All connections, the publisher's too, are cut three times over 300 jobs."""
    scenarios.connections_are_cut(campaign, 300, cuts=3)


@pytest.mark.timeout(240)
def test_broker_restarts(campaign: Campaign, rabbitmq: RabbitMQServer) -> None:
    """The broker is killed and started again three times over 200 jobs."""
    scenarios.broker_dies(campaign, rabbitmq, 200, down=1.0, kills=3)


@pytest.mark.timeout(240)
def test_consumer_timeout_is_hit(
    valkey: Server, ledger: Ledger, worker: StartWorker, queue_type: QueueType
) -> None:
    """Jobs that take three times the server's consumer timeout run once."""
    valkey.ensure_running()
    with rabbitmq_server(config=[f"consumer_timeout = {CONSUMER_TIMEOUT * 1_000}"]) as server:
        # It looks for what is held too long once a minute, and can be told otherwise only here.
        server.evaluate("application:set_env(rabbit, channel_tick_interval, 500)")
        ground = RabbitMQGround(server.new_vhost(), valkey.new_database(), queue_type)
        with running(ground, ledger, worker) as campaign:
            scenarios.consumer_timeout_is_hit(campaign, seconds=3.0 * CONSUMER_TIMEOUT)
