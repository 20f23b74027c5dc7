"""Which store an app's tasks use, how the place is named, and what is never shown."""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys
import textwrap
import traceback
from datetime import timedelta

import pytest
import redis
import redis.asyncio
from celery import Celery
from redis.sentinel import Sentinel

from reliable_tasks import IdempotentTask, storage
from reliable_tasks.core.header import NAME, Header
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.storage import Place, place_of, prefix_of
from reliable_tasks.stores import opening
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.stores.opening import open_store
from reliable_tasks.stores.redis import RedisStore
from reliable_tasks.worker import check
from tests.forked import in_child

AMQP = {"broker_url": "amqp://localhost//"}
SECRET = "s3cret-w0rd"


def conf(**settings: object) -> dict[str, object]:
    return {**AMQP, **settings}


# --- the choice ---------------------------------------------------------------------------


def test_the_choice_goes_from_near_to_far():
    """The task's own store, its URL, the app's store, its URL, the broker, the result backend."""
    store, mine = MemoryStore(), MemoryStore()
    everything = conf(
        reliable_tasks_store=store,
        reliable_tasks_store_url="redis://app/1",
        broker_url="redis://broker/2",
        result_backend="redis://backend/3",
    )

    def chosen(*without: str, **own: object) -> object:
        settings = {name: value for name, value in everything.items() if name not in without}
        return place_of(settings, **own).target

    assert chosen(store=mine, url="redis://task/0") is mine
    assert chosen(url="redis://task/0") == "redis://task/0"
    assert chosen() is store
    assert chosen("reliable_tasks_store") == "redis://app/1"
    assert chosen("reliable_tasks_store", "reliable_tasks_store_url") == "redis://broker/2"
    assert (
        chosen("reliable_tasks_store", "reliable_tasks_store_url", "broker_url")
        == "redis://backend/3"
    )


@pytest.mark.parametrize("backend", [None, "rpc://", "db+sqlite:///x", "cache+memcached://h"])
def test_no_redis_anywhere_is_refused(backend):
    """Without a Redis the error says what to set, instead of failing at the first job."""
    with pytest.raises(ConfigurationError, match="Set reliable_tasks_store_url"):
        place_of(conf(result_backend=backend))


def test_publishing_goes_where_the_broker_is_written():
    """With a broker for reading and one for writing, records live at the one written to."""
    settings = conf(broker_url="redis://read/0", broker_write_url="redis://write/0")

    assert place_of(settings).target == "redis://write/0"


@pytest.mark.parametrize(
    "broker",
    [
        "redis://first/0;redis://second/0",
        ["redis://first/0", "redis://second/0"],
        ["redis://first/0;redis://third/0", "redis://second/0"],
    ],
)
def test_the_first_of_a_failover_list(broker):
    """Of several brokers the first has the records: all processes must agree on one place."""
    assert place_of(conf(broker_url=broker)).target == "redis://first/0"


def test_settings_with_a_namespace():
    """Settings from an object with a namespace, as Django projects have them, are found."""

    class Settings:
        CELERY_BROKER_URL = "amqp://localhost//"
        CELERY_RELIABLE_TASKS_STORE_URL = "redis://records/4"
        CELERY_RELIABLE_TASKS_STORE_TIMEOUT = 0.5
        CELERY_RELIABLE_TASKS_PREFIX = "shop"
        CELERY_RELIABLE_TASKS_LEASE_SECONDS = 7

    app = Celery("django", set_as_current=False)
    app.config_from_object(Settings, namespace="CELERY")

    @app.task(base=IdempotentTask, shared=False)
    def job():
        """Nothing."""

    place = job.place
    assert (place.target, place.timeout) == ("redis://records/4", 0.5)
    assert prefix_of(app.conf) == "shop"
    assert job.guard_options.lease_ms == 7_000
    check(app)


def test_sentinel_broker():
    """A Sentinel broker's master, credentials and TLS are the store's too."""
    sentinels = "sentinel://:word@a:26379/2;sentinel://b:26380"
    settings = conf(
        broker_url=sentinels,
        broker_transport_options={
            "master_name": "shop",
            "visibility_timeout": 60,
            "sentinel_kwargs": {"password": "other"},
            "min_other_sentinels": 1,
        },
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_NONE},
    )

    place = place_of(settings)
    way = place.open()._channel._way

    assert place.target == sentinels
    assert [(each["host"], each["port"]) for each in way.sentinels] == [("a", 26379), ("b", 26380)]
    assert {each["password"] for each in way.sentinels} == {"other"}
    assert (way.service, way.others, way.primary["db"]) == ("shop", 1, 2)
    assert way.primary["password"] == "word"
    assert issubclass(way.primary.connection_class, redis.SSLConnection)


def test_sentinel_without_a_master_name():
    """Sentinels without the name of what they watch are refused with the place to write it."""
    with pytest.raises(ConfigurationError, match="master_name"):
        place_of(conf(broker_url="sentinel://a:26379")).open()


def test_a_master_name_in_the_address():
    """A Sentinel store apart from the broker is named by its address alone."""
    way = Place("sentinel://a;sentinel://b/3?master_name=shop", 1.0).open()._channel._way

    assert (way.service, way.primary["db"], len(way.sentinels)) == ("shop", 3, 2)
    with pytest.raises(ConfigurationError, match="got password too"):
        Place(f"sentinel://a?master_name=x&password={SECRET}", 1.0).open()


def test_tls_as_celery_writes_it():
    """Both of Celery's ways to say TLS reach the connection in redis-py's words."""
    url = "rediss://host/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/ca.pem"
    files = {"ssl_ca_certs": "/ca.pem", "ssl_cert_reqs": ssl.CERT_REQUIRED}
    brokers = [
        conf(broker_url=url),
        conf(broker_url="rediss://host/0", broker_use_ssl=files),
        conf(broker_url="redis://host/0", broker_use_ssl=files),
        conf(result_backend="rediss://host/0", redis_backend_use_ssl=files),
    ]
    for settings in brokers:
        way = place_of(settings).open()._channel.way
        connection = way.connection_class(**way.connection_kwargs)
        assert isinstance(connection, redis.SSLConnection)
        assert connection.ca_certs == "/ca.pem"
        assert connection.cert_reqs == ssl.CERT_REQUIRED


def test_unix_socket_as_celery_writes_it():
    """``redis+socket://`` with ``virtual_host`` is redis-py's ``unix://`` with ``db``."""
    settings = conf(broker_url="redis+socket:///run/redis.sock?virtual_host=3")

    way = place_of(settings).open()._channel.way

    assert (way["path"], int(way["db"])) == ("/run/redis.sock", 3)


def test_what_only_kombu_reads_in_an_address():
    """A query that Kombu understands and redis-py does not is left out."""
    settings = conf(broker_url="redis://host/0?health_check_interval=5&retry_on_timeout=1")

    assert place_of(settings).target == "redis://host/0"


def test_timeout():
    """The time-out is ours: 2 s, or what the settings say."""
    assert place_of(conf(broker_url="redis://h")).timeout == 2.0
    settings = conf(broker_url="redis://h", reliable_tasks_store_timeout=0.25)
    assert place_of(settings).open()._channel._timeout == 0.25
    settings = conf(broker_url="redis://h", reliable_tasks_store_timeout=timedelta(seconds=3))
    assert place_of(settings).timeout == 3


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "2", True])
def test_senseless_timeout(timeout):
    """A time-out that is no time is refused, in the settings and by the store itself."""
    with pytest.raises(ConfigurationError, match="store_timeout: expected seconds"):
        place_of(conf(broker_url="redis://h", reliable_tasks_store_timeout=timeout))
    with pytest.raises(ConfigurationError, match="expected seconds"):
        RedisStore.from_url("redis://h", timeout=timeout)


# --- prefix -------------------------------------------------------------------------------


def test_prefix():
    """Ours, else the broker's key prefix, which separates environments already."""
    transport = {"global_keyprefix": "staging:"}

    assert prefix_of({}) == ""
    assert prefix_of({"broker_transport_options": transport}) == "staging"
    assert prefix_of({"broker_transport_options": transport, "reliable_tasks_prefix": ""}) == ""
    with pytest.raises(ConfigurationError, match="without ':'"):
        prefix_of({"reliable_tasks_prefix": "a:b"})


# --- the name of the place ----------------------------------------------------------------


def store_id(target: object, **options: object) -> str:
    return Place(target, 1.0, tuple(options.items())).store_id


def test_equal_places_have_one_name():
    """One server has one name, however it is written, and whoever logs in."""
    same = [
        "redis://localhost:6379/0",
        "redis://localhost",
        "redis://127.0.0.1/0",
        "redis://user:word@localhost:6379/",
        "rediss://localhost/0",
        redis.Redis(),
        redis.Redis(host="127.0.0.1", decode_responses=True),
    ]

    assert len({store_id(each) for each in same}) == 1


def test_other_places_have_other_names():
    """Host, port, database, path and master's name tell places apart."""
    others = [
        *(store_id(f"redis://{each}") for each in ("a", "b", "a/1", "a:1", "a:1/1")),
        *(store_id(f"unix://{each}") for each in ("/a", "/b", "/a?db=1")),
        *(store_id("sentinel://a", master_name=each) for each in ("x", "y")),
        store_id("sentinel://a/1", master_name="x"),
        store_id("redis+cluster://a"),
    ]

    assert len(set(others)) == len(others)


def test_sentinel_and_cluster_names():
    """Which sentinels or nodes were named does not matter: they lead to one place."""
    client = Sentinel([("c", 26379)]).master_for("x")
    names = {
        store_id("sentinel://a", master_name="x"),
        store_id("sentinel://:word@a;sentinel://b", master_name="x"),
        store_id(client),
    }

    assert len(names) == 1
    assert store_id("redis+cluster://a:1") == store_id("rediss+cluster://b:2;rediss+cluster://c")


def test_a_worker_on_another_store_says_so_once(caplog, monkeypatch):
    """A message from a producer with another store is warned of once a store, and runs."""
    monkeypatch.setattr(storage, "_warned_of", set())
    app = Celery("away", broker=f"redis://:{SECRET}@localhost:6379/5", set_as_current=False)

    @app.task(base=IdempotentTask, shared=False)
    def job():
        """Nothing."""

    def identity(store: str | None) -> object:
        header = Header("id", store_id=store).encode()
        request = type("Request", (), {"id": "id", "headers": {NAME: header}})
        return job.identity_of(request, (), {})

    with caplog.at_level(logging.WARNING, "reliable_tasks"):
        for store in (None, job.store_id, "elsewhere", "elsewhere", "far", "elsewhere"):
            assert identity(store).key == identity(None).key

    assert len(caplog.records) == 2
    assert "localhost:6379/5" in caplog.text
    assert SECRET not in caplog.text


# --- what is refused, and what is never shown ---------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/x@host:6379/0",
        f"redis://user:{SECRET}#@host:6379/0",
        f"redis://host:{SECRET}/0",
        f"sentinel://:{SECRET}@host:port",
        f"redis+cluster://:{SECRET}@host:port",
        f"redis://[{SECRET}/0",
        f"https://:{SECRET}@host",
        SECRET,
        f"{SECRET}://h",
        f"redis://:{SECRET}@host/0?socket_timeout={SECRET}",
        f"redis://:{SECRET}@host/0?no_such_option=1",
    ],
)
def test_an_unreadable_address_keeps_its_secret(url):
    """What cannot be read is refused at once, and no part of it comes along in the traceback."""
    with pytest.raises(ConfigurationError) as caught:
        open_store(url, **({"master_name": "x"} if url.startswith("sentinel") else {}))

    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown.replace(url, "")
    assert SECRET not in str(caught.value)


def test_nothing_shows_a_password():
    """Neither the place, the store, nor the ways in between print credentials."""
    url = f"redis://user:{SECRET}@host/0"
    place = Place(url, 1.0, (("password", SECRET),))
    store = RedisStore.from_url(url)
    cluster = RedisStore.from_url(url.replace("redis:", "redis+cluster:"))
    sentinel = RedisStore.from_url(f"sentinel://:{SECRET}@host", master_name="x")

    for each in (place, store, store._channel.way, cluster, cluster._channel._way, sentinel):
        assert SECRET not in repr(each)
        assert SECRET not in str(each)
    assert SECRET not in repr(sentinel._channel._way)


@pytest.mark.parametrize(
    ("client", "advice"),
    [
        (redis.asyncio.Redis(), "not redis.asyncio"),
        (object(), "got builtins.object"),
        (42, "got builtins.int"),
        (["redis://h"], "got builtins.list"),
        (redis.Redis, "expected a redis.Redis"),
        (Sentinel([("h", 1)]), "got redis.sentinel.Sentinel"),
        (Sentinel([("h", 1)]).slave_for("x"), "Sentinel.master_for"),
    ],
)
def test_what_is_no_store(client, advice):
    """Anything else than a client that waits for its answers is refused, with the way out."""
    with pytest.raises(ConfigurationError, match=advice):
        open_store(client)


def test_a_worker_refuses_a_wrong_client():
    """A client that cannot be used stops the worker at its start, not its first job."""
    app = Celery("wrong", broker="amqp://", set_as_current=False)
    app.conf.reliable_tasks_store = redis.asyncio.Redis()

    @app.task(base=IdempotentTask, shared=False)
    def job():
        """Nothing."""

    with pytest.raises(ConfigurationError, match=r"not redis\.asyncio"):
        check(app)


def test_one_store_for_one_place():
    """Tasks of one place share a store and so its connections; another client is another."""
    client = redis.Redis()

    assert open_store("redis://h/1") is open_store("redis://h/1")
    assert open_store(client) is open_store(client)
    assert open_store(client) is not open_store(redis.Redis())
    assert open_store(client, timeout=1) is not open_store(client, timeout=2)
    options = {"master_name": "x", "sentinel_kwargs": {"password": "word"}}
    assert open_store("sentinel://h", **options) is open_store("sentinel://h", **options)


def test_importing_and_declaring_connects_to_nothing():
    """Import, declaration, and the choice of any kind of store open no socket."""
    script = """
        import socket
        def refuse(*args, **kwargs):
            raise SystemExit("a socket was opened")
        real = socket.socket.connect
        socket.socket.connect = socket.getaddrinfo = refuse
        from celery import Celery
        from reliable_tasks import IdempotentTask, setup
        for url in ("redis://h", "rediss://h", "unix:///h", "redis+cluster://h"):
            app = Celery("a", broker=url if url == "redis://h" else "amqp://")
            setup(app, {"reliable_tasks_store_url": url})
            @app.task(base=IdempotentTask, idempotency_key=("n",))
            def job(n):
                pass
            app.finalize()
            job.place, job.store_id, job.records, job._runner._guard
        print("nothing")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )

    assert (done.stdout.strip(), done.returncode) == ("nothing", 0), done.stderr


def test_a_child_can_open_whatever_another_thread_did() -> None:
    """A process that was forked while a thread opened a store is not locked out for ever."""
    with opening._opening:
        [identity] = in_child(lambda: [open_store("redis://localhost:1/0").identity])

    assert identity == open_store("redis://localhost:1/0").identity
