"""
The shortest histories in which the first draft of the protocol broke a promise.

A search of the protocol found them; here they happen to the guard itself, step by
step, and each breaks again as soon as the rule that mended it is taken out.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.traces.bodies import fails, kills, pays, retries_once
from tests.traces.broker import RabbitBroker
from tests.traces.delivery import Delivery
from tests.traces.history import Broken
from tests.traces.rules import Play, protects
from tests.traces.world import LEASE, World

SHARED: dict[str, Any] = {"key": "shared"}
HOUR = 3_600.0


def retries_at_once(run: Delivery) -> None:
    """Retry the first time without a wait, take effect the second time."""
    if run.retries == 0:
        run.retry(wait=0)
    run.take_effect()


# --- the zombie's way out -----------------------------------------------------------------


@protects("zsucc", breaks="a is lost")
def test_a_zombie_leaves_a_successor(play: Play) -> None:
    """A holder that was paused past its lease must not take its successor's safety net away."""
    with play() as world:
        zombie, winner, _ = world.workers
        world.calls("a")
        zombie.takes().until("effect").is_stopped()
        world.restores(zombie)
        winner.takes()
        world.elapse()
        zombie.goes_on().until("settle")
        winner.until("effect")
        zombie.finishes()
        winner.is_killed()
        world.ends()


def overtaken(world: World, *, silent: bool = False) -> None:
    """Play the zombie that reports last."""
    zombie, winner, _ = world.workers
    world.calls("a")
    zombie.takes().until("effect").is_stopped()
    if silent:
        world.broker.disconnect(zombie)
    else:
        world.restores(zombie)
    winner.takes()
    world.elapse()
    zombie.goes_on().until("settle")
    winner.until("effect")
    zombie.go()
    winner.finishes()
    zombie.finishes()
    world.ends()


@protects("zsucc", breaks="S was overwritten by F")
def test_a_zombie_overwrites_no_success(play: Play) -> None:
    """What a holder that was overtaken returns or raises never replaces the winner's outcome."""
    with play() as world:
        overtaken(world)


@protects("zsucc", breaks="S was overwritten by F")
def test_a_zombie_overwrites_no_success_on_rabbitmq(play: Play) -> None:
    """The same when RabbitMQ has closed the channel of the silent worker."""
    with play(RabbitBroker()) as world:
        overtaken(world, silent=True)


@protects("zsucc", breaks="a is stuck")
def test_a_zombie_goes_on_for_a_winner_that_sleeps(play: Play) -> None:
    """Two pauses, one after the other, leave a job that still comes to its end."""
    with play() as world:
        first, second, _ = world.workers
        world.calls("a")
        first.takes().until("effect").is_stopped()
        world.restores(first)
        second.takes()
        world.elapse()
        first.goes_on()
        second.until("effect").is_stopped()
        world.ends()


@protects("zsucc", breaks="a is lost")
def test_a_zombie_is_not_lost_to_another_job(play: Play) -> None:
    """A holder that another job of the key has overtaken is answered like any other job."""
    with play() as world:
        zombie, other, _ = world.workers
        world.calls("a", **SHARED)
        world.calls("b", **SHARED)
        zombie.takes("a").until("effect").is_stopped()
        other.takes("b")
        world.elapse()
        zombie.goes_on().until("settle")
        other.until("effect")
        zombie.finishes()
        world.ends()


@protects("zsucc", breaks="S was overwritten by F")
def test_a_zombie_that_retries_has_its_successor(play: Play) -> None:
    """A retry that was published and has overtaken its own settle is the job's one way on."""
    with play() as world:
        zombie, winner, _ = world.workers
        world.calls("a", retries_at_once)
        zombie.takes().until("retry").is_stopped()
        world.elapse()
        zombie.goes_on().until("settle")
        winner.takes(retries=1).until("effect")
        zombie.go()
        winner.finishes()
        zombie.finishes()
        world.ends()


@protects("zsucc+anew", breaks="a is lost")
def test_a_flush_loses_no_job(play: Play) -> None:
    """An execution whose record vanished under it is recorded all the same."""
    with play() as world:
        world.calls("a")
        world.workers[0].takes().until("settle")
        world.flush()
        world.workers[0].finishes()
        world.ends()


# --- copies of one job are no matter of taste ---------------------------------------------


@protects("samewait", breaks="skipped because of itself")
def test_a_redelivery_is_not_skipped_because_of_itself(play: Play) -> None:
    """when_running='skip' speaks of other jobs: the copy of a job that died must stay."""
    with play(when_running="skip") as world:
        world.calls("a", carries=False)
        world.workers[0].takes().until("effect").is_killed()
        world.restores()
        world.workers[0].takes().finishes()
        world.ends()


@protects("samewait", breaks="skipped because of itself")
def test_a_redelivery_is_not_skipped_beside_another_job(play: Play) -> None:
    """The same where jobs share the key, and the other job was rightly skipped."""
    with play(when_running="skip") as world:
        first, second, _ = world.workers
        world.calls("a", carries=False, **SHARED)
        world.calls("b", carries=False, **SHARED)
        first.takes("a").until("effect")
        second.takes("b").finishes()
        first.is_killed()
        world.restores()
        first.takes("a").finishes()
        world.ends()


@protects("samedone", breaks="skipped because of itself")
def test_a_done_job_is_not_skipped_because_of_itself(play: Play) -> None:
    """when_done='skip' speaks of other jobs: a copy reports what its own job has left unsaid."""
    with play(when_done="skip") as world:
        world.calls("a", carries=False)
        world.workers[0].takes().until("report").is_killed()
        world.restores()
        world.workers[0].takes().finishes()
        world.ends()


@protects("samedone+flowsafe", breaks="something waits for it")
def test_a_done_job_sends_what_hangs_on_it(play: Play) -> None:
    """A worker that dies between the record and the callbacks leaves them to the next copy."""
    with play(when_done="skip") as world:
        world.calls("a")
        world.workers[0].takes().until("send").is_killed()
        world.restores()
        world.workers[0].takes().finishes()
        world.ends()


@protects("flowsafe", breaks="something waits for it")
def test_a_flow_is_not_skipped_while_another_runs(play: Play) -> None:
    """A message that something waits for waits itself, whatever when_running says."""
    with play(when_running="skip") as world:
        world.calls("a", **SHARED)
        world.calls("b", **SHARED)
        world.workers[0].takes("a").until("effect")
        world.workers[1].takes("b").finishes()
        world.ends()


@protects("flowsafe", breaks="something waits for it")
def test_a_flow_is_not_skipped_after_another_is_done(play: Play) -> None:
    """A message that something waits for gets the outcome, whatever when_done says."""
    with play(when_done="skip") as world:
        world.calls("a", **SHARED)
        world.calls("b", **SHARED)
        world.workers[0].takes("a").until("send")
        world.workers[1].takes("b").finishes()
        world.ends()


# --- older copies -------------------------------------------------------------------------


def redelivered_beside_its_retry(world: World) -> None:
    """Play a worker that dies after its retry was published, before the acknowledgement."""
    world.calls("a", retries_once)
    world.workers[0].takes().until("ack").is_killed()
    world.restores()
    world.workers[0].takes(retries=0).finishes()
    world.ends()


@protects("line", breaks="in place of the waiting retry")
def test_an_older_copy_does_not_run_for_its_retry(play: Play) -> None:
    """While a retry waits for its time, a redelivery of its original is dropped."""
    with play() as world:
        redelivered_beside_its_retry(world)


@protects("line", breaks="in place of the waiting retry")
def test_an_older_copy_does_not_run_for_its_retry_on_rabbitmq(play: Play) -> None:
    """The same where the redelivery comes at once."""
    with play(RabbitBroker()) as world:
        redelivered_beside_its_retry(world)


@protects("line", breaks="in place of the waiting retry")
def test_a_copy_that_came_early_is_old_as_well(play: Play) -> None:
    """A copy that was received before the retry existed is judged when it asks."""
    with play() as world:
        first, second, _ = world.workers
        world.calls("a", retries_once)
        first.takes().until("retry").is_stopped()
        world.restores(first)
        second.takes()
        first.goes_on().finishes()
        second.finishes()
        world.ends()


# --- jobs that have ended -----------------------------------------------------------------


@protects("tomb", breaks="took effect 2 times")
def test_a_done_job_is_remembered_without_retention(play: Play) -> None:
    """retention=0 lets other jobs run at once, and never a copy of the job itself."""
    with play(retention=0) as world:
        world.calls("a")
        world.workers[0].takes().until("send").is_killed()
        world.restores()
        world.workers[0].takes().finishes()
        world.ends()


@protects("tomb", breaks="runs again after S")
def test_a_reported_job_does_not_run_again(play: Play) -> None:
    """A success that callers have seen is final."""
    with play(retention=0) as world:
        world.calls("a")
        world.workers[0].takes().until("close").is_killed()
        world.restores()
        world.workers[0].takes().finishes()
        world.ends()


@protects("tomb", breaks="took effect 2 times")
def test_two_messages_of_one_id_are_one_job(play: Play) -> None:
    """A producer that publishes twice starts one job."""
    with play(retention=0) as world:
        first, second, _ = world.workers
        world.calls("a")
        world.calls("a")
        first.takes().until("send")
        second.takes().finishes()
        first.finishes()
        world.ends()


@protects("tomb+anew", breaks="took effect 2 times")
def test_a_settle_may_be_repeated(play: Play) -> None:
    """A settle whose reply was lost is no zombie when the client asks again."""
    with play(retention=0) as world:
        [worker] = world.workers[:1]
        world.calls("a")
        worker.takes().store.loses_reply_to.add("settle")
        worker.finishes()
        world.ends()


@protects("tomb", breaks="took effect 2 times")
def test_a_settle_may_be_repeated_after_another_job(play: Play) -> None:
    """The same when another job has taken the key between the two questions."""
    with play(retention=0) as world:
        first, second, _ = world.workers
        world.calls("a", **SHARED)
        world.calls("b", **SHARED)
        first.takes("a").store.loses_reply_to.add("settle")
        first.until("settle again")
        second.takes("b").until("effect")
        first.finishes()
        world.ends()


@protects("tomb", breaks="runs again after F")
def test_a_failed_job_does_not_run_again(play: Play) -> None:
    """A failure whose errbacks have fired is final, though other jobs may run."""
    with play() as world:
        first, second, _ = world.workers
        world.calls("a", fails)
        first.takes().until("ack")
        world.restores(first)
        second.takes().finishes()
        first.finishes()
        world.ends()


@protects("tomb", breaks="F was overwritten by S")
def test_a_failed_job_does_not_run_again_after_another(play: Play) -> None:
    """The same when another job of the key has run since."""
    with play() as world:
        worker = world.workers[0]
        world.calls("a", fails, **SHARED)
        world.calls("b", **SHARED)
        worker.takes("a").until("ack").is_killed()
        worker.takes("b").finishes()
        world.restores()
        worker.takes("a").finishes()
        world.ends()


@protects("closed", breaks="quarantined without its deaths")
def test_an_answered_job_drops_its_copies(play: Play) -> None:
    """Copies of a job that was answered in full are neither sent again nor counted."""
    with play() as world:
        for _ in range(6):
            world.calls("a")
        for _ in range(6):
            world.workers[0].takes().finishes()
        world.ends()
        assert world.history.callbacks["a"] == 1


# --- how long things last -----------------------------------------------------------------


@protects("ttl", breaks="took effect 2 times")
def test_a_late_copy_finds_its_record(play: Play) -> None:
    """A copy that turns up an hour later is still recognised."""
    with play() as world:
        world.calls("a")
        world.workers[0].takes().until("send").is_killed()
        world.elapse(HOUR)
        world.restores()
        world.workers[0].takes().finishes()
        world.ends()


@protects("ttl", breaks="runs again after S")
def test_a_late_copy_of_a_reported_job_does_not_run(play: Play) -> None:
    """The same after the caller has seen the result."""
    with play() as world:
        world.calls("a")
        world.workers[0].takes().until("close").is_killed()
        world.elapse(HOUR)
        world.restores()
        world.workers[0].takes().finishes()
        world.ends()


@protects("ttl", breaks="processes")
def test_deaths_are_remembered_beyond_the_lease(play: Play) -> None:
    """A job that kills its process is quarantined, however late its message comes back."""
    with play(max_crashes=2) as world:
        world.calls("a", kills)
        for _ in range(4):
            world.workers[0].takes().until("crash", "").is_killed()
            world.restores()
            world.elapse(HOUR)
            if not world.due():
                break
        world.ends()


@protects("maxrun", breaks="a is stuck")
def test_a_hung_body_is_not_renewed_for_ever(play: Play) -> None:
    """An execution that never comes back gives its job away at max_run."""
    with play(max_run=4 * LEASE) as world:
        world.calls("a")
        world.workers[0].takes().until("effect").hangs()
        world.ends()


# --- deaths and what is none --------------------------------------------------------------


@protects("ledger", breaks="quarantined without its deaths")
def test_a_pause_is_no_death(play: Play) -> None:
    """A holder that was taken for dead and wakes takes its crash off the count."""
    with play(max_crashes=2) as world:
        first, second, third = world.workers
        world.calls("a")
        first.takes().until("effect").is_stopped()
        world.restores(first)
        second.takes()
        world.elapse()
        second.until("effect").is_stopped()
        world.restores(second)
        first.goes_on()
        world.elapse()
        third.takes().finishes()
        world.ends()


@protects("drain", breaks="quarantined without its deaths")
def test_an_announced_shutdown_is_no_death(play: Play) -> None:
    """However many deploys interrupt a job, it is not quarantined for them."""
    with play(max_crashes=2) as world:
        world.calls("a")
        for _ in range(3):
            worker = world.workers[0].takes().until("effect", "bury")
            world.place.store.drain([("rt1:t:a", "a")])
            worker.is_killed(announced=True)
            world.restores()
            world.elapse()
        world.ends()


@protects("replaycap", breaks="answered for ever")
def test_a_job_that_dies_while_it_is_answered_is_quarantined(play: Play) -> None:
    """Deaths between the record and the acknowledgement are counted as well."""
    with play(max_crashes=2) as world:
        worker = world.workers[0]
        world.calls("a")
        for _ in range(6):
            world.elapse()
            if worker.takes().until("send", "bury").ahead == "bury":
                break
            worker.is_killed()
            world.restores()
        assert_buried(world)


def assert_buried(world: World) -> None:
    """The job stands before its quarantine."""
    if world.workers[0].ahead != "bury":
        raise Broken("it is answered for ever")
    world.workers[0].finishes()


@protects("end", breaks="runs again after F")
def test_a_revoked_job_does_not_run_again(play: Play) -> None:
    """A copy of a job that the main process has ended is dropped."""
    with play() as world:
        worker = world.workers[0]
        world.calls("a")
        worker.takes().until("effect")
        world.place.store.end("rt1:t:a", job="a", killed=True, horizon_ms=3_600_000)
        world.history.reported("a", "F")
        world.history.sent("a", "F")
        worker.is_killed()
        world.restores()
        worker.takes().finishes()
        world.ends()


# --- lost replies and failing brokers -----------------------------------------------------


@protects("repeat", breaks="quarantined without its deaths")
def test_a_claim_may_be_repeated(play: Play) -> None:
    """A claim whose reply was lost does not wait for its own lease, nor count it as a death."""
    with play(max_crashes=1) as world:
        worker = world.workers[0]
        world.calls("a")
        world.elapse(0)
        worker.takes().store.loses_reply_to.add("claim")
        worker.finishes()
        world.ends()


@protects("abandoned", breaks="quarantined without its deaths")
def test_a_claim_that_was_never_answered_is_no_death(play: Play) -> None:
    """A lease that its execution never heard of is free, however often in a row."""
    with play(max_crashes=2) as world:
        worker = world.workers[0]
        world.calls("a")
        for _ in range(4):
            worker.store.answers_too_late.add("claim")
            worker.takes().finishes()
            world.elapse()
        world.ends()


@protects("abandoned", breaks="a waits for nobody")
def test_a_claim_that_was_never_answered_is_not_waited_for(play: Play) -> None:
    """Its successor runs at once, though the lease that nobody holds is not over."""
    with play() as world:
        worker = world.workers[0]
        world.calls("a")
        worker.store.answers_too_late.add("claim")
        worker.takes().finishes()
        world.elapse(2)
        if worker.takes().until("effect", "publish").ahead == "publish":
            raise Broken("a waits for nobody")
        world.ends()


def test_an_abandoned_delivery_frees_no_lease_but_its_own() -> None:
    """Copies of one successor exclude each other, though they name the same delivery."""
    with World() as world:
        first, second, _ = world.workers
        world.calls("a")
        first.store.answers_too_late.add("claim")
        first.takes().finishes()
        world.elapse(2)
        first.takes().until("effect")
        world.restores(first)
        second.takes().until("publish")
        world.ends()


@protects("pubsafe", breaks="a is lost")
def test_callbacks_that_cannot_be_sent_end_no_job(play: Play) -> None:
    """A broker that is down after the record leaves the job done and the message where it was."""
    with play() as world:
        world.calls("a")
        with world.without("send"):
            world.workers[0].takes().finishes()
        world.ends()


@protects("spare", breaks="quarantined without its deaths")
def test_a_long_outage_ends_no_job(play: Play) -> None:
    """However often what hangs on a job cannot be sent, that is no death: it is sent in the end."""
    with play() as world:
        world.calls("a")
        with world.without("send"):
            for _ in range(6):
                world.elapse()
                world.workers[0].takes().finishes()
        world.ends()


@protects("atwork", breaks="S was overwritten by F|quarantined without its deaths")
def test_many_copies_at_once_are_no_deaths(play: Play) -> None:
    """Copies of a done job that are answered side by side do not quarantine it."""
    with play(workers=6) as world:
        for _ in range(6):
            world.calls("a", carries=False)
        world.workers[0].takes().finishes()
        for worker in world.workers[1:]:
            worker.takes().until("send", "bury", "publish")
        for worker in world.workers[1:]:
            worker.finishes()
        world.ends()


@protects("pubsafe", breaks="a is lost")
def test_a_successor_that_cannot_be_published_ends_no_job(play: Play) -> None:
    """A copy that must wait and cannot is given back to the broker."""
    with play() as world:
        first, second, _ = world.workers
        world.calls("a")
        first.takes().until("effect")
        world.restores(first)
        with world.without("publish"):
            second.takes().finishes()
        first.is_killed()
        world.ends()


def test_the_traces_notice_a_message_that_the_broker_lost() -> None:
    """A worker killed between taking a message and noting it loses it: kombu's, not ours."""
    with World() as world:
        world.calls("a", pays)
        world.broker.ready.clear()
        with pytest.raises(Broken, match="a is lost"):
            world.ends()
