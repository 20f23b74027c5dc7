"""Celery's signals, and the end of the interpreter: when to reset, and when to close."""

from __future__ import annotations

import atexit
import threading
from typing import Any

from celery.signals import (
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
)

from reliable_tasks.pools import capacity, registry

__all__ = ("connect",)

_connected = False


def connect() -> None:
    """Hear of forks and ends from now on; again changes nothing."""
    global _connected
    if _connected:
        return
    _connected = True
    worker_init.connect(_forked, weak=False, dispatch_uid="reliable_tasks.pools")
    worker_process_init.connect(_forked, weak=False, dispatch_uid="reliable_tasks.pools")
    worker_process_shutdown.connect(_ending, weak=False, dispatch_uid="reliable_tasks.pools")
    worker_shutdown.connect(_worker_ended, weak=False, dispatch_uid="reliable_tasks.pools")
    worker_ready.connect(_ready, weak=False, dispatch_uid="reliable_tasks.pools")
    atexit.register(registry.close_all)


def _forked(**_: Any) -> None:
    """In each prefork child before its first task; and in a worker, which may be a fork itself."""
    registry.reset_all()


def _ending(**_: Any) -> None:
    """In a prefork child."""
    registry.close_all()


def _worker_ended(**_: Any) -> None:
    """In the worker. One in a thread, as tests have it, ends before its process: then wait."""
    if threading.current_thread() is threading.main_thread():
        registry.close_all()


def _ready(sender: Any, **_: Any) -> None:
    """Greenlets ask nothing: a driver that knows nothing of them would hold up the whole worker."""
    worker, pool = sender.controller, sender.pool
    if pool.is_green:
        return
    if type(pool).__module__ != "celery.concurrency.prefork":
        capacity.check(1)
        return
    registry.warn_of_unknown()
    capacity.check(worker.max_concurrency or worker.concurrency)
