"""What `celery -A reliable_tasks.demo.worker worker` runs: the task of one side, watched."""

from __future__ import annotations

from typing import Any

from celery.signals import task_postrun, task_prerun

from reliable_tasks import signals
from reliable_tasks.demo.gateway import Scribe
from reliable_tasks.demo.journal import Kind
from reliable_tasks.demo.shops import open_shop
from reliable_tasks.demo.site import Site

__all__ = ("app",)

_site = Site.from_environment()
_scribe = Scribe(_site.journal)
app = open_shop(_site, _scribe).app


@task_prerun.connect(weak=False)  # type: ignore[untyped-decorator]
def _delivered(task: Any, args: Any, **_: Any) -> None:
    info = task.request.delivery_info or {}
    _scribe.open(args[0], redelivered=bool(info.get("redelivered")))


@task_postrun.connect(weak=False)  # type: ignore[untyped-decorator]
def _left(state: str | None, **_: Any) -> None:
    _scribe.note(Kind.LEFT, state=state)


@signals.task_replayed.connect(weak=False)  # type: ignore[untyped-decorator]
def _replayed(same_job: bool, **_: Any) -> None:
    _scribe.note(Kind.REPLAYED, same_job=same_job)


@signals.task_deferred.connect(weak=False)  # type: ignore[untyped-decorator]
def _deferred(wait: float | None, **_: Any) -> None:
    _scribe.note(Kind.DEFERRED, wait=wait)


@signals.task_deduplicated.connect(weak=False)  # type: ignore[untyped-decorator]
def _dropped(reason: str, **_: Any) -> None:
    _scribe.note(Kind.DROPPED, reason=reason)


@signals.lease_lost.connect(weak=False)  # type: ignore[untyped-decorator]
def _lease_lost(**_: Any) -> None:
    _scribe.note(Kind.LEASE_LOST)


@signals.task_quarantined.connect(weak=False)  # type: ignore[untyped-decorator]
def _quarantined(crashes: int, **_: Any) -> None:
    _scribe.note(Kind.QUARANTINED, crashes=crashes)
