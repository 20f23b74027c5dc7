"""What the result backend keeps of a job."""

from __future__ import annotations

import threading
from typing import Any

from reliable_tasks.inspection.why.evidence import Ending, Gap
from reliable_tasks.inspection.why.reading import ending_from

__all__ = ("ask",)

NONE = "disabled://"
TO_CALLER = "rpc://"


def ask(app: Any, task_id: str, *, timeout: float) -> tuple[Ending | None, tuple[Gap, ...]]:
    """
    Ask for the state of a job; the result itself is not looked at.

    Backends have time-outs of their own, of minutes: one that is silent is left behind in a thread.

    Args:
        app: The Celery app.
        task_id: The job.
        timeout: Seconds that the answer may take.
    """
    try:
        backend = app.backend
        place = str(backend.as_uri())
    except Exception as error:  # whatever a backend says of its address, a part of which it may be
        why = f"the app's cannot be made ({type(error).__name__}); the doctor says what is wrong"
        return None, (Gap("result backend", why),)
    if place.startswith(NONE):
        return None, (Gap("result backend", "the app has none"),)
    if place.startswith(TO_CALLER):
        why = "results go to the process that called the task, and nowhere else"
        return None, (Gap("result backend", why),)
    question = _Question(backend, task_id)
    question.start()
    question.join(timeout)
    if question.error is not None:
        return None, (Gap("result backend", f"{place}: {question.error}"),)
    if question.meta is None:
        return None, (Gap("result backend", f"{place}: no answer within {timeout:g} s"),)
    return ending_from(question.meta), ()


class _Question(threading.Thread):
    """One question, in a thread that nobody waits for when the process ends."""

    def __init__(self, backend: Any, task_id: str) -> None:
        super().__init__(name="reliable-tasks-why", daemon=True)
        self._backend, self._task_id = backend, task_id
        self.meta: dict[str, Any] | None = None
        self.error: str | None = None

    def run(self) -> None:
        try:
            self.meta = self._backend.get_task_meta(self._task_id, cache=False)
        except Exception as error:  # whatever a backend's driver raises
            self.error = f"{type(error).__name__}: {error}"
