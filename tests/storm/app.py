"""The same job four times, each retried in another way."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import redis
from celery import Celery, current_task
from tenacity import stop_never, wait_exponential, wait_random_exponential

from reliable_tasks import RetryBudget, retry_task

URL = os.environ["CELERY_BROKER_URL"]
ATTEMPTS = 50  # more than any job needs
LONGEST_WAIT = 60  # seconds, in all four ways

app = Celery("storm", broker=URL)
app.conf.task_ignore_result = True
for each in ("celery.app.trace", "celery.worker.strategy", "reliable_tasks"):
    logging.getLogger(each).setLevel(logging.ERROR)  # a line for each attempt would slow it down
service: Any = redis.Redis.from_url(URL)


class Down(Exception):
    """The service does not answer."""


def call(way: str, number: int) -> None:
    """Call the service, which notes when it is called, and for which attempt."""
    now = time.time()
    service.rpush(f"calls:{way}", f"{now} {current_task.request.retries}")
    down_from, down_until = map(float, service.mget("down-from", "down-until"))
    if down_from <= now < down_until:
        raise Down
    service.sadd(f"done:{way}", number)


def retried(**others: Any) -> Any:
    """Our retries; but for *others* they only do not give up."""
    return retry_task(on=Down, attempts=ATTEMPTS, stop=stop_never, **others)


@app.task
@retried(wait=wait_exponential(max=LONGEST_WAIT))
def without_jitter(number: int) -> None:
    call("without_jitter", number)


@app.task(
    autoretry_for=(Down,),
    max_retries=ATTEMPTS,
    retry_backoff=True,
    retry_backoff_max=LONGEST_WAIT,
)
def autoretry(number: int) -> None:
    call("autoretry", number)


@app.task
@retried(wait=wait_random_exponential(max=LONGEST_WAIT))
def full_jitter(number: int) -> None:
    call("full_jitter", number)


@app.task
@retried(wait=wait_random_exponential(max=LONGEST_WAIT), budget=RetryBudget("service"))
def with_budget(number: int) -> None:
    call("with_budget", number)
