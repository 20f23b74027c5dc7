"""An app whose settings come from the test, as JSON in a variable."""

from __future__ import annotations

import json
import os
import ssl
import time
from typing import Any

from celery import Celery

from reliable_tasks import IdempotentTask, setup
from reliable_tasks.testing import Ledger

SETTINGS_VARIABLE = "PLACES_SETTINGS"


def settings() -> dict[str, Any]:
    """Read the settings; JSON cannot say which certificates are wanted."""
    found: dict[str, Any] = json.loads(os.environ.get(SETTINGS_VARIABLE, "{}"))
    for name in ("broker_use_ssl", "redis_backend_use_ssl"):
        if name in found:
            found[name]["ssl_cert_reqs"] = ssl.CERT_REQUIRED
    return found


app = Celery("places", set_as_current=False)
setup(app, settings())


@app.task(base=IdempotentTask, idempotency_key=("job",), name="places.pay", bind=True)
def pay(self: Any, job: str) -> dict[str, Any]:
    """Take effect, and say under which token."""
    Ledger.from_environment().effect(job, attempt=self.lease.attempt)
    return {"job": job, "token": self.lease.token}


@app.task(base=IdempotentTask, name="places.work", bind=True)
def work(self: Any, job: str, seconds: float) -> str:
    """Say that it has begun, and take effect after a while."""
    ledger = Ledger.from_environment()
    ledger.write("begin", job, token=self.lease.token)
    time.sleep(seconds)
    ledger.effect(job)
    return job
