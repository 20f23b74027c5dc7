"""A death and a chord on RabbitMQ's quorum queues; `tests/chaos` has all faults on all queues."""

from __future__ import annotations

import pytest

from tests.integration import scenarios
from tests.integration.campaign import running
from tests.integration.flowing import benched
from tests.integration.grounds import RabbitMQGround
from tests.integration.test_flows import FLOWS, begin, chorded, finish


@pytest.fixture
def ground(rabbitmq, valkey):
    """Quorum queues, and records and results on Valkey."""
    rabbitmq.ensure_running()
    valkey.ensure_running()
    return RabbitMQGround(rabbitmq.new_vhost(), valkey.new_database(), "quorum")


def test_whole_worker_is_killed(ground, ledger, worker):
    """SIGKILL of the whole worker: nothing is lost, and doubled only before the record."""
    with running(ground, ledger, worker) as campaign:
        scenarios.workers_die(campaign, 20, kills=1)


def test_chord(ground, tmp_path):
    """A chord with copies of one member, while another is killed after its record, runs once."""
    with benched(ground, tmp_path) as bench:
        flow = begin(bench, chorded, ("copies", "a", "copy", 2), ("record", "b", "kill", 1))

        assert finish(bench, flow) == FLOWS[chorded].result
