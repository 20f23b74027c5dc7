"""The doctor's probes where they are not let in, not answered, or not understood."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest
from celery import Celery

from reliable_tasks.broker.view import BrokerUnseen, management
from reliable_tasks.doctor import probes
from reliable_tasks.doctor.facts import Facts, Link
from reliable_tasks.doctor.probes import probe, workers
from reliable_tasks.doctor.reading import read
from reliable_tasks.inspectable import COMMAND
from reliable_tasks.testing import (
    Sentinels,
    Server,
    WorkerProcess,
    close_app,
    eventually,
    rabbitmq_server,
    silent_server,
    valkey_binary,
    valkey_server,
)
from reliable_tasks.testing.daemons import free_port
from tests.integration.apps.doctored import shop

WORKER = "tests.integration.apps.doctored_worker"
PLAIN = "tests.integration.apps.plain"
TIMEOUT = 0.5  # seconds
MARGIN = 10.0  # for a busy machine


@pytest.fixture
def examined() -> Iterator[list[Celery]]:
    """Apps of a test, closed after it."""
    apps: list[Celery] = []
    yield apps
    for app in apps:
        close_app(app)


def facts_of(app: Celery, timeout: float = TIMEOUT) -> Facts:
    """Return what the probes find."""
    return probe(app, read(app), timeout=timeout)


class TestWorkers:
    """Workers of any Celery app."""

    @pytest.mark.hooks
    def test_a_plain_worker(self, valkey: Server, examined: list[Celery]) -> None:
        """Celery's own commands tell its queues, tasks and settings; what they do not is a gap."""
        valkey.ensure_running()
        database = valkey.new_database()
        app = Celery("observer", broker=database.url, set_as_current=False)
        examined.append(app)
        with WorkerProcess(
            PLAIN, pool="threads", concurrency=3, env=database.celery_env
        ) as process:
            facts = facts_of(app, timeout=4)
            log = process.log

        [worker] = facts.workers or ()
        assert worker.name == process.name
        assert worker.queues == {"celery"}
        assert f"{PLAIN}.pay" in (worker.tasks or ())
        assert (worker.pool, worker.concurrency) == ("thread", 3)
        assert worker.database == str(database.number)
        assert worker.accepts == {"application/json"}
        assert (worker.conf or {})["task_acks_late"] is True
        assert worker.digests is worker.clock_ahead is None
        assert any(process.name in gap.what for gap in facts.gaps)
        assert "pidbox command error" not in log

    @pytest.mark.hooks
    def test_what_a_worker_says_of_itself(
        self, examined: list[Celery], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It holds no password. Whoever says it in another form is asked as a plain worker."""
        with valkey_server(password="secret") as server:
            broker, results = server.new_database(), server.new_database()
            app = shop(broker.url, results=results.url)
            examined.append(app)
            env = {"DOCTOR_BROKER": broker.url, "DOCTOR_RESULTS": results.url}
            with (
                WorkerProcess(WORKER, pool="solo", env={**env, "DOCTOR_FUSE": "none"}),
                broker.client() as client,
            ):
                eventually(lambda: client.pubsub_numpat() or client.pubsub_channels())
                reply = app.control.broadcast(COMMAND, reply=True, limit=1, timeout=20)
                monkeypatch.setattr(workers, "FORMAT", -1)
                facts = facts_of(app, timeout=4)

        [about] = reply[0].values()
        assert about["broker"]["virtual_host"] == str(broker.number)
        assert about["tasks"].keys() == {"shop.charge", "shop.greet", "shop.haunt", "shop.wait"}
        assert "secret" not in repr(reply) + repr(facts)
        [worker] = facts.workers or ()
        assert worker.queues == {"jobs", "mail"}
        assert worker.digests is None
        assert any("of this release" in gap.why for gap in facts.gaps)


class TestServers:
    """Servers that answer some questions, or none."""

    def test_a_user_who_may_not_ask(self, examined: list[Celery]) -> None:
        """What Redis refuses to tell is a gap; the rest is known."""
        rights = "~* &* +@all -info -config -client|list"
        with valkey_server(acl=["user default off", f"user shop on >secret {rights}"]) as server:
            url = server.url_for(1, username="shop", password="secret")
            app = shop(url, results=server.url_for(2, username="shop", password="secret"))
            examined.append(app)
            facts = facts_of(app)

        assert facts.broker is not None
        assert facts.broker.trouble is None
        assert facts.broker.redis is not None
        assert facts.broker.redis.identity is facts.broker.redis.policy is None
        assert [queue.name for queue in facts.queues or ()] == ["jobs", "mail"]
        assert facts.workers == ()
        gaps = {gap.what for gap in facts.gaps}
        assert {"what Redis says of itself", "workers at other databases of this Redis"} <= gaps
        assert "secret" not in repr(facts)

    def test_the_acl_page_names_its_rights(self, examined: list[Celery]) -> None:
        """With what the page adds to the rights of Celery itself, nothing is left unseen."""
        page = (Path(__file__).parents[2] / "docs" / "reference" / "acl.md").read_text()
        [added] = re.findall(r"```text\n(.*)\n```", page.partition("## The doctor")[2])[:1]
        dangerous = "-@dangerous -@admin -scan"
        with valkey_server(
            acl=["user default off", f"user shop on >secret ~* &* +@all {dangerous} {added}"]
        ) as server:
            url = server.url_for(1, username="shop", password="secret")
            app = shop(url, results=server.url_for(2, username="shop", password="secret"))
            examined.append(app)
            facts = facts_of(app)

        assert facts.gaps == ()
        assert facts.broker is not None
        assert facts.broker.redis is not None
        assert None not in dataclasses.astuple(facts.broker.redis)

    def test_all_are_silent(self, examined: list[Celery]) -> None:
        """Broker, results and records are asked at once, and the whole has an end."""
        with silent_server() as broker, silent_server() as results, silent_server() as store:
            app = shop(broker, results=results, store=store)
            examined.append(app)
            begun = time.monotonic()
            facts = facts_of(app)

        assert time.monotonic() - begun < 8 * TIMEOUT + MARGIN
        links = (facts.broker, facts.backend, facts.store)
        assert [link and link.trouble for link in links] == ["silent"] * 3
        assert facts.queues is facts.workers is None

    def test_a_broker_that_falls_silent(self, examined: list[Celery]) -> None:
        """It answered a moment ago: what is not known by then is a gap."""
        with valkey_server() as server:
            app = shop(server.url, results=server.url_for(1))
            examined.append(app)
            settings = read(app)
            server.pause()
            begun = time.monotonic()
            link = Link(place=settings.broker)
            living = probes._living(app, settings, link, TIMEOUT)
            took = time.monotonic() - begun
            server.resume()

        assert took < 4 * TIMEOUT + MARGIN
        assert living.queues is living.workers is None
        assert living.gaps

    def test_nothing_is_left_behind(self, valkey: Server, examined: list[Celery]) -> None:
        """But for what Kombu itself keeps of queues that end, and never removes."""
        valkey.ensure_running()
        broker, results = valkey.new_database(), valkey.new_database()
        app = shop(broker.url, results=results.url)
        examined.append(app)
        facts_of(app)

        with broker.client() as client, results.client() as other:
            assert set(client.keys()) <= {b"_kombu.binding_deadlines"}
            assert other.keys() == []

    @pytest.mark.chaos
    def test_behind_sentinels(self, examined: list[Celery]) -> None:
        """The primary is asked, and a worker in another database of it is found."""
        with Sentinels(valkey_binary()) as group:
            hosts = [f"sentinel://{host}:{port}" for host, port in group.addresses]
            wishes = {"sentinel_master": group.name, "results": group.primary.url_for(9)}
            app = shop(";".join(f"{host}/0" for host in hosts), **wishes)
            examined.append(app)
            facts = facts_of(app, timeout=2)

        assert facts.broker is not None
        assert facts.broker.trouble is None
        assert facts.broker.redis is not None
        assert facts.broker.redis.role == "master"
        assert facts.workers == ()
        assert len(facts.queues or ()) == 2

    @pytest.mark.chaos
    def test_a_rabbitmq_with_its_management_interface(
        self, examined: list[Celery], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It tells of queues that nobody declares here, of alarms, and of what is held."""
        port = free_port()
        monkeypatch.setattr(management, "PORT", port)
        with rabbitmq_server() as server:
            plugins = server.directory / "enabled_plugins"
            plugins.write_text("[rabbitmq_management].\n")
            server.evaluate(
                f"[application:set_env(rabbitmq_management, listener, [{{port, {port}}}, "
                f'{{ip, "127.0.0.1"}}]), element(1, rabbit_plugins:ensure("{plugins}"))]'
            )
            vhost = server.new_vhost()
            app = shop(vhost.url, results=None)
            examined.append(app)
            with vhost.connection() as connection:
                kombu.Queue("mails", durable=True)(connection.default_channel).declare()
            server.evaluate("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []})")
            seen = eventually(lambda: alarms_of(app))
            server.evaluate("rabbit_alarm:clear_alarm({resource_limit, memory, node()})")
            facts = facts_of(app, timeout=2)

        assert seen == ("memory",)
        [mails] = [queue for queue in facts.queues or () if queue.name == "mails"]
        assert (mails.kind, mails.redeliveries, mails.exists) == ("classic", 0, True)
        assert not any("does not declare" in gap.what for gap in facts.gaps)


def alarms_of(app: Celery) -> tuple[str, ...] | None:
    """Return what the management interface says; None as long as it has not counted."""
    address = management.address_of(app.connection_for_read(), None)
    try:
        return management.Management(address, 2).alarms()
    except BrokerUnseen:
        return None
