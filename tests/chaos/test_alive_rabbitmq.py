"""The liveness probe of workers whose broker is RabbitMQ."""

from __future__ import annotations

import os

import pytest

from _reliable_tasks.alive import Verdict, look
from reliable_tasks.testing import eventually

WITHIN = 5.0  # seconds
MARGIN = 60.0  # for a node that starts on a busy machine


@pytest.mark.timeout(240)
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_node_that_is_away(rabbitmq, vhost, valkey, worker, tmp_path, pool):
    """Its worker fails after its own time, which may be a longer one, and heals by itself."""
    valkey.ensure_running()
    env = {
        "PRESET_BROKER": vhost.url,
        "PRESET_RESULTS": valkey.new_database().url,
        "PRESET_TAKEN": "setup",
        "TMPDIR": str(tmp_path),
    }
    worker("tests.integration.apps.preset", env=env, pool=pool).wait_ready()
    folder = str(tmp_path / f"reliable-tasks-{os.getuid()}")

    def verdict(broker_within: float | None = None) -> Verdict:
        [found] = look(folder, within=WITHIN, broker_within=broker_within)
        return found

    def wait(words: str, *, is_alive: bool) -> None:
        def seen() -> bool:
            now = verdict()
            return words in now.reason and now.is_alive is is_alive

        eventually(seen, timeout=MARGIN, message=lambda: f"{words}, not {verdict()}")

    wait("its main loop turns", is_alive=True)
    rabbitmq.kill()
    try:
        wait("without its broker", is_alive=False)
        if pool != "gevent":  # whose other greenlets stand still while it connects
            assert verdict(broker_within=3_600).is_alive
    finally:
        rabbitmq.restart()

    wait("its main loop turns", is_alive=True)
