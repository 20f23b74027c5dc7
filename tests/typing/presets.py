"""Presets as users type them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, assert_type

from reliable_tasks import presets, setup

app: Any = ...

redis = presets.redis(
    "redis://localhost:6379/0",
    longest_task=timedelta(minutes=10),
    longest_countdown=0.5,
    workload="io",
    concurrency=8,
    results="redis://localhost:6379/1",
    publishers="worker",
    queues=["fast", "slow"],
    heartbeat=True,
)
rabbitmq = presets.rabbitmq(["amqp://a//", "amqp://b//"], queues="jobs", queue_type="classic")

assert_type(redis, presets.Preset)
assert_type(redis["task_queues"], Any)
assert_type(redis.explain(), str)
assert_type(presets.explain(rabbitmq), str)
settings: Mapping[str, Any] = rabbitmq
setup(app, redis)
setup(app, {**rabbitmq, "task_time_limit": 60}, heartbeat=False)
presets.redis("redis://localhost", workload="gpu")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
