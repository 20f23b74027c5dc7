"""Whatever a team needs, a preset keeps its inequalities, and its file is the object."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reliable_tasks import presets
from reliable_tasks.presets.rendering import as_file

RESULTS = "redis://:hush@localhost:6379/1"
SECONDS = st.integers(1, 100_000) | st.floats(1, 100_000, allow_nan=False)
NAMES = st.lists(st.text("abc-_", min_size=1, max_size=8), min_size=1, max_size=3, unique=True)


@st.composite
def needs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw what a team could ask of either preset."""
    return {
        "longest_task": draw(SECONDS),
        "longest_countdown": draw(st.just(0) | SECONDS),
        "workload": draw(st.sampled_from(["cpu", "io"])),
        "concurrency": draw(st.none() | st.integers(1, 64)),
        "grace_period": draw(st.floats(5.1, 3600)),
        "publishers": draw(st.sampled_from(["web", "worker"])),
        "queues": draw(NAMES),
        "keyprefix": draw(st.none() | st.sampled_from(["shop", "shop:"])),
        "results": draw(st.none() | st.just(RESULTS)),
        "lease_seconds": draw(st.floats(1, 60)),
    }


def settings_of(text: str) -> dict[str, Any]:
    """Return what a rendered file sets."""
    made: dict[str, Any] = {}
    exec(text.replace('os.environ["CELERY_RESULT_BACKEND"]', repr(RESULTS)), made)
    return {name: made[name] for name in made if name not in ("__builtins__", "__doc__", "os")}


@given(needs())
def test_redis(asked: dict[str, Any]) -> None:
    """The visibility timeout outlives what a worker may hold, and the horizon outlives both."""
    preset = presets.redis("redis://localhost:6379/0", **asked)
    timeout = preset["broker_transport_options"]["visibility_timeout"]

    assert timeout > asked["longest_countdown"] + 2 * asked["longest_task"]
    assert preset["reliable_tasks_redelivery_horizon"] >= 2 * timeout
    assert preset["reliable_tasks_lease_seconds"] <= preset["reliable_tasks_redelivery_horizon"]
    assert 0 <= preset.get("worker_soft_shutdown_timeout", 0) < asked["grace_period"]
    assert preset.get("task_time_limit", 0) >= preset.get("task_soft_time_limit", 0)
    assert settings_of(as_file(preset)) == dict(preset)
    assert "hush" not in as_file(preset) + preset.explain() + repr(preset)


@given(needs(), st.sampled_from(["quorum", "classic"]))
def test_rabbitmq(asked: dict[str, Any], queue_type: str) -> None:
    """The consumer timeout outlives what a worker may hold; every queue is declared alike."""
    preset = presets.rabbitmq("amqp://localhost//", queue_type=queue_type, **asked)
    declared = [queue["queue_arguments"] for queue in preset["task_queues"].values()]
    timeouts = {arguments["x-consumer-timeout"] / 1_000 for arguments in declared}

    assert list(preset["task_queues"]) == asked["queues"]
    assert len(timeouts) == 1
    assert min(timeouts) >= max(1_800, 2 * asked["longest_task"])
    assert preset["reliable_tasks_redelivery_horizon"] >= 2 * min(timeouts) - 1
    assert settings_of(as_file(preset)) == dict(preset)
    assert "hush" not in as_file(preset) + preset.explain() + repr(preset)
