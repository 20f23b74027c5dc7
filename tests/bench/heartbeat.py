"""What the visibility heartbeat takes of a worker and of its broker."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from time import process_time
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from celery.bootsteps import RUN

from reliable_tasks.broker.consumer import WorkerHands
from reliable_tasks.broker.heartbeat import Heartbeat
from reliable_tasks.broker.unacked import UnackedIndex
from reliable_tasks.testing import Database, connected_app
from tests.bench.report import Figure

__all__ = ("heartbeat",)

DELIVERIES = 5_000
TIMEOUT = 5  # seconds, the shortest: at 60 s a beat comes twelve times less often
ROUNDS = 41


def heartbeat(database: Database, where: str) -> Iterator[Figure]:
    """Yield the share of a core that holding 5,000 deliveries takes, and the CPU of one beat."""
    options = {"visibility_timeout": TIMEOUT}
    with (
        connected_app(database.url, broker_transport_options=options) as app,
        app.connection_for_read() as connection,
        database.client() as client,
    ):
        index = UnackedIndex(app)
        beats = Heartbeat(_hands(connection.channel(), client), index)
        interval = beats.beat()  # opens the connection
        rounds = [_beat(beats, client) for _ in range(ROUNDS)]
        index.close()
    ours, served = (median(each) for each in zip(*rounds, strict=True))
    what = f"5,000 deliveries held, visibility timeout {TIMEOUT} s"
    yield Figure(what, where, 100 * ours / interval, "% of a core", at_most=1.0)
    yield Figure("the server's part of that", where, 100 * served / interval, "% of a core")
    yield Figure("one beat for 5,000 deliveries, CPU", where, 1_000 * ours, "ms")


def _hands(channel: Any, client: Any) -> WorkerHands:
    """Return a worker to which 5,000 messages were delivered."""
    tags = {str(uuid4()): 1.0 for _ in range(DELIVERIES)}
    client.zadd("unacked_index", tags)
    channel.qos.restore_at_shutdown = False  # there are no messages behind the tags
    channel.qos._delivered.update(tags)
    consumer = SimpleNamespace(
        task_consumer=SimpleNamespace(channel=channel),
        blueprint=SimpleNamespace(state=RUN),
        pool=SimpleNamespace(num_processes=8),
        call_soon=lambda answer: answer(),
    )
    hands = WorkerHands(consumer)
    hands.turn_to_new_channel()
    return hands


def _beat(beats: Heartbeat, client: Any) -> tuple[float, float]:
    """Return the seconds of CPU that one beat takes of this process, and of the server."""
    before, ours = _server_seconds(client), process_time()
    beats.beat()
    ours = process_time() - ours
    return ours, _server_seconds(client) - before


def _server_seconds(client: Any) -> float:
    found = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])
