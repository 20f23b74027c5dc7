"""What an operator should know besides where a job is (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from reliable_tasks.inspection.why.evidence import Evidence
from reliable_tasks.inspection.why.reading import seconds_of
from reliable_tasks.inspection.why.standings import OVER, Note, Standing, known

__all__ = ("asides",)


def asides(seen: Evidence, standing: Standing) -> Iterator[Note]:
    """Yield what else is worth a line."""
    yield from _notes_on_running(seen, standing)
    yield from _notes_on_message(seen, standing)
    yield from _notes_on_record(seen, standing)
    if seen.letter is not None and standing in {Standing.REFUSED, Standing.UNREGISTERED}:
        yield Note("kept-whole")
    suppressed = sum(each.event == "suppressed" for each in seen.jots)
    if suppressed:
        yield Note("suppressed-others", {"count": suppressed})


def _notes_on_running(seen: Evidence, standing: Standing) -> Iterator[Note]:
    record, actives = seen.record, [each for each in seen.requests if each.state == "active"]
    if standing is not Standing.RUNNING:
        return
    if len(actives) > 1:
        yield Note("runs-twice", {"workers": tuple(each.node for each in actives)})
    if seen.revoked_at:
        yield Note("revoke-too-late")
    if record is None or record.state != "running":
        return
    if record.until is not None and record.until <= seen.now:
        yield Note("lease-over", {"until": record.until})
    if record.is_draining:
        yield Note("draining")
    if actives or seen.workers is None or not record.worker:
        return
    if record.worker not in {each.node for each in seen.workers}:
        yield Note("worker-silent", known(worker=record.worker, until=record.until))


def _notes_on_message(seen: Evidence, standing: Standing) -> Iterator[Note]:
    queued = seen.sighting("queued")
    if standing is Standing.REVOKED:
        is_known = seen.revoked_at or not seen.workers
        if (seen.sightings or seen.requests) and not is_known:
            yield Note("revoke-forgotten")
    elif standing in OVER and queued is not None:
        yield Note("copy-waits", {"queue": queued.queue, "guarded": bool(seen.is_guarded)})
    if queued is not None and standing not in OVER and seen.workers is not None:
        if not seen.workers:
            yield Note("no-worker")
        elif seen.readers(queued.queue) == ():
            yield Note("queue-unread", {"queue": queued.queue})
    if standing not in OVER:
        yield from _notes_on_way(seen)
    if standing is Standing.UNKNOWN:
        filled = {each.name: each.depth for each in seen.queues if each.depth}
        if filled and seen.has_gap("broker"):
            yield Note("may-be-in", {"queues": filled})


def _notes_on_way(seen: Evidence) -> Iterator[Note]:
    ends = [seconds_of(each.headers.get("expires")) for each in seen.sightings]
    if any(end is not None and end <= seen.now for end in ends):
        yield Note("too-late")
    if any(each.redelivered for each in seen.sightings):
        yield Note("redelivered")


def _notes_on_record(seen: Evidence, standing: Standing) -> Iterator[Note]:
    record = seen.record
    if record is None:
        return
    carries = standing in {Standing.DONE, Standing.FAILED} and record.replays
    if carries and not record.is_closed:
        yield Note("unfinished-replays", {"replays": record.replays})
    is_to_come = standing in {Standing.QUEUED, Standing.SCHEDULED, Standing.PREFETCHED}
    if is_to_come and record.holder_state in {"done", "failed"}:
        yield Note("answered-by", {"job": record.holder, "state": record.holder_state})
    if is_to_come and record.is_taken:
        yield Note("key-taken", known(job=record.holder, until=record.until))
    if record.crashes and standing not in {Standing.QUARANTINED, Standing.DONE}:
        yield Note("crashes", {"count": record.crashes})
