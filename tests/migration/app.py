"""The small app as a worker runs it, under the library that the test names."""

from __future__ import annotations

import os

from tests.migration.libraries import LIBRARIES
from tests.migration.tasks import build

app = build(
    LIBRARIES[os.environ["MIGRATION_LIBRARY"]],
    broker=os.environ["CELERY_BROKER_URL"],
    results=os.environ["CELERY_RESULT_BACKEND"],
    locks=os.environ["MIGRATION_LOCKS"],
)
