"""A server that is missing is never passed over in silence."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from reliable_tasks.testing import eventually
from reliable_tasks.testing.processes import group_of

CONFTEST = """
from reliable_tasks.testing import postgres, rabbitmq

pytest_plugins = ["reliable_tasks.testing.fixtures"]
postgres.DEBIAN, rabbitmq.PLACES = "/nowhere", ()
"""
TEST = """
def test_queries(postgres):
    assert postgres.query("SELECT 1") == [["1"]]

def test_evaluates(rabbitmq):
    assert rabbitmq.evaluate("1") == 1

def test_pings(server):
    assert server.client().ping()

def test_pings_redis(redis_server):
    assert redis_server.client().ping()
"""


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch):
    """Sessions that load what they need, and none of the plugins that are installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def session(pytester, monkeypatch):
    """A session of its own in a folder of its own, without servers on the machine."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TEST)
    monkeypatch.setenv("PATH", "")
    return pytester.runpytest_subprocess


def test_missing_server_is_an_error_in_ci(session, monkeypatch):
    """On a CI machine every test that wants a server that is missing is an error that names it."""
    monkeypatch.setenv("CI", "true")

    result = session()

    result.assert_outcomes(passed=1, errors=4)
    result.stdout.fnmatch_lines(
        [
            "*not found: the program *apt-get install postgresql*",
            "*not found: the program *apt-get install rabbitmq-server*",
            "*not found: the program redis-server*apt-get install*",
        ]
    )


def test_missing_server_is_said_on_a_laptop(session, monkeypatch):
    """Elsewhere the common tests run on Valkey, and the run's last lines say what is missing."""
    monkeypatch.delenv("CI", raising=False)

    result = session()

    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "*not tested: a server is missing*",
            "not found: the program *apt-get install postgresql*",
            "not found: the program *apt-get install rabbitmq-server*",
            "not found: the program redis-server*",
        ]
    )


HANGING_TEST = """
import pathlib, time

def test_hangs(valkey, worker):
    env = {"CELERY_BROKER_URL": valkey.url, "CELERY_RESULT_BACKEND": valkey.url}
    process = worker("tests.integration.apps.plain", env=env)
    process.pause(process.children()[0])
    pathlib.Path("started").write_text(f"{valkey.pid} {process.pid}")
    time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_run_leaves_nothing_behind(pytester, pytestconfig, monkeypatch, end):
    """Ctrl-C or SIGKILL in the middle of a test takes servers and workers along."""
    pytester.makeconftest('pytest_plugins = ["reliable_tasks.testing.fixtures"]')
    pytester.makepyfile(HANGING_TEST)
    started = pytester.path / "started"
    monkeypatch.setenv("PYTHONPATH", str(pytestconfig.rootpath), prepend=os.pathsep)
    session = pytester.popen([sys.executable, "-m", "pytest"])
    with session:
        pids = [
            int(pid) for pid in eventually(lambda: started.exists() and started.read_text()).split()
        ]
        assert all(group_of(pid) for pid in pids)

        session.send_signal(end)
        session.wait(60)

    eventually(lambda: not any(group_of(pid) for pid in pids), message=lambda: f"{pids} are gone")
