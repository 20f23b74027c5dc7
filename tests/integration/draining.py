"""Whether a broker has no message left, seen in one look."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

__all__ = ("held_routes",)


def held_routes(client: Any, queues: Collection[str], readers: int) -> set[str]:
    """
    Return the routing keys of held messages.

    kombu takes a message out of its queue and notes it as held in two steps, and until Celery 5.7
    a pool of threads or greenlets acknowledges another one in between: for some milliseconds the
    broker looks empty. A reader that waits for the next message has noted the one before.

    Args:
        client: Of the broker's database.
        queues: Their names.
        readers: How many workers read the broker.

    Raises:
        AssertionError: A message of *queues* waits, or may be on its way.
    """
    with client.pipeline() as pipe:
        for queue in queues:
            pipe.llen(queue)
        pipe.hvals("unacked")
        pipe.client_list()
        *lengths, held, clients = pipe.execute()
    number = str(client.connection_pool.connection_kwargs["db"])
    blocked = [each for each in clients if each["db"] == number and "b" in each["flags"]]
    waiting = dict(zip(queues, lengths, strict=True))
    assert not any(lengths), f"messages wait: {waiting}"
    assert len(blocked) >= readers, f"{len(blocked)} of {readers} workers read"
    return {json.loads(each)[2] for each in held}
