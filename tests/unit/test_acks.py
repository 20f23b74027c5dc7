"""Which messages of which workers are acknowledged without waiting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu.transport.redis import QoS

from reliable_tasks import IdempotentTask, setup
from reliable_tasks.broker import ACKS_STEP, acks
from reliable_tasks.broker.step import AcksStep

pytestmark = pytest.mark.hooks


class Channel:
    """A channel without a server, whose own way of acknowledging is noted."""

    do_restore = False

    def __init__(self, **tasks: str | None) -> None:
        self.waited_for: list[str] = []
        self.qos = QoS(self)
        self.qos.ack = self.waited_for.append
        for tag, task in tasks.items():
            headers = {"task": task} if task else None
            self.qos._delivered[tag] = SimpleNamespace(headers=headers)


@pytest.fixture
def app() -> Celery:
    app = Celery("acks", broker="redis://localhost:1/0", set_as_current=False)

    @app.task(base=IdempotentTask, name="guarded", shared=False)
    def guarded() -> None: ...

    @app.task(name="plain", shared=False)
    def plain() -> None: ...

    setup(app)
    app.finalize()
    return app


def start(app: Celery, channel: Any) -> AcksStep:
    consumer = SimpleNamespace(app=app, task_consumer=SimpleNamespace(channel=channel))
    step = AcksStep(consumer)
    step.start(consumer)
    return step


def included(app: Celery) -> bool:
    parent = SimpleNamespace(app=app, steps=[])
    AcksStep(parent).include(parent)
    return bool(parent.steps)


def test_setup_adds_the_step(app: Celery) -> None:
    """Whatever the app says of the heartbeat."""
    assert ACKS_STEP in app.steps["consumer"]


@pytest.mark.parametrize(
    ("broker", "expected"),
    [("redis://localhost:1/0", True), ("sentinel://h:1/0", True), ("amqp://localhost:1//", False)],
)
def test_where_kombu_waits(app: Celery, broker: str, expected: bool) -> None:
    """Behind the sentinels is a Redis like any other; RabbitMQ never replies."""
    app.conf.broker_url = broker

    assert included(app) is expected


def test_an_unknown_kombu_is_left_alone(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own way is slower, and right."""
    monkeypatch.setattr(acks, "_NEEDED", {QoS: ("_delivered", "_renamed")})

    assert not included(app)


def test_guarded_messages_only(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is plain, unknown, of another protocol or not this channel's is waited for."""
    told: list[str] = []
    monkeypatch.setattr(acks.PromptAcks, "_tell", lambda _, tag: told.append(tag) or True)
    channel = Channel(a="guarded", b="plain", c="unknown", d=None)
    start(app, channel)

    for tag in ("a", "b", "c", "d", "e"):
        channel.qos.ack(tag)

    assert told == ["a"]
    assert channel.waited_for == ["b", "c", "d", "e"]
    assert channel.qos._dirty == {"a"}


def test_each_connection_has_its_own(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reconnection the new channel's messages are acknowledged so, too."""
    told: list[str] = []
    monkeypatch.setattr(acks.PromptAcks, "_tell", lambda _, tag: told.append(tag) or True)
    old, new = Channel(a="guarded"), Channel(b="guarded")
    step = start(app, old)
    consumer = SimpleNamespace(app=app, task_consumer=SimpleNamespace(channel=new))

    step.stop(consumer)
    step.start(consumer)
    new.qos.ack("b")

    assert told == ["b"]
