"""An operator deletes a record: what follows from it, and who did it."""

from __future__ import annotations

import getpass
import logging
import socket

from reliable_tasks.inspection.records.finding import Found

__all__ = ("consequences", "forget")

logger = logging.getLogger("reliable_tasks")

_OF_STATE = {
    "running": "Its execution loses the lease: it learns so at its next renewal, and what it "
    "returns is not recorded. A copy of the job, or another job of the key, runs beside it from "
    "now.",
    "retrying": "Its retry stays in the broker and runs when it is due. Until then a copy of the "
    "job, or another job of the key, runs as well.",
    "done": "A copy of the job that still comes runs again, and another job of the key runs "
    "instead of getting the stored result.",
    "failed": "A copy of the job that still comes runs again.",
    "quarantined": "A message of the job that still comes runs again, and its deaths are counted "
    "anew. Its dead letter stays; `reliable dead replay` publishes it.",
    "reserved": "An equal call is published again. The message that waits stays and runs.",
    "idle": "A copy of the job that is older than its newest message runs again.",
}


def consequences(found: Found) -> list[str]:
    """Return what follows when the record is forgotten, in sentences (pure)."""
    record, state = found.record, found.entry.state
    lines = [_OF_STATE.get(state, "Only a newer release knows its state, and what follows.")]
    if found.entry.is_reserved and state != "reserved":
        lines.append("A job waits for the key: " + _OF_STATE["reserved"])
    if record.held is not None:
        lines.append("Its window ends: calls that would have been duplicates are published.")
    if record.facts:
        lines.append(f"Copies of {len(record.facts)} other jobs of the key can run again as well.")
    return lines


def forget(found: Found) -> bool:
    """
    Delete a record, and log who did it.

    Returns:
        Whether it was still there.

    Raises:
        StoreUnavailable: The store did not answer; the record may be gone or not.
    """
    entry = found.entry
    was_there = found.ground.store.forget(entry.key)
    data = {
        "task_name": entry.task,
        "task_id": entry.job,
        "key": entry.key,
        "state": entry.state,
        "user": _user(),
        "host": socket.gethostname(),
    }
    logger.warning(
        "Task %s[%s] forgotten: key=%s state=%s user=%s host=%s",
        entry.task,
        entry.job,
        entry.key,
        entry.state if was_there else "gone before",
        data["user"],
        data["host"],
        extra={"data": data},
    )
    return was_there


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in many containers
        return "unknown"
