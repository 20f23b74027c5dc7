"""What the doctor reads of an app, without a server; and offline examinations of whole apps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Exchange, Queue
from kombu.common import Broadcast

from reliable_tasks import IdempotentTask, UniqueTask, presets, setup
from reliable_tasks.doctor import examine
from reliable_tasks.doctor.facts import Settings, Task
from reliable_tasks.doctor.reading import read
from reliable_tasks.doctor.versions import allows

REDIS = "redis://localhost:6379/0"
RESULTS = "redis://localhost:6379/1"
RABBITMQ = "amqp://localhost//"


def made(*, given: Mapping[str, Any] | None = None, **conf: Any) -> Any:
    """An app with a plain and a guarded task."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(conf)
    if given is not None:
        setup(app, given)

    @app.task(name="shop.mail", shared=False)
    def mail() -> None: ...

    @app.task(name="shop.charge", base=IdempotentTask, idempotency_key=("order",), shared=False)
    def charge(order: int) -> None: ...

    return app


def plain(**conf: Any) -> Any:
    """An app that knows nothing of us."""
    app = Celery("plain", broker=REDIS, set_as_current=False)
    app.conf.update(conf)

    @app.task(name="plain.send", shared=False)
    def send() -> None: ...

    return app


def own(found: Settings) -> list[Task]:
    """The tasks of these apps: other tests of the process have shared theirs with every app."""
    return [task for task in found.tasks if task.name.startswith(("shop.", "plain."))]


HEALTHY: dict[str, Callable[[], presets.Preset]] = {
    "redis": lambda: presets.redis(REDIS, results=RESULTS),
    "redis without results": lambda: presets.redis(REDIS),
    "redis with the heartbeat": lambda: presets.redis(REDIS, results=RESULTS, heartbeat=True),
    "redis, five seconds": lambda: presets.redis(REDIS, heartbeat=True, visibility_timeout=5),
    "redis, long": lambda: presets.redis(
        REDIS, longest_task=36_000, longest_countdown=86_400, heartbeat=True
    ),
    "redis, short": lambda: presets.redis(REDIS, longest_task=1, longest_countdown=0),
    "redis, threads": lambda: presets.redis(REDIS, workload="io"),
    "redis, queues": lambda: presets.redis(REDIS, queues=("fast", "slow"), keyprefix="shop"),
    "sentinel": lambda: presets.redis("sentinel://a:26379/0", sentinel_master="jobs"),
    "tls": lambda: presets.redis("rediss://localhost:6379/0", results=RESULTS),
    "socket": lambda: presets.redis("redis+socket:///run/redis.sock?virtual_host=3"),
    "rabbitmq": lambda: presets.rabbitmq(RABBITMQ, results=RESULTS),
    "rabbitmq, long": lambda: presets.rabbitmq(RABBITMQ, results=RESULTS, longest_task=36_000),
    "rabbitmq, classic": lambda: presets.rabbitmq(
        RABBITMQ, results=RESULTS, queue_type="classic", longest_countdown=0
    ),
    "rabbitmq, threads": lambda: presets.rabbitmq(RABBITMQ, results=RESULTS, workload="io"),
    "rabbitmq, queues": lambda: presets.rabbitmq(
        "amqp://a//;amqp://b//", results=RESULTS, queues=("jobs", "mail")
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_our_presets_are_well(name: str) -> None:
    """A preset with `setup` gives the doctor nothing to say, whatever the team needs."""
    report = examine(made(given=HEALTHY[name]()), offline=True, grace_period=30)

    wanted = [finding for finding in report.findings if finding.id != "release-faulty"]
    assert not wanted


@pytest.mark.hooks
def test_a_plain_app_learns_something() -> None:
    """Without any of ours the settings are judged all the same, and nothing is called an error."""
    report = examine(plain(task_time_limit=300), offline=True)

    assert not report.failures()
    assert report.ids >= {"acks-late-missing", "publish-unbounded", "prefetch-high"}
    assert not report.ids & {"visibility-timeout-short", "setting-refused", "queue-undeclared"}


def test_what_a_plain_app_can_have_wrong() -> None:
    """Faults that the field meets most, in one settings file."""
    app = plain(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=7_200,
        task_soft_time_limit=7_300,
        result_backend="redis://localhost:6379/0",
        accept_content=["json", "pickle"],
        visibility_timeout=43_200,
        task_ack_late=True,
        beat_schedule={"nightly": {"task": "plain.sned", "schedule": 60}},
    )
    report = examine(app, offline=True)

    assert {finding.id for finding in report.failures()} == {"visibility-timeout-short"}
    assert report.ids >= {
        "redelivery-endless",
        "time-limits-reversed",
        "backend-shared",
        "pickle-accepted",
        "visibility-timeout-misplaced",
        "setting-misspelt",
        "schedule-nowhere",
    }


def test_places_are_read_as_celery_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers, databases, virtual hosts and prefixes, without passwords."""
    app = plain(broker_transport_options={"global_keyprefix": "shop:"})
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://:hush@a:6400/3")
    found = read(app)

    assert (found.broker.kind, found.broker.database) == ("redis", "3")
    assert found.broker.servers == {"a:6400"}
    assert (found.broker.prefix, found.broker.url) == ("shop:", "redis://:***@a:6400/3")
    assert (found.backend, found.store, found.consumes) == (None, None, None)


@pytest.mark.parametrize(
    ("url", "kind", "database", "servers"),
    [
        (None, "rabbitmq", "/", {"localhost:5672"}),
        ("amqp://a//", "rabbitmq", "/", {"a:5672"}),
        ("amqps://u:p@a/shop%2Feu", "rabbitmq", "shop/eu", {"a:5671"}),
        (["amqp://a//", "amqp://b:5673//"], "rabbitmq", "/", {"a:5672", "b:5673"}),
        ("sentinel://a:26379/2;sentinel://b/2", "redis", "2", {"a:26379", "b:26379"}),
        ("memory://", "memory", "", set()),
        ("sqs://", "other", "", set()),
        ("sqla+sqlite:///x", "database", "", set()),
    ],
)
def test_brokers(url: Any, kind: str, database: str, servers: set[str]) -> None:
    """Each kind of address is known for what it is, and none of them ends the examination."""
    app = Celery("shop", broker=url, set_as_current=False)
    place = read(app).broker

    assert (place.kind, place.database, place.servers) == (kind, database, servers)
    assert examine(app, offline=True).passed


def test_two_addresses() -> None:
    """Publishers and workers of one app can use different addresses."""
    found = read(plain(broker_read_url="redis://b/1", broker_write_url="redis://a/1"))

    assert found.broker.servers == {"a:6379"}
    assert found.reads.servers == {"b:6379"}


def test_routes_are_followed() -> None:
    """By the app's routes, an entry's own queue, and the default; and no queue comes to be."""
    app = made(
        broker_url=REDIS,
        task_queues={"jobs": {"exchange": "jobs", "routing_key": "jobs"}},
        task_default_queue="jobs",
        task_routes={"shop.mail": {"queue": "mails"}},
        beat_schedule={
            "a": {"task": "shop.mail", "schedule": 60},
            "b": {"task": "shop.charge", "schedule": 60, "options": {"queue": "nights"}},
            "c": {"task": "other.thing", "schedule": 60},
        },
    )

    found = read(app)

    assert [task.queue for task in own(found)] == ["jobs", "mails"]
    assert {entry.name: entry.queue for entry in found.entries} == {
        "a": "mails",
        "b": "nights",
        "c": "jobs",
    }
    assert [queue.name for queue in found.declared] == ["jobs"]
    assert list(app.amqp.queues) == ["jobs"]


def test_routes_that_lead_nowhere() -> None:
    """Without missing queues a route to an unknown one is an error at each call."""
    app = made(
        broker_url=REDIS,
        task_queues={"celery": {"exchange": "celery", "routing_key": "celery"}},
        task_create_missing_queues=False,
        task_routes={"shop.mail": {"queue": "mails"}},
    )
    report = examine(app, offline=True)

    (finding,) = report.failures()
    assert finding.id == "route-nowhere"
    assert finding.value == "shop.mail: Queue 'mails' missing from task_queues"


@pytest.mark.parametrize(("broker", "count"), [(REDIS, 1), (RABBITMQ, 0)])
def test_a_topic_that_redis_does_not_know(broker: str, count: int) -> None:
    """Kombu drops what a process publishes to a topic exchange that it has not declared."""
    app = made(
        broker_url=broker,
        task_queues=(Queue("celery"), Queue("mails", Exchange("post", "topic"), "mail.#")),
        task_routes={"shop.mail": {"exchange": "post", "routing_key": "mail.new"}},
    )

    lost = [each for each in examine(app, offline=True).findings if each.id == "route-nowhere"]

    assert [each.value for each in lost] == count * [
        "shop.mail: no queue has exactly the routing key 'mail.new' of the exchange 'post'"
    ]


def test_queues_without_a_name_of_their_own() -> None:
    """A broadcast has another queue in each worker; an exchange with a key leads to a queue."""
    everybody = Broadcast("everybody")
    app = made(
        broker_url=REDIS,
        task_queues=(everybody, Queue("mails", Exchange("post"), routing_key="mail")),
        task_routes={
            "shop.charge": {"queue": "everybody"},
            "shop.mail": {"exchange": "post", "routing_key": "mail"},
        },
    )
    found = read(app)

    assert [(task.queue, task.nowhere) for task in own(found)] == [(None, ""), ("mails", "")]
    assert [queue.name for queue in found.declared] == ["mails"]


def test_a_router_that_needs_arguments_is_no_fault() -> None:
    """Where only a call can tell the queue, none is guessed."""

    def router(name: str, args: Any, kwargs: Any, options: Any, **_: Any) -> Any:
        return {"queue": f"shard-{args[0]}"}

    found = read(plain(task_routes=(router,)))

    assert [(task.queue, task.nowhere) for task in own(found)] == [(None, "")]


def test_options_in_force() -> None:
    """What a task declares, what annotations add, and what the app's settings say of the rest."""
    app = made(
        broker_url=REDIS,
        task_time_limit=60,
        task_annotations={"shop.mail": {"time_limit": 90, "acks_late": True}},
        reliable_tasks_lease_seconds=10,
    )

    @app.task(name="shop.once", base=UniqueTask, max_crashes=5, shared=False)
    def once() -> None: ...

    charge, mail, once_more = own(read(app))

    assert (mail.hard_limit, mail.acks_late, mail.guarded) == (90, True, None)
    assert charge.hard_limit == 60
    assert charge.guarded is not None
    assert (charge.guarded.lease, charge.guarded.has_key) == (10, True)
    assert charge.guarded.max_run >= 90  # before Celery 5.7 a task does not know the app's limit
    assert once_more.guarded is not None
    assert once_more.guarded.max_crashes == 5
    assert charge.digest
    assert charge.content_type == "application/json"


def test_the_settings_that_were_given() -> None:
    """Names are told as Celery's own are written, whatever the namespace, and typos with them."""
    app = Celery("shop", set_as_current=False)
    app.config_from_object(
        SimpleNamespace(CELERY_TASK_ACK_LATE=True, CELERY_BROKER_URL=REDIS, TIME_ZONE="UTC"),
        namespace="CELERY",
    )
    app.conf.task_tracks_started = True
    found = read(app)

    assert found.given >= {"task_ack_late", "broker_url", "task_tracks_started"}
    assert "time_zone" not in found.given
    assert found.misspelt == {
        "task_ack_late": "task_acks_late",
        "task_tracks_started": "task_track_started",
    }


def test_settings_of_others_are_no_typos() -> None:
    """Names of the app's own, and old names of Celery's, are let be."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(my_own_thing=1, reliable_tasks_retention=5, broker_url=REDIS)

    assert not read(app).misspelt


def test_a_module_that_cannot_be_imported() -> None:
    """It is what a worker would end with, and does not end the examination."""
    app = plain(include=["reliable_tasks_there_is_no_such_module"])
    report = examine(app, offline=True)

    (finding,) = report.failures()
    assert finding.id == "setting-refused"
    assert "reliable_tasks_there_is_no_such_module" in finding.value


def test_what_a_worker_would_refuse() -> None:
    """A setting that means nothing to us, and a store that is none."""
    app = made(broker_url=RABBITMQ, reliable_tasks_retentoin=5)
    report = examine(app, offline=True)

    assert "setting-refused" in {finding.id for finding in report.failures()}
    assert "Did you mean reliable_tasks_retention" in str(report.findings)


def test_a_promise_that_the_app_breaks() -> None:
    """What a worker would warn of at its start is known before."""
    app = made(given=presets.redis(REDIS, longest_task=60), task_time_limit=7_200)
    report = examine(app, offline=True)

    assert "preset-overridden" in report.ids


def test_a_schedule_elsewhere_is_a_gap() -> None:
    """Beat's entries in a database are not looked at, nor is beat, and the report says so."""
    entries = {"a": {"task": "plain.send", "schedule": 60}}
    scheduler = "django_celery_beat.schedulers:DatabaseScheduler"
    report = examine(plain(beat_scheduler=scheduler, beat_schedule=entries), offline=True)

    assert [gap.what for gap in report.gaps] == [
        "whether beat runs",
        "entries that beat reads from elsewhere",
    ]
    assert "django_celery_beat" in report.gaps[1].why


def test_where_the_app_is(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the working directory that has the app is named, for code hosts."""
    monkeypatch.chdir(tmp_path)
    app = plain()
    module = ModuleType("proj_of_the_doctor")
    module.__file__, vars(module)["app"] = str(tmp_path / "proj" / "celery.py"), app
    monkeypatch.setitem(sys.modules, module.__name__, module)

    assert read(app).file == "proj/celery.py"
    assert read(plain()).file is None


def test_releases_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redis-py that Kombu's own metadata does not allow is named; without any nothing is said."""
    asked = ['redis<6.5,>=4.5.2; extra == "redis"', 'boto3>=1; extra == "sqs"']
    monkeypatch.setattr("reliable_tasks.doctor.reading.requires", lambda _: asked)
    installed = {"redis": "8.1.0", "kombu": "5.6.2"}
    monkeypatch.setattr("reliable_tasks.doctor.reading.version", installed.__getitem__)

    report = examine(plain(), offline=True)
    found = {finding.id: finding.value for finding in report.findings}
    assert found["release-unsupported"] == "redis 8.1.0; Kombu 5.6.2 supports <6.5,>=4.5.2"

    installed["redis"] = "6.4.0"
    assert "release-unsupported" not in examine(plain(), offline=True).ids


@pytest.mark.parametrize(
    ("limits", "version", "fits"),
    [
        ("<6.5,>=4.5.2", "6.4.0", True),
        ("<6.5,>=4.5.2", "6.5", False),
        ("!=4.5.5,!=5.0.2,<=5.2.1,>=4.5.2", "5.2.1", True),
        ("!=4.5.5,!=5.0.2,<=5.2.1,>=4.5.2", "5.0.2", False),
        ("<9.0.0,>=6.4.0", "9.0.0rc1", False),
        (">=6.4.0", "6.4", True),
        ("==5.2", "5.2.0", True),
        (">5", "5.0.0", False),
        ("", "5", True),
    ],
)
def test_limits_of_releases(limits: str, version: str, fits: bool) -> None:
    """Numbers are compared as numbers, and what is not written is zero."""
    assert allows(limits, version) is fits
