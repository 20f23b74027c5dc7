"""redis-py notices a fork by itself, so all that is left to do is to close."""

from __future__ import annotations

import pytest
from redis import Redis

from reliable_tasks import close_on_shutdown
from reliable_tasks.pools import registry
from reliable_tasks.testing import eventually
from tests.forked import in_child

pytestmark = pytest.mark.integration


def test_a_redis_client_is_closed_in_the_process_it_belongs_to(database) -> None:
    """Parent and child have connections of their own, and the child closes none but its own."""
    client = close_on_shutdown(Redis.from_url(database.url))
    observer = Redis.from_url(database.url)
    mine = client.client_id()

    def child() -> int:
        registry.reset_all()
        own = int(client.client_id())
        registry.close_all()
        return own

    def connected() -> set[int]:
        return {int(each["id"]) for each in observer.client_list()}

    theirs = in_child(child)
    eventually(lambda: theirs not in connected())
    assert theirs != mine
    assert client.client_id() == mine
    registry.close_all()
    eventually(lambda: mine not in connected())
    observer.close()
