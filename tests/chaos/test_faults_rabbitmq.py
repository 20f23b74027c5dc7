"""The faults of `tests/integration/test_faults.py` on RabbitMQ, with each type of queue."""

from __future__ import annotations

import pytest

from reliable_tasks.testing import RabbitMQServer, Server
from tests.integration import scenarios
from tests.integration.grounds import Ground, RabbitMQGround
from tests.integration.test_faults import (  # noqa: F401 - tests and fixtures
    NewGround,
    TestCopies,
    TestDeaths,
    TestEndings,
    TestPauses,
    TestServers,
    TestShutdowns,
    calm,
    campaign,
)


@pytest.fixture(scope="module", params=["quorum", "classic"])
def new_ground(
    request: pytest.FixtureRequest, rabbitmq: RabbitMQServer, valkey: Server
) -> NewGround:
    """Make grounds on RabbitMQ, with records and results on Valkey or on a server of the test's."""

    def make(server: Server = valkey) -> Ground:
        rabbitmq.ensure_running()
        server.ensure_running()
        return RabbitMQGround(rabbitmq.new_vhost(), server.new_database(), request.param)

    return make


class TestInFullNumbers:
    """As many jobs and deaths as on Redis."""

    def test_three_copies_of_a_message(self, campaign):  # noqa: F811
        """Three copies of each of 100 jobs, from four threads: one effect each."""
        campaign.worker(concurrency=4)

        scenarios.three_copies_race(campaign, 100)

    def test_three_messages_of_a_key(self, campaign):  # noqa: F811
        """Three messages for each of 100 keys: one effect each, and one answer for all."""
        campaign.worker(concurrency=4)

        scenarios.three_messages_race(campaign, 100)

    def test_children_are_killed(self, campaign):  # noqa: F811
        """A SIGKILL of a random child each second over 300 jobs."""
        scenarios.children_die(campaign, 300, seconds=1.0)

    def test_whole_worker_is_killed(self, campaign):  # noqa: F811
        """Three SIGKILLs of the whole worker over 200 jobs: nothing is lost."""
        scenarios.workers_die(campaign, 200, kills=3)

    @pytest.mark.timeout(400)
    def test_soak(self, campaign):  # noqa: F811
        """600 jobs on two workers, a death each second: nothing is lost."""
        figures = scenarios.soak(campaign, 600, timeout=250)

        print(figures)
        assert figures["never started"] == 0
