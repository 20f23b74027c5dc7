"""Poison on its way: quarantined, kept whole, cured, replayed, done once."""

from __future__ import annotations

from typing import Any

from reliable_tasks.deadletter.replaying import Replay, replay
from reliable_tasks.deadletter.shelves import Kept, Wanted, find
from reliable_tasks.testing import WorkerProcess, eventually
from tests.integration.apps.dying import cure, dies, heard
from tests.integration.campaign import Campaign

TASKS = ["--include", "tests.integration.apps.dying"]


def letter_of(campaign: Campaign, job: str) -> Kept:
    """Return the dead letter of a job."""
    [kept] = find(campaign.app, Wanted(jobs=(job,))).kept
    return kept


def has_letter(campaign: Campaign, job: str) -> bool:
    """Whether a job is among the dead letters."""
    return bool(find(campaign.app, Wanted(jobs=(job,))).kept)


def quarantined(campaign: Campaign, way: str, *, machines: bool = False) -> Kept:
    """Let a job end its process in one *way* until it is quarantined, and return its letter."""
    job = f"dies-{way.replace(' ', '-')}"
    workers: list[WorkerProcess] = []

    def is_quarantined() -> bool:
        if machines and not (workers and workers[-1].is_running):
            workers.append(campaign.worker(arguments=TASKS))
        return has_letter(campaign, job)

    campaign.send(dies, job, way, link=[heard.s()])
    eventually(is_quarantined, timeout=90, interval=0.2, message=f"{job} is quarantined")
    kept = letter_of(campaign, job)
    assert [each.details["crashes"] for each in campaign.begins(job)] == [0, 1, 2]
    assert [each["outcome"] for each in kept.letter.attempts] == ["died"] * 3
    return kept


def cured(campaign: Campaign, kept: Kept, effects: int = 1) -> None:
    """Mend what was wrong with a job, let two operators replay it, and see that it ran once."""
    job = kept.letter.id
    cure(campaign.ledger, job).touch()
    assert replay(campaign.app, kept) is Replay.PUBLISHED
    assert replay(campaign.app, kept) is Replay.TAKEN_OFF
    eventually(lambda: campaign.ledger.counts()[job] >= effects, message=f"{job} takes effect")
    campaign.wait_settled([])
    assert campaign.ledger.counts()[job] == effects
    assert not has_letter(campaign, job)


def effect(campaign: Campaign, job: str) -> Any:
    """Return what the one effect of a job says."""
    [found] = [
        each for each in campaign.ledger.entries() if (each.job, each.kind) == (job, "effect")
    ]
    return found.details
