"""Real workers under real faults, in full numbers."""

from __future__ import annotations

import pytest

from reliable_tasks.testing import Server, redis_binary, valkey_binary
from tests.integration import scenarios
from tests.integration.campaign import running
from tests.integration.grounds import RedisGround


def test_three_copies_of_a_message(campaign):
    """Three copies of each of 100 jobs, from four threads: one effect each."""
    campaign.worker(concurrency=4)

    scenarios.three_copies_race(campaign, 100)


def test_three_messages_of_a_key(campaign):
    """Three messages for each of 100 keys: one effect each, and one answer for all."""
    campaign.worker(concurrency=4)

    scenarios.three_messages_race(campaign, 100)


def test_children_are_killed(campaign):
    """A SIGKILL of a random child each second over 300 jobs."""
    scenarios.children_die(campaign, 300, seconds=1.0)


def test_whole_worker_is_killed(campaign):
    """Three SIGKILLs of the whole worker over 200 jobs."""
    scenarios.workers_die(campaign, 200, kills=3)


@pytest.mark.parametrize("turn", range(3))
def test_zombie_changes_nothing(campaign, turn):
    """A paused execution's fenced write is refused, a bare one doubled; the result stays."""
    scenarios.paused_past_its_lease(campaign)


@pytest.mark.parametrize("turn", range(3))
def test_zombie_leaves_the_safety_net(campaign, turn):
    """A job survives its second worker's death after the first came back and stepped aside."""
    scenarios.paused_and_back_before_the_winner_dies(campaign)


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary])
def test_store_restarts(binary, ledger, worker):
    """Broker, store and backend killed and restarted three times over 200 jobs."""
    with (
        Server(binary(), appendonly=True, config=["appendfsync always"]) as server,
        running(RedisGround(server.new_database()), ledger, worker) as campaign,
    ):
        scenarios.store_dies(campaign, server, 200, down=1.0, kills=3)
