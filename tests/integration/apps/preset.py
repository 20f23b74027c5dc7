"""An app whose settings are a preset of the servers that are given, by setup or by a file."""

from __future__ import annotations

import json
import os

from celery import Celery

from reliable_tasks import IdempotentTask, presets, setup
from reliable_tasks.presets import Preset
from reliable_tasks.testing import Ledger


def preset() -> Preset:
    """Make the preset of the tests."""
    url, results = os.environ["PRESET_BROKER"], os.environ["PRESET_RESULTS"]
    needs = {"results": results, "queues": ("jobs", "mail"), "concurrency": 2}
    needs |= json.loads(os.environ.get("PRESET_NEEDS", "{}"))
    if url.startswith("amqp"):
        return presets.rabbitmq(url, **needs)
    return presets.redis(url, keyprefix="shop", **needs)


app = Celery("preset")
if os.environ["PRESET_TAKEN"] == "file":
    app.config_from_object("celeryconfig")
    setup(app)
else:
    setup(app, preset())


@app.task(acks_late=True)
def pay(job: str) -> str:
    """Take effect."""
    Ledger.from_environment().effect(job)
    return job


@app.task(base=IdempotentTask)
def pay_once(job: str) -> str:
    """Take effect once."""
    Ledger.from_environment().effect(job)
    return job


@app.task(base=IdempotentTask, bind=True)
def pay_later(self: IdempotentTask, job: str) -> str:
    """Take effect in a retry."""
    if not self.request.retries:
        raise self.retry(countdown=1)
    Ledger.from_environment().effect(job)
    return job
