"""Jobs that end their process in every way there is, until they are cured; see `Cure`."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import shared_task

from reliable_tasks import IdempotentTask, retry_task
from reliable_tasks.testing import Ledger
from tests.integration.apps.guarded import begin

MEGABYTE = 1_000_000
ALL = "all"  # cures all jobs of `hopeless` and `guarded_hopeless`


def cure(ledger: Ledger, job: str) -> Path:
    """The file that cures a job by being there."""
    return ledger.path.with_name(f"cured-{job}")


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _out_of_memory() -> None:
    """Take memory up to a limit, and die there as the kernel has it."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 100 * MEGABYTE, resource.RLIM_INFINITY))
    hoard = []
    try:
        while True:
            hoard.append(bytearray(MEGABYTE))
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)


def _segfault() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def _abort() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


def _leave() -> None:
    os._exit(1)


def _machine() -> None:
    """The whole worker dies, as a machine does."""
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


WAYS: dict[str, Callable[[], None]] = {
    "killed": _killed,
    "out of memory": _out_of_memory,
    "segfault": _segfault,
    "abort": _abort,
    "exit": _leave,
    "machine": _machine,
}


@shared_task(base=IdempotentTask, bind=True, lease_seconds=1, max_crashes=3)
def dies(self: Any, job: str, way: str) -> str:
    """End the process in one of `WAYS`, or take effect."""
    ledger = begin(self, job)
    if not cure(ledger, job).exists():
        WAYS[way]()
        time.sleep(60)  # a signal may take its time
    ledger.effect(job, attempt=self.lease.attempt, crashes=self.lease.crashes)
    return job


def _hopes(job: str) -> str:
    ledger = Ledger.from_environment()
    if not any(cure(ledger, each).exists() for each in (job, ALL)):
        raise ConnectionError("the gateway is down")
    ledger.effect(job)
    return job


@shared_task(bind=True)
@retry_task(on=ConnectionError, attempts=2, max_wait=0.1, dead_letter=True)
def hopeless(self: Any, job: str) -> str:
    """Fail until it is cured; no guard stands before it."""
    return _hopes(job)


@shared_task(base=IdempotentTask, bind=True)
@retry_task(on=ConnectionError, attempts=1, dead_letter=True)
def guarded_hopeless(self: Any, job: str) -> str:
    """Fail until it is cured, behind a guard."""
    return _hopes(job)


@shared_task
def noted(results: list[str], job: str) -> list[str]:
    """Take note of a chord that is complete."""
    Ledger.from_environment().write("noted", job)
    return results


@shared_task
def heard(job: str) -> str:
    """Take note of what hangs on another job."""
    Ledger.from_environment().write("heard", job)
    return job
