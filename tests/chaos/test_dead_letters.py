"""Poison is quarantined on every way to die, on every broker, and nothing of it is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from reliable_tasks.deadletter.collecting import collect, uncollected
from reliable_tasks.deadletter.replaying import Replay, replay
from reliable_tasks.deadletter.shelves import find
from reliable_tasks.testing import RabbitMQServer, Server, eventually
from tests.integration.apps.dying import ALL, WAYS, cure, dies, guarded_hopeless, hopeless
from tests.integration.apps.guarded import settings_env
from tests.integration.campaign import Campaign, names, running
from tests.integration.dying import TASKS, cured, has_letter, letter_of, quarantined
from tests.integration.grounds import RabbitMQGround, RedisGround

JOBS = 60
OPERATOR = "tests.integration.operating"


@pytest.fixture(params=["redis", "rabbitmq quorum", "rabbitmq classic"])
def campaign(request, valkey: Server, ledger, worker):
    """A campaign on each broker, with no worker yet."""
    valkey.ensure_running()
    ground = RedisGround(valkey.new_database())
    if request.param != "redis":
        rabbitmq, kind = request.getfixturevalue("rabbitmq"), request.param.split()[1]
        rabbitmq.ensure_running()
        ground = RabbitMQGround(rabbitmq.new_vhost(), valkey.new_database(), kind)
    with running(ground, ledger, worker) as campaign:
        yield campaign


@pytest.mark.timeout(240)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_die(campaign: Campaign, way: str) -> None:
    """Three deaths, a letter that names them, one effect after the cure."""
    is_machine = way == "machine"
    if not is_machine:
        campaign.worker(arguments=TASKS)
    kept = quarantined(campaign, way, machines=is_machine)

    cured(campaign, kept)


@pytest.mark.timeout(300)
def test_operators_who_are_killed(campaign: Campaign) -> None:
    """Two operators at once, each killed wherever it is: no job is lost, and none doubled."""
    campaign.worker(arguments=TASKS, concurrency=4)
    jobs = [*names("guarded", JOBS), *names("plain", JOBS)]
    for job in jobs:
        task = guarded_hopeless if job.startswith("guarded") else hopeless
        campaign.app.send_task(task.name, (job,), task_id=job)
    eventually(lambda: len(find(campaign.app).kept) == len(jobs), timeout=90)
    cure(campaign.ledger, ALL).touch()
    env = {**os.environ, **campaign.ground.env, **settings_env(campaign.settings)}

    rounds = 0
    while find(campaign.app).kept:
        rounds += 1
        operators = [
            subprocess.Popen([sys.executable, "-m", OPERATOR], env=env, stdout=subprocess.PIPE)
            for _ in range(2)
        ]
        for operator in operators:
            assert operator.stdout.readline() == b"begins\n"
        for operator in operators:
            time.sleep(random.uniform(0.0, 0.15))
            operator.kill()
            operator.communicate()
    eventually(lambda: len(campaign.ledger.counts()) == len(jobs), timeout=60)
    campaign.wait_settled([])

    assert rounds > 2, "nobody was killed"
    assert campaign.ledger.counts() == dict.fromkeys(jobs, 1)


def test_a_delivery_limit_below_the_deaths(
    rabbitmq: RabbitMQServer, valkey: Server, ledger, worker
) -> None:
    """What RabbitMQ takes out of the queue first lies in its own queue of dead letters, whole."""
    for server in (rabbitmq, valkey):
        server.ensure_running()
    ground = RabbitMQGround(rabbitmq.new_vhost(), valkey.new_database(), "quorum")
    queues = ground.settings["task_queues"]
    queues["jobs"]["queue_arguments"]["x-delivery-limit"] = 0
    with running(ground, ledger, worker, task_queues=queues) as campaign:
        campaign.worker(arguments=TASKS)
        campaign.send(dies, "limited", "killed")
        eventually(lambda: uncollected(campaign.app) == {"jobs.dead": 1}, timeout=60)
        assert not has_letter(campaign, "limited")

        assert list(collect(campaign.app)) == ["limited"]
        assert uncollected(campaign.app) == {"jobs.dead": 0}
        kept = letter_of(campaign, "limited")
        assert "delivered more often than its queue allows" in kept.letter.reason
        eventually(lambda: campaign.record(dies, "limited").until_ms < kept.letter.at_ms + 2_000)
        eventually(lambda: _is_replayed(campaign, kept))
        assert campaign.ledger.counts()["limited"] == 1


def _is_replayed(campaign: Campaign, kept) -> bool:
    """The lease of the execution that died must be over first."""
    try:
        cured(campaign, kept)
    except AssertionError as error:
        if "GOES_ON" not in str(error):
            raise
        return False
    return True


def test_what_a_worker_refuses_on_rabbitmq(
    rabbitmq: RabbitMQServer, valkey: Server, ledger, worker
) -> None:
    """It lies in RabbitMQ's own queue of dead letters, once; collected, it can be replayed."""
    for server in (rabbitmq, valkey):
        server.ensure_running()
    ground = RabbitMQGround(rabbitmq.new_vhost(), valkey.new_database(), "quorum")
    with running(ground, ledger, worker) as campaign:
        campaign.worker(arguments=TASKS)
        campaign.app.send_task("nobody.knows", ("refused",), task_id="refused")
        eventually(lambda: uncollected(campaign.app) == {"jobs.dead": 1}, timeout=60)
        assert not has_letter(campaign, "refused")

        assert list(collect(campaign.app)) == ["refused"]
        kept = letter_of(campaign, "refused")
        assert "a worker refused it (rejected)" in kept.letter.reason
        assert replay(campaign.app, kept) is Replay.PUBLISHED
        eventually(lambda: uncollected(campaign.app) == {"jobs.dead": 1}, timeout=60)
