"""Settings derived from what a team needs, each with its reason; what cannot hold is refused."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from reliable_tasks import ConfigurationError, presets
from reliable_tasks.presets.addresses import masked
from reliable_tasks.presets.installed import is_known
from reliable_tasks.presets.rendering import VARIABLES, as_file
from tests import preset_page

REDIS = "redis://localhost:6379/0"
RABBITMQ = "amqp://localhost//"


def row(preset: presets.Preset, name: str) -> Any:
    return next(row for row in preset.rows if row.name == name)


def test_the_defaults_of_redis() -> None:
    """What is derived when only an address is given."""
    preset = presets.redis(REDIS)

    options = preset["broker_transport_options"]
    assert options["visibility_timeout"] == 3600 + 2 * 630 + 60
    assert (options["socket_timeout"], options["retry_on_timeout"]) == (1.5, False)
    assert (preset["task_soft_time_limit"], preset["task_time_limit"]) == (600, 630)
    assert (preset["worker_pool"], preset["worker_prefetch_multiplier"]) == ("prefork", 1)
    assert (preset["task_acks_late"], preset["task_create_missing_queues"]) == (True, False)
    assert preset["worker_soft_shutdown_timeout"] == 25
    assert preset["task_ignore_result"] is True
    assert preset["reliable_tasks_redelivery_horizon"] == 21_600
    assert "result_backend" not in preset
    assert "worker_concurrency" not in preset


def test_everything_follows_from_what_is_needed() -> None:
    """Longer tasks and countdowns, threads, results and a prefix change what hangs on them."""
    preset = presets.redis(
        REDIS,
        longest_task=timedelta(hours=2),
        longest_countdown=0,
        workload="io",
        results="redis://localhost:6379/1",
        grace_period=60,
        keyprefix="shop:",
        publishers="worker",
        queues=("fast", "slow"),
        lease_seconds=10,
    )

    options = preset["broker_transport_options"]
    assert options["visibility_timeout"] == 2 * 7230 + 60
    assert (options["socket_timeout"], options["global_keyprefix"]) == (5, "shop:")
    assert preset["reliable_tasks_redelivery_horizon"] == 2 * options["visibility_timeout"]
    assert (preset["worker_pool"], preset["worker_concurrency"]) == ("threads", 20)
    assert preset["reliable_tasks_max_run"] == 7230
    assert preset["result_backend"] == "redis://localhost:6379/1"
    assert preset["result_backend_transport_options"] == {"global_keyprefix": "shop:"}
    assert preset["redis_retry_on_timeout"] is True
    assert (preset["task_default_queue"], list(preset["task_queues"])) == ("fast", ["fast", "slow"])
    assert not {"task_time_limit", "task_soft_time_limit", "task_ignore_result"} & set(preset)
    assert "worker_soft_shutdown_timeout" not in preset
    assert "none takes longer than 55 s" in " ".join(preset.explain().split())


def test_the_heartbeat_makes_the_visibility_timeout_short() -> None:
    """With it a dead worker's jobs are back in a minute, however long tasks and countdowns are."""
    preset = presets.redis(REDIS, longest_task=36_000, heartbeat=True)
    short = presets.redis(REDIS, visibility_timeout=5, heartbeat=True)

    assert preset["broker_transport_options"]["visibility_timeout"] == 60
    assert short["broker_transport_options"]["visibility_timeout"] == 5
    assert preset["reliable_tasks_redelivery_horizon"] == 3600 + 2 * 36_030 + 60 + 60


def test_a_preset_cannot_be_changed() -> None:
    """What a preset hands out are copies."""
    preset = presets.redis(REDIS)
    preset["broker_transport_options"].clear()

    assert preset["broker_transport_options"]["visibility_timeout"] == 4920
    assert not hasattr(preset, "__setitem__")


def test_passwords_stay_out_of_sight() -> None:
    """Neither the preset nor a row, its explanation nor an error shows a password."""
    url = "rediss://shop:hush@localhost:6379/0"
    preset = presets.redis(
        url, results="rediss://:hush@localhost:6379/1", store="redis://:hush@elsewhere/2"
    )

    assert preset["broker_url"] == url
    shown = preset.explain() + repr(preset) + repr(preset.rows)
    assert "hush" not in shown
    assert "shop:***@localhost" in shown
    for refused in (
        "amqp://shop:hush@a//",
        "redis://:hush@a;redis://:hush@b",
        "redis://:hush@a;",
        "redis://:a;hush@a/0",
        "redis://:a/hush@a/0",
        "redis://:1/hush@a/0",
        "redis://:a#hush@a/0",
        "redis://a/b:hush@a/0",
    ):
        with pytest.raises(ConfigurationError) as error:
            presets.redis(refused)
        assert "hush" not in str(error.value)
    for refused in ("db+mysql://shop:hush@a/b", "rpc://:hush@", url, "redis+cluster://:hush@a"):
        with pytest.raises(ConfigurationError) as error:
            presets.redis(url, results=refused)
        assert "hush" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://:hu@sh@a/0", "redis://:***@a/0"),
        ("redis://:hu;s/h@a/0;redis://b@c", "redis://:***@a/0;redis://b@c"),
        ("amqp://u:hush@a//;amqp://u:hush@b//", "amqp://u:***@a//;amqp://u:***@b//"),
        ("redis+socket:///run/redis.sock?db=1&password=hush", None),
        ("redis://shop@a:6379/0", "redis://shop@a:6379/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
    ],
)
def test_addresses_are_shown_without_passwords(address: str, shown: str | None) -> None:
    """Stars stand where a password would, and nothing else is changed."""
    assert masked(address) == (shown or address.replace("hush", "***"))


def test_tls_checks_the_certificate() -> None:
    """Behind rediss:// the server must prove who it is; what the address says is left as it is."""
    plain = presets.redis("rediss://a/0", results="rediss://a/1", ca_certs="/etc/ca.pem")
    stated = presets.redis("rediss://a/0?ssl_cert_reqs=none")

    expected = {"ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/ca.pem"}
    assert plain["broker_use_ssl"] == plain["redis_backend_use_ssl"] == expected
    assert "broker_use_ssl" not in stated
    assert "broker_use_ssl" not in presets.redis(REDIS)


def test_sentinels_are_asked_for_a_primary() -> None:
    """Several sentinels are one broker, and both transports hear the primary's name."""
    url = "sentinel://a:26379/0;sentinel://b:26379/0"
    preset = presets.redis(url, results="sentinel://a:26379/1", sentinel_master="jobs")

    assert preset["broker_url"] == url
    assert preset["broker_transport_options"]["master_name"] == "jobs"
    assert preset["result_backend_transport_options"]["master_name"] == "jobs"
    assert presets.redis(url.split(";"), sentinel_master="jobs")["broker_url"] == url


def test_sentinels_are_asked_for_no_longer_than_one_server() -> None:
    """However many there are, and none is asked again at once, as redis-py would."""
    broker, results = (";".join(f"sentinel://{host}:26379/{db}" for host in "abc") for db in "01")
    preset = presets.redis(broker, results=results, sentinel_master="jobs")

    for setting, together in (("broker", 1.5), ("result_backend", 0.8)):
        options = preset[f"{setting}_transport_options"]["sentinel_kwargs"]
        assert 3 * options["socket_timeout"] == pytest.approx(together, abs=0.02)
        assert options["socket_connect_timeout"] == options["socket_timeout"]
        assert options["retry"] is None


def test_the_defaults_of_rabbitmq() -> None:
    """Quorum queues behind topic exchanges, confirmed publishes, dead letters that are kept."""
    preset = presets.rabbitmq(RABBITMQ, results=REDIS)

    (name, queue), *others = preset["task_queues"].items()
    arguments = queue["queue_arguments"]
    assert not others
    assert (name, queue["exchange_type"], arguments["x-queue-type"]) == ("jobs", "topic", "quorum")
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
    assert arguments["x-consumer-timeout"] == 1_800_000
    assert preset["broker_transport_options"]["confirm_publish"] is True
    assert preset["broker_channel_error_retry"] is True
    assert preset["reliable_tasks_redelivery_horizon"] == 21_600


def test_a_long_task_lengthens_the_consumer_timeout() -> None:
    """A worker may hold a message longer than RabbitMQ would let it, if the queue says so."""
    queue = presets.rabbitmq(RABBITMQ, longest_task=3600)["task_queues"]["jobs"]
    classic = presets.rabbitmq(RABBITMQ, queue_type="classic")

    assert queue["queue_arguments"]["x-consumer-timeout"] == (2 * 3630 + 60) * 1_000
    assert classic["task_queues"]["jobs"]["queue_arguments"] == {"x-consumer-timeout": 4_920_000}
    assert "task_default_queue_type" not in classic


def test_several_hosts_of_rabbitmq_are_one_broker() -> None:
    """Hosts of one cluster are tried in turn; the certificate of each must name it."""
    preset = presets.rabbitmq(["amqps://u:hush@a//", "amqps://u:hush@b//"], ca_certs="/etc/ca.pem")

    assert preset["broker_url"] == "amqps://u:hush@a//;amqps://u:hush@b//"
    assert preset["broker_use_ssl"] == {
        "cert_reqs": 2,
        "server_hostname": None,
        "ca_certs": "/etc/ca.pem",
    }
    assert "hush" not in preset.explain() + repr(preset)


REFUSED = {
    "another broker": ({"url": "amqp://a//"}, r"url: expected one of redis://, .*got 'amqp://a//'"),
    "a cluster": ({"url": "redis+cluster://a"}, "speak to no Redis Cluster"),
    "two servers": ({"url": "redis://a;redis://b"}, "Two servers do not share their messages"),
    "no address": ({"url": ""}, "url: expected a URL"),
    "a variable that is not set": ({"url": None}, "url: expected a URL or several, got None"),
    "a port in words": ({"url": "redis://a:b/0"}, r"url: expected scheme://.*host:port/"),
    "half an address": ({"url": "redis://[::1/0"}, r"url: expected scheme://.*host:port/"),
    "one slash": ({"url": "redis:/a"}, r"url: expected scheme://.*got 'redis:/a'"),
    "a database in words": ({"url": "redis://a/b"}, "url: expected the number of a database"),
    "a database in the query": ({"results": "redis://a?db=1"}, "results: expected the number of"),
    "results on two servers": (
        {"results": "redis://a/1;redis://b/1"},
        "results: expected one Redis, or sentinels, got 'redis://a/1;redis://b/1'",
    ),
    "results without saying where": ({"results": True}, "results: expected a URL .* got True"),
    "records nowhere": (
        {"store": "memory"},
        "store: expected the address of a Redis, got 'memory'",
    ),
    "records in a client": ({"store": object()}, "store: expected the address .* got object. A cl"),
    "an authority without TLS": (
        {"ca_certs": "/ca.pem"},
        "ca_certs: expected beside an address that begins with rediss:// .*got '/ca.pem'",
    ),
    "an authority beside an address that has its own": (
        {"url": "rediss://a/0?ssl_cert_reqs=none", "ca_certs": "/ca.pem"},
        "ca_certs: expected beside an address .* has no ssl_ options of its own",
    ),
    "no name of a file": ({"url": "rediss://a", "ca_certs": True}, "ca_certs: expected the name"),
    "seconds between heartbeats": ({"heartbeat": 60}, "heartbeat: expected True or False, got 60"),
    "a number of queues": ({"queues": 5}, "queues: expected names of queues, got 5"),
    "sentinels without a primary": (
        {"url": "sentinel://a:26379"},
        "sentinel_master: expected the name of the primary",
    ),
    "a task of no time": ({"longest_task": 0}, "longest_task: expected seconds"),
    "a negative countdown": ({"longest_countdown": -1}, "longest_countdown: expected seconds"),
    "an unknown workload": ({"workload": "gpu"}, r"workload: expected one of \('cpu', 'io'\)"),
    "an unknown publisher": ({"publishers": "beat"}, "publishers: expected one of"),
    "no concurrency": ({"concurrency": 0}, "concurrency: expected a whole number from 1, got 0"),
    "no queues": ({"queues": ()}, "queues: expected names"),
    "a queue twice": ({"queues": ("a", "a")}, "queues: expected each name once"),
    "a prefix in parts": ({"keyprefix": "a:b"}, "keyprefix: expected a text without ':'"),
    "results in a database": (
        {"results": "db+postgresql://a/b"},
        "results: expected a Redis, got .* A database pays for each task",
    ),
    "results in django's database": ({"results": "django-db"}, "results: expected a Redis"),
    "results in messages": ({"results": "rpc://"}, "results: expected a Redis or None"),
    "results among the messages": (
        {"results": "redis://localhost/0"},
        r"results: expected another database number than the broker's \(0\), got 0",
    ),
    "results among the messages behind a socket": (
        {"url": "redis+socket:///r?virtual_host=1", "results": "redis+socket:///r?db=1"},
        r"results: expected another database number than the broker's \(1\), got 1",
    ),
    "no time to end": ({"grace_period": 5}, "grace_period: expected above the 5 s .* got 5 s"),
    "a short visibility timeout": (
        {"visibility_timeout": 300},
        "visibility_timeout: expected at least 4920 s, .*longest_countdown 3600 s.*got 300 s",
    ),
    "a long lease": (
        {"lease_seconds": 30_000},
        r"lease_seconds: expected at most redelivery_horizon \(21600 s\), got 30000 s",
    ),
    "a very short visibility timeout": (
        {"visibility_timeout": 3, "heartbeat": True},
        "visibility_timeout: expected at least 5 s, .*heartbeat.*got 3 s",
    ),
    "a short memory": (
        {"redelivery_horizon": 3600},
        "redelivery_horizon: expected at least 9840 s, .*visibility timeout.*got 3600 s",
    ),
}


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_hold_is_refused(options: dict[str, Any], reason: str) -> None:
    """The error names both sides of what cannot hold."""
    with pytest.raises(ConfigurationError, match=reason):
        presets.redis(**{"url": REDIS, **options})


REFUSED_BY_RABBITMQ = {
    "another broker": ({"url": REDIS}, "url: expected one of amqp://, amqps://, pyamqp://; got"),
    "an unknown type": ({"queue_type": "stream"}, "queue_type: expected one of"),
    "a short consumer timeout": (
        {"consumer_timeout": 600},
        "consumer_timeout: expected at least 1320 s, .*hard time limit 630 s.*got 600 s",
    ),
    "a short consumer timeout with countdowns in the worker": (
        {"consumer_timeout": 1800, "queue_type": "classic"},
        "consumer_timeout: expected at least 4920 s, .*longest_countdown 3600 s.*got 1800 s",
    ),
    "a limit below ours": (
        {"delivery_limit": 3},
        r"delivery_limit: expected above max_crashes \(3\), got 3",
    ),
    "a limit in words": ({"delivery_limit": "9"}, "delivery_limit: expected a whole .*got '9'"),
    "a name of RabbitMQ's own": ({"queues": "amq.jobs"}, "queues: expected no name that begins"),
    "a name for all": ({"queues": ("jobs", "mail.#")}, r"queues: expected no name with \* or #"),
    "a queue of dead letters": (
        {"queues": ("jobs", "jobs.dead")},
        "queues: expected no queue with the name .*'jobs' and 'jobs.dead'",
    ),
    "a countdown of ten years": (
        {"longest_countdown": 315_360_000},
        "longest_countdown: expected at most the 268435455 s .*got 3.1536e.08 s",
    ),
    "names that end alike": (
        {"queues": ("mail", "shop.mail")},
        "queues: expected no name that ends .*'shop.mail' and 'mail'",
    ),
    "a short memory": ({"redelivery_horizon": 60}, "expected at least 3600 s, .*consumer timeout"),
    "results in a database": ({"results": "db+sqlite://"}, "results: expected a Redis, got"),
    "sentinels without a primary": ({"results": "sentinel://a:1/0"}, "sentinel_master: expected"),
}


@pytest.mark.parametrize(
    ("options", "reason"), REFUSED_BY_RABBITMQ.values(), ids=REFUSED_BY_RABBITMQ
)
def test_what_cannot_hold_on_rabbitmq_is_refused(options: dict[str, Any], reason: str) -> None:
    """The error names both sides of what cannot hold."""
    with pytest.raises(ConfigurationError, match=reason):
        presets.rabbitmq(**{"url": RABBITMQ, **options})


@pytest.mark.hooks
def test_every_name_is_known_to_the_installed_celery() -> None:
    """No setting is a word that Celery or Kombu ignores; what they do not know is left out."""
    preset = presets.redis(
        "sentinel://a:1/0", results=REDIS, sentinel_master="jobs", keyprefix="shop", store=REDIS
    )

    assert [row.name for row in preset.rows if not is_known(row.name, broker="Redis")] == []
    rabbitmq = presets.rabbitmq("amqps://a//", results=REDIS, store=REDIS, workload="io")
    assert [row.name for row in rabbitmq.rows if not is_known(row.name, broker="RabbitMQ")] == []
    left_out = {setting.name: setting.reason for setting in preset.left_out}
    options = preset["broker_transport_options"]
    assert ("broker_transport_options.unacked_restore_interval" in left_out) != (
        "unacked_restore_interval" in options
    )
    assert ("task_retry_on_worker_lost" in left_out) != ("task_retry_on_worker_lost" in preset)
    assert all("does not know it" in left_out[name] for name in left_out if "retry" in name)


def test_only_a_preset_has_reasons() -> None:
    """A copy of one is settings like any other."""
    with pytest.raises(ConfigurationError, match="explain: expected a preset, got dict"):
        presets.explain({**presets.redis(REDIS)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "preset",
    [
        presets.redis(REDIS, results="redis://localhost:6379/1"),
        presets.rabbitmq(RABBITMQ, results=REDIS, workload="io"),
    ],
    ids=["redis", "rabbitmq"],
)
def test_every_row_says_why(preset: presets.Preset) -> None:
    """Each setting has a reason, what breaks without it, and a source."""
    for setting in preset.rows:
        assert setting.reason.endswith("."), setting.name
        assert setting.without.endswith("."), setting.name
        assert setting.source, setting.name
        assert f"{setting.name} = {setting.shown}" in presets.explain(preset)


@pytest.mark.parametrize("password", ["", "shop:hush@"])
@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_the_file_says_what_the_object_says(
    kind: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rendered file makes the same settings, and has no password in it."""
    make, scheme = (presets.redis, "rediss") if kind == "redis" else (presets.rabbitmq, "amqps")
    preset = make(
        f"{scheme}://{password}a/0",
        results=f"redis://{password}a/1",
        store=f"redis://{password}a/2",
        queues=("fast", "slow"),
        keyprefix="shop",
        concurrency=3,
    )
    text = as_file(preset)
    for row in preset.rows:
        if row.is_address and password:
            monkeypatch.setenv(VARIABLES[row.name], row.value)
    made: dict[str, Any] = {}
    exec(text, made)

    ignored = ("__builtins__", "__doc__", "os")
    assert {name: made[name] for name in made if name not in ignored} == dict(preset)
    assert "hush" not in text
    assert ("import os" in text) == bool(password)
    assert max(map(len, text.splitlines())) <= 100


def test_a_file_takes_paths_and_names_of_an_enum() -> None:
    """What is no plain text in the code is plain text in the file."""

    class Queues(StrEnum):
        JOBS = "jobs"

    made: dict[str, Any] = {}
    exec(as_file(presets.redis("rediss://a/0", ca_certs=Path("/ca"), queues=Queues.JOBS)), made)

    assert made["broker_use_ssl"]["ssl_ca_certs"] == "/ca"
    assert (made["task_default_queue"], list(made["task_queues"])) == ("jobs", ["jobs"])


def test_the_reference_is_that_of_the_code() -> None:
    """Every table of the reference page is what the presets say."""
    text = preset_page.PAGE.read_text()

    assert text == preset_page.page(text), "run `python -m tests.preset_page`"
