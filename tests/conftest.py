from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from celery import _state
from hypothesis import HealthCheck, settings

from reliable_tasks.pools import registry
from reliable_tasks.signals import task_claimed, task_settled

pytest_plugins = ["pytester", "reliable_tasks.testing.fixtures"]

# Started in the background, the tests would hand an ignored SIGINT on to all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

OF_EACH = (task_claimed, task_settled)

# A busy machine is no failure; `--hypothesis-profile=long` is what `nox -s property` runs.
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", COMMON, max_examples=50)
settings.register_profile("long", COMMON, max_examples=5_000, stateful_step_count=100)
settings.load_profile("default")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run all tests with RabbitMQ in one process: each node of it takes ten seconds of a core."""
    from xdist.scheduler import LoadScopeScheduling

    class OneRabbitMQ(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "rabbitmq" if "rabbitmq" in nodeid.lower() else super()._split_scope(nodeid)

    return OneRabbitMQ(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(autouse=True)
def apps_of_one_test() -> Iterator[None]:
    """Tasks, the current app and receivers of signals, which Celery keeps globally, end with it."""
    finalizers, current = set(_state._on_app_finalizers), _state._tls.current_app
    heard = {each: list(each.receivers) for each in OF_EACH}
    yield
    _state._on_app_finalizers.clear()
    _state._on_app_finalizers.update(finalizers)
    _state._set_current_app(current)
    for each, receivers in heard.items():
        each.receivers = receivers
        each.sender_receivers_cache.clear()


@pytest.fixture
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers with `close_on_shutdown` ends with it."""
    monkeypatch.setattr(registry, "_entries", [])
    yield
    registry.close_all()
