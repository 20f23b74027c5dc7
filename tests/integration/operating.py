"""An operator who replays all dead letters, and may be killed anywhere: `python -m` this module."""

from __future__ import annotations

from reliable_tasks.deadletter import replaying
from reliable_tasks.deadletter.shelves import find
from tests.integration.apps import dying, guarded  # noqa: F401 - declares its tasks

LEASE_MS = 200  # so that the next operator need not wait for a minute


def main() -> None:
    """Replay what is there."""
    replaying.LEASE_MS = LEASE_MS
    print("begins", flush=True)
    for _ in replaying.replay_all(guarded.app, find(guarded.app).kept):
        pass


if __name__ == "__main__":
    main()
