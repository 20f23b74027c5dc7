"""A unique job from its call to its end, with real workers, producers and servers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from kombu import Connection
from kombu.exceptions import OperationalError

from reliable_tasks import DuplicateJob, Quarantined, UniqueTask
from reliable_tasks.testing import eventually, valkey_server
from tests.integration.apps import unique
from tests.integration.apps.unique import (
    GRACE,
    autoretry_twice,
    bounded,
    kept,
    loud,
    poison,
    retry_twice,
    throttled,
    work,
)
from tests.integration.uniting import TIMEOUT, Unique, answer

pytestmark = pytest.mark.hooks


class TestDuplicates:
    """A call beside an equal job publishes nothing."""

    def test_queued(self, united: Unique, label: str) -> None:
        """Ten calls while the job is queued are its duplicates, and it runs once."""
        first = work.apply_async((label,), queue=label)

        others = [work.apply_async((label,), queue=label) for _ in range(10)]

        assert not first.duplicate
        assert all(each.duplicate and each.id == first.id for each in others)
        united.read(label)
        assert {answer(each) for each in others} == {first.id}
        united.drained(label)
        assert united.ledger.counts()[label] == 1

    def test_nobody_listens_for_what_is_not_published(self, united: Unique, label: str) -> None:
        """Celery subscribes to each result that it publishes a message for, and to no other."""
        first = work.apply_async((label,), queue=label)
        listened_for = work.backend.result_consumer.subscribed_to
        before = set(listened_for)

        for _ in range(10):
            assert work.apply_async((label,), queue=label).duplicate

        assert any(first.id in str(each) for each in before)
        assert listened_for <= before

    def test_running(self, united: Unique, label: str) -> None:
        """A call while the job runs gets its result; one after its end is a job of its own."""
        first = work.delay(label, 1.0)
        united.began(label)

        second = work.delay(label, 1.0)

        assert second.duplicate
        assert answer(second) == first.id
        third = work.delay(label, 1.0)
        assert not third.duplicate
        assert answer(third) == third.id
        united.one_at_a_time(label)

    def test_before_its_time(self, united: Unique, label: str) -> None:
        """A job that waits for its ETA has its place; it runs when it is due, once."""
        called = time.time()
        first = work.apply_async((label,), countdown=2)

        assert work.delay(label).duplicate
        assert answer(first) == first.id
        [entry] = [each for each in united.ledger.entries("effect") if each.job == label]
        assert entry.at >= called + 1.9
        assert not work.delay(label).duplicate

    @pytest.mark.parametrize("task", [retry_twice, autoretry_twice])
    def test_retrying(self, united: Unique, label: str, task: Any) -> None:
        """A retry blocks equal calls, and not itself."""
        first = task.delay(label)
        united.began(label)
        seen = []
        while not first.ready():
            seen.append(task.delay(label).id)
            time.sleep(0.05)

        assert answer(first) == 3
        assert set(seen[:-2]) == {first.id}  # the last may have come after the end
        eventually(lambda: united.ledger.counts()[label] >= 1)

    def test_many_producers(self, united: Unique, label: str) -> None:
        """Of calls that race, one publishes."""
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _: work.apply_async((label,), queue=label), range(40)))

        assert len({each.id for each in results}) == 1
        assert [each.duplicate for each in results].count(False) == 1
        united.read(label)
        united.ran(label)
        united.drained(label)
        assert united.ledger.counts()[label] == 1

    def test_unique_for(self, united: Unique, label: str) -> None:
        """After success an equal call is a duplicate until its time is over."""
        first = kept.delay(label)
        answer(first)

        assert kept.delay(label).id == first.id
        eventually(lambda: not kept.delay(label).duplicate, timeout=TIMEOUT)
        united.ran(label, 2)

    def test_throttle(self, united: Unique, label: str) -> None:
        """After the first call the others of the window are duplicates, though the job is done."""
        first = throttled.delay(label)
        answer(first)
        united.drained()

        assert throttled.delay(label).id == first.id
        eventually(lambda: not throttled.delay(label).duplicate, timeout=TIMEOUT)
        united.ran(label, 2)

    def test_raise(self, united: Unique, label: str) -> None:
        """A duplicate raises where it is told to."""
        first = loud.apply_async((label,), queue=label)

        with pytest.raises(DuplicateJob) as raised:
            loud.delay(label)

        assert raised.value.job == first.id


class TestPublishing:
    """Producers that die or fail."""

    def test_dies_before_publishing(self, united: Unique, label: str) -> None:
        """What was reserved and never published blocks no longer than the grace."""
        assert united.publish_and_die(label, "before publish") == -9
        assert work.delay(label).duplicate
        began = time.monotonic()

        eventually(lambda: not work.delay(label).duplicate, timeout=TIMEOUT)

        assert time.monotonic() - began < GRACE + 1
        united.ran(label)

    def test_dies_before_confirming(self, united: Unique, label: str) -> None:
        """What was published runs, and the key is free afterwards."""
        assert united.publish_and_die(label, "before confirm") == -9
        united.ran(label)
        united.drained()

        assert not work.delay(label).duplicate
        united.ran(label, 2)
        united.one_at_a_time(label)

    def test_two_in_the_queue(self, united: Unique, label: str) -> None:
        """If a message outlives its reservation, one run answers it and the later call."""
        united.publish_and_die(label, "before confirm", queue=label)
        result = eventually(lambda: fresh(work, label, queue=label), timeout=TIMEOUT)

        united.read(label)

        answered = answer(result)
        united.drained(label)
        [ran] = [each for each in united.ledger.entries("effect") if each.job == label]
        assert answered == ran.details["id"]

    def test_publish_that_fails(self, united: Unique, label: str) -> None:
        """The error is the caller's, and the key is free at once."""
        with Connection("redis://localhost:1/0") as nowhere, pytest.raises(OperationalError):
            work.apply_async((label,), connection=nowhere, retry=False)

        result = work.delay(label)

        assert not result.duplicate
        assert answer(result) == result.id

    def test_store_is_down(self, united: Unique, label: str) -> None:
        """A call without a store is published, within the store's time-outs, and says so."""

        def body() -> None:
            """Never run."""

        with valkey_server() as store:
            declare = unique.app.task(
                base=UniqueTask, shared=False, lazy=False, store_url=store.url
            )
            task = declare(body)
            task.apply_async(queue=label)
            assert task.apply_async(queue=label).duplicate
            store.kill()
            began = time.monotonic()

            assert not task.apply_async(queue=label).duplicate

            assert time.monotonic() - began < 10


class TestLeavingTheQueue:
    """A job that leaves the queue without running frees its key."""

    def test_revoked_by_its_result(self, united: Unique, label: str) -> None:
        """The next call is published at once; what was revoked never runs."""
        first = work.apply_async((label,), countdown=2)
        first.revoke()

        second = work.delay(label)

        assert not second.duplicate
        assert answer(second) == second.id
        with pytest.raises(TaskRevokedError):
            answer(first)
        assert united.ledger.counts()[label] == 1

    def test_revoked_by_its_id(self, united: Unique, label: str) -> None:
        """A worker that discards the message frees the key."""
        first = work.apply_async((label,), countdown=1.5)
        unique.app.control.revoke(first.id)
        assert work.delay(label).duplicate

        with pytest.raises(TaskRevokedError):
            answer(first)

        result = eventually(lambda: fresh(work, label), timeout=TIMEOUT)
        assert answer(result) == result.id
        assert united.ledger.counts()[label] == 1

    def test_expired(self, united: Unique, label: str) -> None:
        """A message that expires in the queue blocks until then, whoever reads the queue."""
        first = work.apply_async((label,), queue=label, expires=2)
        assert work.delay(label).duplicate

        result = eventually(lambda: fresh(work, label), timeout=TIMEOUT)
        assert answer(result) == result.id
        united.read(label)
        with pytest.raises(TaskRevokedError):
            answer(first)
        united.drained(label)
        assert united.ledger.counts()[label] == 1

    def test_purged(self, united: Unique, label: str) -> None:
        """What is purged, which nobody hears of, blocks for reserved_for."""
        bounded.apply_async((label,), queue=label)
        client = united.database.client()
        client.delete(label)
        client.close()
        assert bounded.delay(label).duplicate

        eventually(lambda: not bounded.delay(label).duplicate, timeout=TIMEOUT)
        united.ran(label)


def fresh(task: Any, *args: Any, **options: Any) -> Any:
    """Return the result of a call that is no duplicate, else nothing."""
    result = task.apply_async(args, **options)
    return None if result.duplicate else result


class TestExecution:
    """The execution is the authority."""

    def test_published_around_the_class(self, united: Unique, label: str) -> None:
        """Messages of send_task wait for the job that runs: never two at the same time."""
        first = work.delay(label, 1.0)
        united.began(label)
        others = [unique.app.send_task(work.name, (label, 1.0)) for _ in range(2)]

        assert [answer(each) for each in (first, *others)] == [each.id for each in (first, *others)]
        united.one_at_a_time(label)

    def test_published_around_the_class_while_kept(self, united: Unique, label: str) -> None:
        """Messages of send_task within unique_for get the result of the run."""
        kept.delay(label, 0.5)
        others = [unique.app.send_task(kept.name, (label, 0.5)) for _ in range(2)]

        assert [answer(each) for each in others] == [label, label]
        assert united.ledger.counts()[label] == 1

    def test_known_id_shares_the_run(self, united: Unique, label: str) -> None:
        """A call with an id of its own is published, and has the result of the run beside it."""
        first = work.delay(label, 1.0)
        united.began(label)

        second = work.apply_async((label, 1.0), task_id=f"own-{label}")

        assert not second.duplicate
        assert answer(second) == first.id
        assert united.ledger.counts()[label] == 1

    def test_quarantined(self, united: Unique, label: str) -> None:
        """A key that is quarantined suppresses nothing: each call learns of it."""
        with pytest.raises(Quarantined):
            answer(poison.delay(label))

        results = [poison.delay(label), poison.delay(label)]

        assert [each.duplicate for each in results] == [False, False]
        for each in results:
            with pytest.raises(Quarantined):
                answer(each)
        assert united.ledger.counts("begun")[label] == 1
