"""Histories of producers: they die anywhere, ask twice, speak late, and follow each other."""

from __future__ import annotations

from reliable_tasks.core.records import Duplicate
from tests.traces.bodies import fails
from tests.traces.delivery import Delivery
from tests.traces.history import Broken
from tests.traces.producer import GRACE, Producer
from tests.traces.rules import Play, protects
from tests.traces.world import LEASE, World

KEY = "rt1:t:shared"


def runs(world: World, job: str) -> None:
    """Let one worker run a job to its end."""
    world.workers[0].takes(job).finishes()


def effects(world: World) -> list[str]:
    """Return the jobs that took effect, in order."""
    return world.history.effects[KEY]


def must_run(world: World, job: str) -> None:
    """Judge a job that nobody may drop."""
    if job not in effects(world):
        raise Broken(f"{job} is lost:\n{world.told()}")


@protects("grace", breaks="b is blocked by a")
def test_a_producer_dies_before_it_publishes(play: Play) -> None:
    """What it reserved is free after the grace."""
    with play(retention=0) as world:
        Producer(world, "a").reserves()
        world.elapse(GRACE + 1)
        Producer(world, "b").calls()
        world.ends()
        must_run(world, "b")


@protects("begins+frees", breaks="b is blocked by a")
def test_a_job_that_ran_is_free(play: Play) -> None:
    """The reservation of a job in the queue lasts until the job runs, and no longer."""
    with play(retention=0) as world:
        Producer(world, "a", fails).calls()
        world.elapse(GRACE + 1)
        assert Producer(world, "x").calls().answer == Duplicate("a", "queued")
        runs(world, "a")
        Producer(world, "b").calls()
        world.ends()
        must_run(world, "b")


@protects("lengthens", breaks="b is blocked by a")
def test_a_producer_is_slower_than_the_worker(play: Play) -> None:
    """A confirmation that comes after the job has run says nothing."""
    with play(retention=0) as world:
        slow = Producer(world, "a").reserves().publishes()
        runs(world, "a")
        slow.confirms()
        world.elapse(GRACE + 1)
        Producer(world, "b").calls()
        world.ends()


@protects("own", breaks="a is blocked by a")
def test_a_reservation_may_be_repeated(play: Play) -> None:
    """A producer whose reply was lost publishes its job all the same."""
    with play(retention=0) as world:
        Producer(world, "a").reserves(lost_replies=1).publishes().confirms()
        world.ends()


@protects("givesback", breaks="b is blocked by a")
def test_a_publish_fails(play: Play) -> None:
    """The next call need not wait for the grace."""
    with play(retention=0) as world:
        Producer(world, "a").reserves().fails()
        Producer(world, "b").calls()
        world.ends()


@protects("frees", breaks="b is blocked by a")
def test_a_message_is_revoked(play: Play) -> None:
    """A worker that discards a message frees its key."""
    with play(retention=0) as world:
        Producer(world, "a").calls()
        world.elapse(GRACE + 1)
        world.broker.ready.clear()
        world.place.store.end(KEY, job="a", killed=False, horizon_ms=3_600_000)
        world.history.reported("a", "F")
        Producer(world, "b").calls()
        world.ends()


@protects("plain", breaks="a is lost")
def test_a_call_after_a_crash(play: Play) -> None:
    """The new job runs at once, and the one that was killed as soon as it comes back."""
    with play(retention=0) as world:
        dead, quick, _ = world.workers
        Producer(world, "a").calls()
        dead.takes("a").until("effect").is_killed()
        world.elapse(LEASE + 1)
        Producer(world, "b").calls()
        quick.takes("b").finishes()
        world.ends()
        must_run(world, "a")


@protects("answered", breaks="b is lost")
def test_a_call_after_the_run_that_answers_an_older_call(play: Play) -> None:
    """What changed after a run is worked in, though a job that it answers still waits."""
    with play(retention=0) as world:
        Producer(world, "a", is_dated=True).calls()
        world.elapse(1)
        world.calls("x", key="shared")
        runs(world, "x")
        world.elapse(1)
        Producer(world, "b").calls()
        world.ends()
        must_run(world, "b")


@protects("published", breaks="a is lost")
def test_a_later_producer_dies_before_it_publishes(play: Play) -> None:
    """The job whose place it wanted to take runs."""
    with play(retention=0) as world:
        Producer(world, "a", latest=True, payload="1").calls()
        Producer(world, "b", latest=True, payload="2").reserves()
        world.ends()
        must_run(world, "a")


@protects("order", breaks="after b")
def test_a_replaced_message_comes_back_late(play: Play) -> None:
    """The latest arguments are the last that take effect."""
    with play(retention=0) as world:
        slow, quick, _ = world.workers
        Producer(world, "a", latest=True, payload="1").calls()
        slow.takes("a")
        Producer(world, "b", latest=True, payload="2").calls()
        slow.is_killed()
        quick.takes("b").finishes()
        world.ends()
        if effects(world)[-1] != "b":
            raise Broken(f"{effects(world)[-1]} took effect after b")


@protects("early", breaks="before its time")
def test_a_job_is_put_off_after_it_was_published(play: Play) -> None:
    """It runs its delay after the last call, though its message says otherwise."""
    delay = 20.0
    called_us = 0

    def judges(run: Delivery) -> None:
        if run.world.clock.now_us() < called_us + (delay - 1) * 1_000_000:
            run.world.history.broken.append("it ran before its time")
        run.take_effect()

    with play(retention=0) as world:
        terms = {"latest": True, "delay_ms": round(delay * 1_000)}
        Producer(world, "a", judges, **terms).calls()
        world.elapse(delay / 2)
        called_us = world.clock.now_us()
        Producer(world, "b", judges, **terms).calls()
        world.ends()
        assert effects(world) == ["a"]
