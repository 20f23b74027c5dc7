"""An app whose engines have been used before the fork."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, shared_task
from sqlalchemy import create_engine, text
from sqlalchemy.orm import scoped_session, sessionmaker

from reliable_tasks import close_on_shutdown

URL = os.environ["SHOP_DATABASE"].replace("postgresql://", "postgresql+psycopg://")

app = Celery("inheriting")
app.conf.broker_connection_retry_on_startup = True

reset = create_engine(URL, pool_size=60)
guarded = create_engine(URL, pool_size=1)
sessions = scoped_session(sessionmaker(create_engine(URL, pool_size=1)))
close_on_shutdown(reset, name="the reset engine")
close_on_shutdown(guarded, fork_guard=True, reset=lambda: None)
close_on_shutdown(sessions, fork_guard=True)


class Search:
    """A client that is not known."""

    def close(self) -> None:
        """Do nothing."""


search = Search()
close_on_shutdown(search, name="the search")

ASK = text("SELECT pg_backend_pid()")
with guarded.connect() as before_fork:
    PARENTS = [before_fork.scalar(ASK), sessions.scalar(ASK)]  # the second stays in its transaction


@shared_task
def use_guarded() -> int:
    """Use what the parent has opened."""
    with guarded.connect() as connection:
        return int(connection.scalar(ASK))


@shared_task
def use_session() -> dict[str, Any]:
    """Use the session of this thread, and leave it open."""
    return {
        "parents": PARENTS,
        "mine": sessions.scalar(ASK),
        "is_new": len(sessions().identity_map),
    }
