"""Whoever may know is asked; what cannot be asked ends no search, and tells no password."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery

from reliable_tasks.inspection.why import Standing, document_of, why
from reliable_tasks.inspection.why.evidence import Ending, Worker
from reliable_tasks.inspection.why.sources import backend, messages, workers

UNREADABLE = (
    "redis://:hush/word@127.0.0.1:1/0",
    "amqp://shop:hush#word@127.0.0.1:1//",
    "redis://:/hush@127.0.0.1:1/0",  # which can be read, as the password of nobody
)
NOBODY = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("url", UNREADABLE)
@pytest.mark.parametrize("name", ["broker_url", "result_backend", "reliable_tasks_store_url"])
def test_an_address_that_cannot_be_read_is_a_gap(url: str, name: str) -> None:
    """It is said, without what may be a password, and the rest is looked at."""
    app = Celery("shop", broker=NOBODY, set_as_current=False)
    app.conf[name] = url

    verdict = why(app, "job", timeout=0.1)

    assert verdict.standing is Standing.UNKNOWN
    assert verdict.gaps
    assert "hush" not in json.dumps(document_of(verdict)) + repr(verdict)


def test_a_job_that_moved_on_while_all_were_asked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was in its queue when workers were asked, and in a worker when the broker was."""
    answers = [None, Ending(status="SUCCESS")]
    said = workers.Said(workers=(Worker("w1@host", frozenset({"celery"})),))

    def ask(app: Any, task_id: str, *, timeout: float) -> tuple[Ending | None, tuple[Any, ...]]:
        return answers.pop(0), ()

    monkeypatch.setattr(backend, "ask", ask)
    monkeypatch.setattr(workers, "ask", lambda *_, **__: said)
    monkeypatch.setattr(messages, "look", lambda *_, **__: messages.Lying())
    app = Celery("shop", broker="memory://", set_as_current=False)

    assert why(app, "job").standing is Standing.DONE
