"""Of several messages that one replay published by misfortune, which is the one that runs."""

from __future__ import annotations

from typing import Any

from reliable_tasks.core.keys import replay_key
from reliable_tasks.core.records import Granted
from reliable_tasks.core.store import Store

__all__ = ("NO_END_OF_DEATHS", "REPLAY_HEADER", "WEEK_MS", "is_the_one_that_runs")

REPLAY_HEADER = "reliable_tasks_replay"
WEEK_MS = 7 * 86_400_000
NO_END_OF_DEATHS = 1_000_000

_FIELDS = 4


def is_the_one_that_runs(store: Store, prefix: str, task_id: str, said: Any) -> bool:
    """
    Whether a replayed message of a task without a guard runs: the first of them, however often.

    Args:
        store: Where the letter was.
        prefix: First part of the names there.
        task_id: The message's id.
        said: Its header: ``[format, task id, time of the letter in ms, publication]``.

    Raises:
        StoreUnavailable: The store did not answer.
    """
    if not isinstance(said, list | tuple) or list(said[:2]) != [1, task_id] or len(said) < _FIELDS:
        return True  # a user's forwarded headers, or those of a newer release
    answer = store.claim(
        f"{replay_key(prefix, task_id, said[2])}:run",
        delivery=str(said[3]),
        job=task_id,
        line=0,
        lease_ms=WEEK_MS,
        horizon_ms=WEEK_MS,
        max_crashes=NO_END_OF_DEATHS,
    )
    return isinstance(answer, Granted)
