"""Faults of any size: the everyday run uses small numbers, `tests/chaos` the full ones."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable

import pytest

from reliable_tasks.core.lines import line_of
from reliable_tasks.testing import RabbitMQServer, Server, WorkerProcess, eventually
from tests.integration.apps.guarded import fails_once_taken_over, fenced, keyed, work
from tests.integration.campaign import Campaign, Every, names


def assert_sound(campaign: Campaign, jobs: Iterable[str], *, deaths: int = 0) -> None:
    """
    Nothing lost, nothing stuck, doubled only where a kill came before the record.

    Each of the *deaths* of a whole worker or of the server may lose one message that nobody ever
    started, if it was in kombu's window at that moment: by name, see `Campaign.note_window`.
    """
    jobs = list(jobs)
    verdict = campaign.verdict(work, jobs)
    assert verdict.lost == verdict.never_begun
    assert set(verdict.lost) <= campaign.unnoted
    assert len(verdict.lost) <= deaths
    assert verdict.inexcusable == {}
    assert set(campaign.not_ready(jobs)) == set(verdict.lost)


def three_copies_race(campaign: Campaign, count: int) -> None:
    """Publish three copies of each job from four threads."""
    jobs = names("copy", count)
    copies = jobs * 3
    random.shuffle(copies)

    def publish(share: list[str]) -> None:
        campaign.send_all(work, share, before=0.01)

    threads = [threading.Thread(target=publish, args=(copies[number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    campaign.wait_settled(jobs)

    assert campaign.not_ready(jobs) == []
    assert {job: n for job, n in campaign.ledger.counts().items() if job in jobs} == dict.fromkeys(
        jobs, 1
    )


def three_messages_race(campaign: Campaign, count: int) -> None:
    """Publish three messages for each key from four threads, under names of their own."""
    jobs = names("key", count)
    messages = [(job, f"{job}-{number}") for job in jobs for number in range(3)]
    random.shuffle(messages)

    def publish(share: list[tuple[str, str]]) -> None:
        for job, message in share:
            campaign.send(keyed, job, job_id=message)

    threads = [threading.Thread(target=publish, args=(messages[number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    campaign.wait_settled([message for _, message in messages])

    assert {job: n for job, n in campaign.ledger.counts().items() if job in jobs} == dict.fromkeys(
        jobs, 1
    )
    for job in jobs:
        answers = [campaign.result(f"{job}-{number}").get(timeout=5) for number in range(3)]
        assert answers == [answers[0]] * 3


def _send_some_twice(campaign: Campaign, jobs: list[str], **kwargs: float) -> None:
    """Publish each job, and a second copy of each third among them."""
    for number, job in enumerate(jobs):
        for _ in range(2 if number % 3 == 0 else 1):
            campaign.send(work, job, kwargs=kwargs)


def children_die(campaign: Campaign, count: int, *, seconds: float, children: int = 2) -> None:
    """SIGKILL a child each so many *seconds* while *count* jobs run."""
    worker = campaign.worker(concurrency=children)
    jobs = names("child", count)
    _send_some_twice(campaign, jobs, before=0.05, after=0.05)

    with Every(seconds, lambda: campaign.kill_child(worker)) as killer:
        eventually(lambda: len(campaign.ledger.counts()) >= count * 0.9, timeout=100)
        eventually(lambda: killer.times >= 1)
    campaign.wait_settled(jobs)

    assert_sound(campaign, jobs)


def workers_die(campaign: Campaign, count: int, *, kills: int) -> None:
    """SIGKILL the whole worker *kills* times while *count* jobs run, and start it anew."""
    worker = campaign.worker(concurrency=2)
    jobs = names("machine", count)
    _send_some_twice(campaign, jobs, before=0.05, after=0.05)

    for number in range(kills):
        share = count * (number + 1) / (kills + 1)
        eventually(lambda share=share: len(campaign.ledger.counts()) >= share)
        campaign.kill_worker(worker)
        campaign.note_window(work)
        worker.restart()
    campaign.wait_settled(jobs)

    assert_sound(campaign, jobs, deaths=kills)


def paused_past_its_lease(campaign: Campaign) -> None:
    """SIGSTOP a worker, let a second one finish its jobs, and let the first go on."""
    first = campaign.worker(concurrency=3)
    campaign.send(fails_once_taken_over, "failed", 2)
    campaign.send(work, "bare", kwargs={"before": 2})
    campaign.send(fenced, "paused", 2)
    campaign.wait_begun("failed")
    zombies = {job: campaign.wait_begun(job) for job in ("bare", "paused")}
    eventually(lambda: campaign.ledger.counts("opened")["paused"] == 1)
    first.pause()
    campaign.ground.take_back()
    second = campaign.worker(concurrency=3)
    results = {job: campaign.result(job).get(timeout=60) for job in zombies}
    with pytest.raises(ValueError, match="failed"):
        campaign.result("failed").get(timeout=60)

    first.resume()
    eventually(lambda: campaign.ledger.counts("refused")["paused"] == 1)
    eventually(lambda: campaign.ledger.counts()["bare"] == 2)
    eventually(lambda: campaign.ledger.counts("end")["failed"] == 2)
    campaign.wait_settled([*zombies, "failed"])

    for job, zombie in zombies.items():
        _, winner = campaign.begins(job)
        assert winner.pid in second.children()
        assert winner.details["token"] > zombie.details["token"]
        assert results[job]["token"] == winner.details["token"]
        assert campaign.result(job).get(timeout=5) == results[job]
    with pytest.raises(ValueError, match="failed"):
        campaign.result("failed").get(timeout=5)
    # The effect with a fence happened once; the one without is doubled by the paused execution.
    assert _tokens(campaign, "paused") == [results["paused"]["token"]]
    assert _tokens(campaign, "bare") == [
        results["bare"]["token"],
        zombies["bare"].details["token"],
    ]


def _tokens(campaign: Campaign, job: str) -> list[int]:
    """Return the tokens of a job's effects, in their order."""
    effects = campaign.ledger.entries("effect")
    return [effect.details["token"] for effect in effects if effect.job == job]


def paused_and_back_before_the_winner_dies(campaign: Campaign) -> None:
    """The paused worker wakes while the winner still runs; then the winner's machine dies."""
    first, second, zombie = _overtaken(campaign, "net", 4)
    first.resume()
    eventually(lambda: campaign.ledger.counts("refused")["net"] == 1)
    eventually(
        lambda: campaign.record(fenced, "net").line >= line_of(0, hop=1),
        message="the zombie leaves a successor",
    )
    assert campaign.not_ready(["net"]) == ["net"]

    campaign.kill_worker(second)
    campaign.wait_settled(["net"])

    assert campaign.ledger.counts()["net"] == 1
    last = campaign.begins("net")[-1]
    assert last.details["token"] > zombie.details["token"]
    assert campaign.result("net").get(timeout=5)["token"] == last.details["token"]
    eventually(lambda: campaign.in_broker() == {})


def _overtaken(campaign: Campaign, job: str, seconds: float) -> tuple:
    """Return the paused worker, the one that runs *job* now, and the paused execution."""
    first = campaign.worker(concurrency=1)
    campaign.send(fenced, job, seconds)
    zombie = campaign.wait_begun(job)
    eventually(lambda: campaign.ledger.counts("opened")[job] == 1)
    first.pause()
    campaign.ground.take_back()
    second = campaign.worker(concurrency=1)
    campaign.wait_begun(job, times=2)
    eventually(lambda: campaign.ledger.counts("opened")[job] == 2)
    return first, second, zombie


class _Supervisor:
    """Starts a worker again that ended, as kombu's may when it closes a connection that is lost."""

    def __init__(self, campaign: Campaign, worker: WorkerProcess) -> None:
        self._campaign, self._worker = campaign, worker
        self._children: list[int] = []

    def __call__(self) -> None:
        if self._worker.is_running:
            self._children = self._worker.children() or self._children
            return
        self._campaign.killed.update(self._children)
        self._worker.kill()
        self._worker.start()


def store_dies(
    campaign: Campaign, server: Server, count: int, *, down: float, kills: int = 1
) -> None:
    """SIGKILL the server that is store and result backend, or broker too, and start it again."""
    worker = campaign.worker(concurrency=2)
    jobs = names("store", count)
    campaign.send_all(work, jobs, before=0.05, after=0.05)

    with Every(0.5, _Supervisor(campaign, worker)):
        for number in range(kills):
            share = count * (number + 1) / (kills + 2)
            eventually(lambda share=share: len(campaign.ledger.counts()) >= share, timeout=60)
            server.kill()
            time.sleep(down)
            worker.pause()
            server.start()
            campaign.note_window(work)
            worker.resume()
        campaign.wait_settled(jobs)

    assert_sound(campaign, jobs, deaths=kills)


def broker_dies(
    campaign: Campaign, server: RabbitMQServer, count: int, *, down: float, kills: int
) -> None:
    """SIGKILL the broker *kills* times while *count* jobs run or wait, and start it again."""
    campaign.worker(concurrency=2)
    jobs, waiting = names("broker", count // 2), names("delayed", count // 2)
    _send_some_twice(campaign, jobs, before=0.05, after=0.05)
    for number, job in enumerate(waiting):
        campaign.send(work, job, kwargs={"before": 0.05}, countdown=number % 30)
    server.sync()

    for number in range(kills):
        share = count * (number + 1) / (kills + 1)
        eventually(lambda share=share: len(campaign.ledger.counts()) >= share, timeout=60)
        server.kill()
        time.sleep(down)
        server.start()
    campaign.wait_settled(jobs + waiting)

    assert_sound(campaign, jobs + waiting)


def connections_are_cut(campaign: Campaign, count: int, *, cuts: int) -> None:
    """Cut all connections *cuts* times while *count* jobs run, and while the last are published."""
    campaign.worker(concurrency=2)
    jobs = names("cut", count)
    _send_some_twice(campaign, jobs[: count // 2], before=0.05, after=0.05)

    with Every(3.0, campaign.ground.take_back) as cutter:
        for job in jobs[count // 2 :]:
            campaign.send(work, job, kwargs={"before": 0.05, "after": 0.05})
            time.sleep(0.02)
        eventually(lambda: cutter.times >= cuts, timeout=60)
    campaign.wait_settled(jobs)

    assert_sound(campaign, jobs)


def consumer_timeout_is_hit(campaign: Campaign, *, seconds: float) -> None:
    """Run jobs of so many *seconds*, more than the broker leaves an unacknowledged message."""
    worker = campaign.worker(concurrency=2)
    jobs = names("timeout", 3)
    campaign.send_all(work, jobs, before=seconds)

    campaign.wait_settled(jobs, timeout=100)

    assert "PRECONDITION_FAILED - delivery acknowledgement" in worker.log
    assert campaign.ledger.counts("begin") == dict.fromkeys(jobs, 1)
    assert_sound(campaign, jobs)


SHORT = (0.05, 0.2, 0.5, 0.9, 1.1)
"""Countdowns in seconds; RabbitMQ's delayed delivery takes only whole ones."""


def short_countdowns(campaign: Campaign, count: int) -> None:
    """Publish jobs with short countdowns, some twice, and SIGKILL the worker that they wait for."""
    worker = campaign.worker(concurrency=2)
    jobs = names("short", count)
    published = {job: time.time() for job in jobs}
    for number, job in enumerate(jobs):
        published[job] = time.time()
        for _ in range(2 if number % 3 == 0 else 1):
            campaign.send(work, job, countdown=SHORT[number % len(SHORT)])
    eventually(campaign.ledger.counts)
    campaign.kill_worker(worker)
    campaign.note_window(work)
    worker.restart()
    campaign.wait_settled(jobs)

    assert_sound(campaign, jobs, deaths=1)
    for number, job in enumerate(jobs):
        assert campaign.begins(job)[0].at >= published[job] + SHORT[number % len(SHORT)]


def soak(campaign: Campaign, count: int, *, timeout: float) -> dict[str, int]:
    """Kill a child or one of two whole workers each second; return what happened."""
    workers = [campaign.worker(concurrency=2) for _ in range(2)]
    jobs = names("soak", count)
    _send_some_twice(campaign, jobs, before=0.02, after=0.02)
    worker_kills = 0

    def strike() -> None:
        nonlocal worker_kills
        victim = random.choice(workers)
        if random.random() < 0.7:
            campaign.kill_child(victim)
        elif all(_is_ready(worker) for worker in workers):
            campaign.kill_worker(victim)
            campaign.note_window(work)
            worker_kills += 1
            victim.start()

    with Every(1.0, strike):
        eventually(
            lambda: len(campaign.ledger.counts()) >= count * 0.99, timeout=timeout, interval=1
        )
    for worker in workers:
        worker.wait_ready()
    campaign.wait_settled(jobs, timeout=120)

    assert_sound(campaign, jobs, deaths=worker_kills)
    verdict = campaign.verdict(work, jobs)
    return {
        "deaths of workers": worker_kills,
        "deaths of processes": len(campaign.killed) + worker_kills,
        "executions": len(campaign.ledger.entries("begin")),
        "never started": len(verdict.never_begun),
        "doubled": len(verdict.doubled),
    }


def _is_ready(worker: WorkerProcess) -> bool:
    return worker._is_ready()
