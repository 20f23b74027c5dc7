"""Nothing is silent: each event is a log line and a signal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from reliable_tasks import signals
from reliable_tasks.errors import StoreUnavailable
from reliable_tasks.events import is_heard, tell
from reliable_tasks.message import Event

OUTAGE = StoreUnavailable("claim", "TimeoutError")
EVENTS = [
    (
        Event.REPLAYED,
        {"state": "done", "same_job": False},
        signals.task_replayed,
        "INFO",
        "replayed: state=done same_job=False",
    ),
    (Event.DEFERRED, {"wait": 1.5}, signals.task_deferred, "INFO", "deferred: wait=1.5"),
    (
        Event.DEFERRED,
        {"wait": None, "error": OUTAGE},
        signals.task_deferred,
        "INFO",
        f"deferred: error={OUTAGE}",
    ),
    (
        Event.DEDUPLICATED,
        {"reason": "older"},
        signals.task_deduplicated,
        "INFO",
        "dropped a copy: reason=older",
    ),
    (
        Event.SUPPRESSED,
        {"reason": "duplicate"},
        signals.task_deduplicated,
        "INFO",
        "was not published again: reason=duplicate",
    ),
    (Event.LEASE_LOST, {"token": 7}, signals.lease_lost, "WARNING", "lost its lease: token=7"),
    (
        Event.QUARANTINED,
        {"crashes": 3},
        signals.task_quarantined,
        "ERROR",
        "quarantined: crashes=3",
    ),
    (Event.UNGUARDED, {"error": OUTAGE}, None, "WARNING", f"runs unguarded: error={OUTAGE}"),
]
SIGNALS = [getattr(signals, name) for name in signals.__all__]
each_event = pytest.mark.parametrize(("event", "details", "signal", "level", "words"), EVENTS)
each_signal = pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.name)


@pytest.fixture
def delivery() -> Any:
    """The little that a log line and a signal need of one."""
    task = type("Task", (), {"name": "shop.charge"})()
    return SimpleNamespace(task=task, job="id-1", key="rt1::k")


@pytest.fixture
def heard() -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """What any of our signals says, with its name."""
    found: list[tuple[Any, dict[str, Any]]] = []

    def hear(**fields: Any) -> None:
        found.append((fields.pop("signal"), fields))

    for signal in SIGNALS:
        signal.connect(hear, weak=False)
    yield found
    for signal in SIGNALS:
        signal.disconnect(hear)


@each_event
def test_is_a_log_line(
    event: str,
    details: dict[str, Any],
    signal: Any,
    level: str,
    words: str,
    delivery: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The line names task, job and fields, and carries them all for structured logs."""
    caplog.set_level(logging.INFO, logger="reliable_tasks")

    tell(event, delivery, dict(details))

    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == (level, f"Task shop.charge[id-1] {words}")
    named = {"task_name": "shop.charge", "task_id": "id-1", "key": "rt1::k"}
    assert record.data.items() >= (named | details).items()  # type: ignore[attr-defined]


@each_event
def test_is_a_signal(
    event: str,
    details: dict[str, Any],
    signal: Any,
    level: str,
    words: str,
    delivery: Any,
    heard: list[tuple[Any, dict[str, Any]]],
) -> None:
    """Each event but the unguarded run is one signal, sent by the task, with all its fields."""
    tell(event, delivery, dict(details))

    fields = {"sender": delivery.task, "task_id": "id-1", "key": "rt1::k", **details}
    if event == Event.DEFERRED:
        fields.setdefault("error", None)
    assert heard == ([] if signal is None else [(signal, fields)])
    assert signal is None or fields.keys() - {"sender"} == signal.providing_args


@each_signal
def test_a_receiver_that_raises_changes_nothing(
    signal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The error of a receiver is logged, and neither the job nor the next receiver suffers."""
    heard = []

    def break_down(**_: Any) -> None:
        raise RuntimeError("receiver")

    def listen(**_: Any) -> None:
        heard.append(True)

    signal.connect(break_down, weak=False)
    signal.connect(listen, weak=False)
    try:
        signal.send(sender=None)
    finally:
        signal.disconnect(break_down)
        signal.disconnect(listen)

    assert heard == [True]
    assert "receiver" in caplog.text


@pytest.mark.parametrize(
    ("event", "signal"),
    [(Event.CLAIMED, signals.task_claimed), (Event.SETTLED, signals.task_settled)],
)
def test_what_comes_with_each_execution(
    event: str, signal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told while somebody listens, and never logged."""
    heard: list[dict[str, Any]] = []

    def hear(sender: Any, **fields: Any) -> None:
        heard.append(fields)

    assert not is_heard(event)
    signal.connect(hear)
    try:
        assert is_heard(event)
        with caplog.at_level(logging.DEBUG):
            tell(event, SimpleNamespace(task="task", job="job", key="key"), {"seconds": 0.1})
    finally:
        signal.disconnect(hear)

    assert not is_heard(event)
    [fields] = heard
    assert (fields["task_id"], fields["key"], fields["seconds"]) == ("job", "key", 0.1)
    assert caplog.records == []
