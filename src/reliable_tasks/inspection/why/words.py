"""A verdict in words, and as a document for programs (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from reliable_tasks.inspection.why.evidence import Jot
from reliable_tasks.inspection.why.standings import Note, Standing, Verdict

__all__ = ("document_of", "headline", "line_of", "remedy", "sentence_of")

MINUTE, HOUR, DAY = 60, 3_600, 86_400
MANY_READERS = 3


def headline(verdict: Verdict) -> str:
    """Return where the job is, in one or two sentences."""
    say = _Words(verdict.facts, verdict.now)
    return _HEADLINES[verdict.standing](say)


def remedy(verdict: Verdict) -> str:
    """Return what an operator can do about it, or nothing."""
    job = verdict.facts.get("behind") or verdict.task_id
    return _REMEDIES.get(verdict.standing, "").format(job=job)


def sentence_of(note: Note, now: float) -> str:
    """Return a note as one sentence."""
    return _NOTES[note.name](_Words(note.facts, now))


def line_of(jot: Jot) -> str:
    """Return a line of the flight recorder: when, what, where, and its details."""
    details = " ".join(f"{name}={value}" for name, value in jot.details.items())
    return " ".join(filter(None, (_clock(jot.at), jot.event, jot.where, details)))


def document_of(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict as JSON takes it; times are seconds since 1970."""
    return {
        "task_id": verdict.task_id,
        "asked_at": verdict.now,
        "state": verdict.standing.value,
        "says": headline(verdict),
        "source": verdict.source or None,
        "remedy": remedy(verdict) or None,
        "facts": _plain(verdict.facts),
        "notes": [
            {
                "name": note.name,
                "says": sentence_of(note, verdict.now),
                "facts": _plain(note.facts),
            }
            for note in verdict.notes
        ],
        "history": [
            {"at": jot.at, "event": jot.event, "where": jot.where or None, **jot.details}
            for jot in verdict.jots
        ],
        "not_looked_at": [{"source": gap.source, "why": gap.why} for gap in verdict.gaps],
    }


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()
    }


class _Words:
    """The facts of a verdict or a note, as parts of sentences; a part without its fact is empty."""

    def __init__(self, facts: Mapping[str, Any], now: float) -> None:
        self.facts, self.now = facts, now

    def __getitem__(self, name: str) -> Any:
        return self.facts.get(name)

    def part(self, text: str, name: str) -> str:
        """Return *text* with the fact in its braces, or nothing."""
        value = self[name]
        return "" if value in (None, "", ()) else text.format(value)

    def when(self, text: str, name: str) -> str:
        """Return *text* with a time in its braces, or nothing."""
        value = self[name]
        return "" if value is None else text.format(_moment(value, self.now))

    def clock(self, text: str, name: str) -> str:
        """Return *text* with the name of a time in its braces, or nothing."""
        value = self[name]
        return "" if value is None else text.format(_named(value, self.now))

    @property
    def queue(self) -> str:
        """Where it waits."""
        return self.part(" in the queue {}", "queue")

    @property
    def behind(self) -> str:
        """How many are before it."""
        ahead = self["ahead"]
        if ahead is None:
            return ""
        return ", next in line" if ahead == 0 else f", behind {_count(ahead, 'message')}"

    @property
    def readers(self) -> str:
        """Who reads its queue."""
        nodes = self["readers"]
        if not nodes:
            return ""
        if len(nodes) <= MANY_READERS:
            return f", which {', '.join(nodes)} {'reads' if len(nodes) == 1 else 'read'}"
        return f", which {len(nodes)} workers read"

    @property
    def worker(self) -> str:
        """Which process has it."""
        return self.part(" on {}", "worker") + self.part(" (process {})", "pid")


def _running(say: _Words) -> str:
    attempt = say["attempt"]
    counted = f", attempt {attempt}" if attempt and attempt > 1 else ""
    return (
        f"It runs{say.worker or ' on a worker that is not known by name'}"
        f"{say.clock(', since {}', 'since')}{counted}."
        f"{say.clock(' Its lease lasts until {} unless it is renewed.', 'until')}"
    )


def _abandoned(say: _Words) -> str:
    if say["denied"]:
        return (
            f"Its execution{say.worker} ended without a word: the worker says that it does not run "
            f"it. It is taken over{say.when(' {}', 'until') or ' when its lease ends'}, or later."
        )
    begun = (
        f"Its execution{say.worker} ended without a word: the lease was over"
        f"{say.when(' {}', 'until')}."
    )
    if say["redelivery_at"] is not None:
        return f"{begun}{say.when(' Its message is delivered again {}', 'redelivery_at')} or later."
    if say["ahead"] is not None:
        return f"{begun} A message of it waits{say.queue}{say.behind}, and takes it over."
    if say["queue"]:
        return f"{begun} A worker holds a message of it{say.queue.replace(' in ', ' of ')}."
    return f"{begun} No message of it was seen that would take it over."


def _quarantined(say: _Words) -> str:
    kept = " Its message is among the dead letters." if say["letter"] else ""
    if say["behind"]:
        return f"Its key is quarantined, because of the job {say['behind']}.{kept}"
    crashes = say["crashes"]
    deaths = f" after {_count(crashes, 'execution')} that ended without a word" if crashes else ""
    return f"It is quarantined{deaths}, and runs no more.{kept}"


def _done(say: _Words) -> str:
    replays = say["replays"]
    times = f" Copies were answered with its result {_times(replays)}." if replays else ""
    return f"It is done{say.when(', {}', 'at')}{say.part(', on {}', 'worker')}.{times}"


def _revoked(say: _Words) -> str:
    if say["reason"] == "pending":
        who = ", ".join(say["nodes"]) or "a worker"
        return f"It was revoked: {who} will drop its message when it comes."
    if say["reason"] == "unseen":
        return (
            f"It was revoked{say.when(', {}', 'at')}. Its message was dropped, or still waits and "
            "is dropped when it comes to a worker that knows of that."
        )
    how = "terminated while it ran" if say["reason"] == "terminated" else "dropped unrun"
    return f"It was revoked, and {how}{say.when(', {}', 'at')}{say.part(', by {}', 'by')}."


def _unregistered(say: _Words) -> str:
    return (
        f"A worker{say.part(' ({})', 'worker')} does not know its task and dropped it"
        f"{say.when(', {}', 'at')}."
    )


def _refused(say: _Words) -> str:
    return (
        f"A worker{say.part(' ({})', 'worker')} refused its message{say.when(', {}', 'at')}"
        f"{say.part(': {}', 'reason')}."
    )


def _dead_letter(say: _Words) -> str:
    return f"It was given up and is among the dead letters{say.clock(', since {}', 'at')}" + (
        f": {say['reason'].rstrip('.')}." if say["reason"] else "."
    )


def _failed(say: _Words) -> str:
    replays = say["replays"]
    times = f" Copies were answered with its error {_times(replays)}." if replays else ""
    return (
        f"It failed{say.part(' with {}', 'error')}{say.when(', {}', 'at')}"
        f"{say.part(', on {}', 'worker')}.{times}"
    )


def _duplicate(say: _Words) -> str:
    other = "ran" if say["reason"] == "running" else "was done"
    job = say.part("the job {}", "behind") or "another job"
    return f"It was dropped as a duplicate{say.when(' {}', 'at')}: {job} of its key {other}."


def _replaced(say: _Words) -> str:
    return f"A later call of the same unique task took its place{say.when(', {}', 'at')}."


def _retrying(say: _Words) -> str:
    attempt = say["attempt"]
    which = f"attempt {attempt}" if attempt else "its next attempt"
    due = say.when(" {}", "next_at") or say.clock(" by {}", "until")
    if say["next_at"] is not None and say["next_at"] <= say.now:
        due = say.when(", due {}", "next_at")
    return f"It is tried again: {which}{due}{_where(say)}."


def _where(say: _Words) -> str:
    if say["ahead"] is not None:
        return f"; its message waits{say.queue}{say.behind}{say.readers}"
    if say["worker"]:
        return f"; its message waits on {say['worker']}"
    return f"; its message came from the queue {say['queue']}" if say["queue"] else ""


def _deferred(say: _Words) -> str:
    if not say["behind"]:
        return f"It waits for its turn{say.when(', and asks again {}', 'next_at')}."
    does = "runs" if say["behind_state"] == "running" else "waits for its retry"
    return (
        f"It waits for its turn: the job {say['behind']} of the same key {does}"
        f"{say.part(' on {}', 'behind_worker')}{say.clock(', until {} or longer', 'until')}."
        f"{say.when(' It asks again {}', 'next_at')}{_where(say) if say['next_at'] else ''}"
    ).rstrip(".") + "."


def _prefetched(say: _Words) -> str:
    return f"{say['worker']} has fetched it ahead, and runs it as soon as a process is free."


def _scheduled(say: _Words) -> str:
    holder = say["worker"] or ("a worker" if say["at"] is None else "the broker or a worker")
    return f"It waits for its time{say.when(', {}', 'eta')}; {holder} holds its message."


def _held(say: _Words) -> str:
    queue = say.part(" from the queue {}", "queue")
    if say["at"] is not None:
        return f"{say['worker'] or 'A worker'} received it{say.when(' {}', 'at')}."
    return (
        f"A worker took it{queue}{say.when('; last heard of {}', 'since')}, but none that answered "
        f"has it.{say.when(' Unless it is heard of, it is delivered again {}', 'redelivery_at')}"
    ).rstrip(".") + "."


def _queued(say: _Words) -> str:
    due = ""
    if say["eta"] is not None and say["eta"] > say.now:
        due = say.when(" It is due {}.", "eta")
    since = say.clock(" It was published at {}.", "since")
    return f"It waits{say.queue}{say.behind}{say.readers}.{since}{due}"


def _reserved(say: _Words) -> str:
    until = say.clock(" until {}", "until")
    if say["is_searched"]:
        why = "but no message of it was found: its publish failed, or is under way"
        return f"Its key is reserved for it{until}, {why}."
    return f"Its key is reserved for it{until}. Its message waits, or its publish failed."


def _published(say: _Words) -> str:
    queue = say.part(" to the queue {}", "queue")
    due = say.when(" It is due {}.", "eta") if (say["eta"] or 0) > say.now else ""
    return f"It was published{queue}{say.when(', {}', 'at')}; no worker has noted it since.{due}"


def _unknown(_say: _Words) -> str:
    return (
        "Nothing is known of it. Either it was never published, or to another broker, database or "
        "key prefix; or it is part of a chain or a chord and comes after a job that is not over, "
        "or that failed; or it is over, and nothing was kept; or its message was dropped as a "
        "duplicate, refused or lost; or it is the id of a group, or not quite right."
    )


_HEADLINES: Mapping[Standing, Callable[[_Words], str]] = {
    Standing.RUNNING: _running,
    Standing.ABANDONED: _abandoned,
    Standing.QUARANTINED: _quarantined,
    Standing.DONE: _done,
    Standing.REVOKED: _revoked,
    Standing.EXPIRED: lambda say: f"It expired before it began{say.when(', {}', 'at')}.",
    Standing.REPLACED: _replaced,
    Standing.UNREGISTERED: _unregistered,
    Standing.REFUSED: _refused,
    Standing.DEAD_LETTER: _dead_letter,
    Standing.FAILED: _failed,
    Standing.DUPLICATE: _duplicate,
    Standing.RETRYING: _retrying,
    Standing.DEFERRED: _deferred,
    Standing.PREFETCHED: _prefetched,
    Standing.SCHEDULED: _scheduled,
    Standing.HELD: _held,
    Standing.QUEUED: _queued,
    Standing.RESERVED: _reserved,
    Standing.PUBLISHED: _published,
    Standing.UNKNOWN: _unknown,
}

_REMEDIES: Mapping[Standing, str] = {
    Standing.QUARANTINED: (
        "Mend what kills its process, then: celery -A proj reliable dead replay {job}"
    ),
    Standing.DEAD_LETTER: "Mend the cause, then: celery -A proj reliable dead replay {job}",
    Standing.UNREGISTERED: (
        "Start workers that import the task's module, then publish the job again, or, if it is "
        "kept: celery -A proj reliable dead replay {job}"
    ),
    Standing.REFUSED: (
        "Mend what workers refuse (accept_content, the serializer), then publish the job again, "
        "or, if it is kept: celery -A proj reliable dead replay {job}"
    ),
    Standing.UNKNOWN: (
        "celery -A proj reliable doctor shows queues that nobody reads and workers elsewhere. With "
        "reliable_tasks_flight_recorder = True the next one leaves a trail."
    ),
}


def _nobody(say: _Words) -> str:
    queues = ", ".join(f"{name} ({depth})" for name, depth in say["queues"].items())
    noun = "queue" if len(say["queues"]) == 1 else "queues"
    return f"It may be among the messages of the {noun} {queues}."


_NOTES: Mapping[str, Callable[[_Words], str]] = {
    "runs-twice": lambda say: f"It runs more than once: on {', '.join(say['workers'])}.",
    "revoke-too-late": lambda _: "It was revoked after it had begun, which does not stop it.",
    "revoke-forgotten": lambda _: (
        "No worker that answered knows of that. Workers forget a revoke when they restart, unless "
        "they have --statedb, and then run the job."
    ),
    "lease-over": lambda say: (
        f"Its lease was over{say.when(' {}', 'until')} and is not renewed: the process hangs, is "
        "paused, or does not reach the store. Another execution may take over."
    ),
    "draining": lambda _: "Its worker has begun to shut down.",
    "worker-silent": lambda say: (
        f"{say['worker']} did not answer: it is busy, cut off, or dead. If it is dead, the job is "
        f"taken over{say.when(' {}', 'until')} at the earliest."
    ),
    "copy-waits": lambda say: (
        f"A message of it waits{say.queue}; "
        + (
            "it is answered from the record and does not run the job again."
            if say["guarded"]
            else "it will run the job again."
        )
    ),
    "no-worker": lambda _: "No worker answered: nobody takes it.",
    "queue-unread": lambda say: f"No worker that answered reads the queue {say['queue']}.",
    "too-late": lambda _: "Its `expires` is over: it is dropped when it comes to a worker.",
    "redelivered": lambda _: "It was delivered before, and came back unacknowledged.",
    "may-be-in": _nobody,
    "unfinished-replays": lambda say: (
        f"Of {_count(say['replays'], 'replay')} none has come to its end: what hangs on the "
        "message may be unsent."
    ),
    "answered-by": lambda say: (
        f"When it comes, it is judged by the job {say['job']} of the same key, which is "
        f"{'done' if say['state'] == 'done' else 'over: it failed'}."
    ),
    "crashes": lambda say: (
        f"{_count(say['count'], 'execution')} of it ended without a word; it is quarantined when "
        "there are max_crashes of them."
    ),
    "kept-whole": lambda _: "Its message is among the dead letters.",
    "suppressed-others": lambda say: (
        f"{_count(say['count'], 'call')} published nothing, for this job was there already."
    ),
    "key-taken": lambda say: (
        f"Its key is taken: the job {say['job']} has it{say.clock(' until {}', 'until')} or "
        "longer. When it comes, it waits for its turn."
    ),
}


def _moment(at: float, now: float) -> str:
    """Return a point in time, and how far it is from *now*."""
    distance = at - now
    if abs(distance) < 1:
        return "just now"
    far = _span(abs(distance))
    return f"in {far} ({_clock(at)})" if distance > 0 else f"{far} ago ({_clock(at)})"


def _named(at: float, now: float) -> str:
    """Return a point in time by its name, and how far it is from *now*."""
    distance = at - now
    far = _span(abs(distance))
    return f"{_clock(at)} ({f'in {far}' if distance > 0 else f'{far} ago'})"


def _span(seconds: float) -> str:
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < 2 * DAY:
        return f"{seconds / HOUR:.0f} h"
    return f"{seconds / DAY:.0f} days"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")
