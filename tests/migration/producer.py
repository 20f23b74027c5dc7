"""A producer that dies right before its message goes out: `python -m ...producer brief label`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tests.migration.app import app


def die(*_: Any, **__: Any) -> None:
    """Take the place of what hands a message to the broker."""
    os.kill(os.getpid(), signal.SIGKILL)


app.amqp.send_task_message = die
app.tasks[sys.argv[1]].delay(sys.argv[2])
