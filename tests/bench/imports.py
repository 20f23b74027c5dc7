"""What `import reliable_tasks` adds to the start of a program that has Celery."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median
from tempfile import TemporaryDirectory

from tests.bench.report import Figure

__all__ = ("imports",)

CELERY = "from celery import Celery, Task"
OURS = f"{CELERY}; import reliable_tasks"
WHOLE = f"{CELERY}; from reliable_tasks import *"
ROUNDS = 15


def imports() -> Iterator[Figure]:
    """Yield the CPU time that our import adds, in new processes, with bytecode cached."""
    with TemporaryDirectory() as cache:
        _seconds(WHOLE, Path(cache))
        rounds = [
            [_seconds(program, Path(cache)) for program in (CELERY, OURS, WHOLE)]
            for _ in range(ROUNDS)
        ]
    celery, ours, whole = (median(each) for each in zip(*rounds, strict=True))
    yield Figure("import reliable_tasks, after Celery", "", (ours - celery) * 1e3, "ms", at_most=30)
    yield Figure("all its names, after Celery", "", (whole - celery) * 1e3, "ms")


def _seconds(program: str, cache: Path) -> float:
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(cache)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True, env=env)
    after = getrusage(RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
