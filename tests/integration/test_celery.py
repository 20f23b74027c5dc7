"""What each feature of Celery does with a guarded task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.exceptions import TimeLimitExceeded
from celery.result import AsyncResult
from celery.utils import uuid

from reliable_tasks.testing import WorkerProcess, eventually, valkey_server
from tests.integration.apps import features
from tests.integration.flowing import APP, TIMEOUT, Bench

pytestmark = pytest.mark.hooks


@pytest.fixture
def label() -> str:
    """A job's name in the ledger."""
    return uuid()[:13]


def answer(result: AsyncResult) -> Any:
    return result.get(timeout=TIMEOUT, interval=0.05)


COPIES = pytest.mark.parametrize("copies", ["copy", "late"])


class TestRetry:
    """A retry is the same job, on its way."""

    @COPIES
    @pytest.mark.parametrize("task", [features.retry_twice, features.autoretry_twice])
    def test_third_attempt_succeeds(self, bench: Bench, label: str, task: Any, copies: str) -> None:
        """Copies of the first message do not run beside the retries; there are three attempts."""
        bench.faults.plan("copies", label, copies, 2)

        assert answer(task.delay(label=label)) == 3

        bench.drained()
        bench.ran_once(label)
        assert bench.ledger.counts("begun")[label] == 3

    @COPIES
    def test_retry_without_an_exception(self, bench: Bench, label: str, copies: str) -> None:
        """With throw=False the retry is the job: what the body returns beside it is no result."""
        bench.faults.plan("copies", label, copies, 2)

        assert answer(features.retry_quietly.delay(label=label)) == "the result"

        bench.drained()
        bench.ran_once(label)
        assert bench.ledger.counts("begun")[label] == 2

    def test_too_many_retries_fail(self, bench: Bench, label: str) -> None:
        """After the last retry the job fails with the task's own error."""
        with pytest.raises(ValueError, match=label):
            answer(features.retry_too_often.delay(label=label))

        bench.drained()
        assert bench.ledger.counts("begun")[label] == 2

    @pytest.mark.parametrize("task", [features.retry_twice, features.autoretry_twice])
    def test_retry_that_cannot_be_published(self, bench: Bench, label: str, task: Any) -> None:
        """A retry that the broker refuses gives the delivery back; the job goes on from there."""
        bench.faults.plan("publish", label, "fail", 2)

        assert answer(task.delay(label=label)) == 3

        bench.drained()
        bench.ran_once(label)
        assert bench.ledger.counts("begun")[label] == 5


class TestEndsOfItsOwn:
    """Ignore and Reject are the task's own word; nothing is recorded for the job."""

    def test_ignore(self, bench: Bench, label: str) -> None:
        """An ignored job is acknowledged without a result, and the same message may run again."""
        job = features.ignore.delay(label=label).id
        bench.began(label)
        bench.drained()
        assert bench.state(job) == "PENDING"

        features.ignore.apply_async(kwargs={"label": label}, task_id=job)

        bench.began(label, 2)
        bench.drained()

    def test_reject_and_requeue(self, bench: Bench, label: str) -> None:
        """A rejected delivery that goes back to the queue runs again, at once."""
        result = features.reject_once.delay(label=label, requeue=True)

        assert answer(result) == "later"
        bench.drained()
        bench.ran_once(label)
        assert bench.ledger.counts("begun")[label] == 2

    def test_reject_for_good(self, bench: Bench, label: str) -> None:
        """A delivery that is rejected for good is gone, as Celery says."""
        features.reject_once.delay(label=label, requeue=False)

        bench.began(label)
        bench.drained()
        assert bench.ledger.counts("begun")[label] == 1


class TestLimits:
    """Time limits end a job once."""

    def test_soft_limit_reaches_the_body(self, bench: Bench, label: str) -> None:
        """A task that catches its soft time limit ends as it likes."""
        bench.faults.plan("copies", label, "copy", 1)

        assert answer(features.stop_softly.delay(label=label)) == "stopped"

        bench.drained()
        bench.ran_once(label)

    def test_hard_limit_ends_the_job(self, bench: Bench, label: str) -> None:
        """Neither a copy of the message nor the lease keeps the key after the hard time limit."""
        arguments = {"label": label, "order": label}
        bench.faults.plan("copies", label, "copy", 1)
        with pytest.raises(TimeLimitExceeded):
            answer(features.hang.apply_async(kwargs=arguments))

        another = features.hang.delay(**{**arguments, "seconds": 0, "label": f"{label}.2"})

        assert answer(another) == f"{label}.2"
        bench.drained()
        assert bench.ledger.counts("begun")[label] == 1


class TestRevoke:
    """A revoked job is over, and its key is free."""

    def test_before_it_runs(self, bench: Bench, label: str) -> None:
        """A revoked countdown never runs; a new request of the key does."""
        arguments = {"label": label, "order": label}
        result = features.work.apply_async(kwargs=arguments, countdown=2)
        features.app.control.revoke(result.id)

        another = features.work.delay(label=f"{label}.2", order=label)

        assert answer(another) == f"{label}.2"
        bench.drained()
        assert bench.state(result.id) == "REVOKED"
        assert bench.ledger.counts("begun")[label] == 0

    def test_while_it_runs(self, bench: Bench, label: str) -> None:
        """A job that is terminated is not run again by a copy, and counts as no crash."""
        arguments = {"label": label, "order": label, "seconds": 60}
        bench.faults.plan("copies", label, "late", 1)
        result = features.work.apply_async(kwargs=arguments)
        bench.began(label)
        features.app.control.revoke(result.id, terminate=True, signal="SIGKILL")
        eventually(lambda: bench.state(result.id) == "REVOKED", timeout=TIMEOUT)

        another = features.work.delay(label=f"{label}.2", order=label)

        assert answer(another) == f"{label}.2"
        bench.drained()
        assert bench.ledger.counts("begun")[label] == 1
        [entry] = [entry for entry in bench.ledger.entries("effect") if label in entry.job]
        assert entry.details == {"crashes": 0}


StartOwn = Callable[..., WorkerProcess]


@pytest.fixture
def own(bench: Bench, label: str) -> Iterator[StartOwn]:
    """Start workers of the test's own queue."""
    bench.queues.append(label)

    def start(**options: Any) -> WorkerProcess:
        env = {**bench.env, **options.pop("env", {})}
        process = WorkerProcess(APP, queues=[label], env=env, **options)
        bench.others.append(process)
        return process.start().wait_ready()

    yield start
    bench.queues.remove(label)
    for process in bench.others:
        print(process.log[-10_000:])
        process.close()
    bench.others.clear()


class TestPools:
    """Every pool of Celery."""

    @pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
    def test_renewal_in_every_pool(
        self, bench: Bench, own: StartOwn, label: str, pool: str
    ) -> None:
        """A job three times as long as its lease runs once while a copy waits for it."""
        own(pool=pool, concurrency=2)
        bench.faults.plan("copies", label, "copy", 1)

        result = features.outlast_the_lease.apply_async(kwargs={"label": label}, queue=label)

        assert answer(result) == label
        bench.drained()
        assert bench.ledger.counts("begun")[label] == 1
        bench.ran_once(label)


class TestWorkers:
    """How workers and their processes end."""

    def test_one_task_per_child(self, bench: Bench, own: StartOwn, label: str) -> None:
        """With a new child for each task every job still runs once and answers."""
        own(concurrency=2, arguments=["--max-tasks-per-child=1"])
        labels = [f"{label}.{number}" for number in range(6)]
        for each in labels:
            bench.faults.plan("copies", each, "copy", 1)

        results = [
            features.work.apply_async(kwargs={"label": each, "order": each}, queue=label)
            for each in labels
        ]

        assert [answer(result) for result in results] == labels
        bench.drained()
        bench.ran_once(*labels)

    @pytest.mark.parametrize(
        ("task", "arguments"),
        [(features.end_near_the_limit, []), (features.work, ["--soft-time-limit=3"])],
        ids=["task", "worker"],
    )
    def test_soft_limit_waits_for_the_store(
        self, bench: Bench, own: StartOwn, label: str, task: Any, arguments: list[str]
    ) -> None:
        """A soft limit that comes while the outcome is recorded is dropped, whoever set it."""
        with valkey_server() as store:
            own(concurrency=1, arguments=arguments, env={"FLOWS_STORE": store.url})
            call = {"label": label, "order": label, "seconds": 1}
            result = task.apply_async(kwargs=call, queue=label)
            bench.began(label)
            store.pause()
            time.sleep(3.5)  # the body ends after one second, the limit comes after three
            store.resume()

            assert answer(result) == label
            bench.drained()
            bench.ran_once(label)

    @pytest.mark.parametrize("look_away", ["0", "0.7"], ids=["heard of", "unheard of"])
    def test_warm_shutdown(self, bench: Bench, own: StartOwn, label: str, look_away: str) -> None:
        """A warm shutdown waits for the job, and for one of which nobody knows yet that it runs."""
        worker = own(concurrency=1, env={"LOOK_AWAY": look_away})
        arguments = {"label": label, "order": label, "seconds": 1.5}
        result = features.work.apply_async(kwargs=arguments, queue=label)
        bench.began(label)

        assert worker.terminate(timeout=25) == 0  # a process that is not heard waits for 30 s

        assert answer(result) == label
        bench.drained()
        bench.ran_once(label)

    def test_cold_shutdown(self, bench: Bench, own: StartOwn, label: str) -> None:
        """A job that a cold shutdown stopped runs again elsewhere, and no crash is counted."""
        worker = own(concurrency=1)
        arguments = {"label": label, "order": label, "seconds": 4}
        result = features.work.apply_async(kwargs=arguments, queue=label)
        bench.began(label)
        worker.quit()

        own(concurrency=1)

        assert answer(result) == label
        bench.drained()
        bench.ran_once(label)
        assert bench.ledger.entries("effect")[-1].details == {"crashes": 0}

    def test_soft_shutdown(self, bench: Bench, own: StartOwn, label: str) -> None:
        """A soft shutdown gives the job time to end."""
        worker = own(concurrency=1, env={"SOFT_SHUTDOWN": "4"})
        arguments = {"label": label, "order": label, "seconds": 1.5}
        result = features.work.apply_async(kwargs=arguments, queue=label)
        bench.began(label)

        worker.quit()

        assert answer(result) == label
        bench.drained()
        bench.ran_once(label)


class TestWaysToWriteATask:
    """However a task is written, it is guarded."""

    def test_self_calls(self, bench: Bench, label: str) -> None:
        """A body that calls its own task is one execution, with one token."""
        bench.faults.plan("copies", label, "copy", 1)

        tokens = answer(features.call_itself.delay(label=label))

        assert len(tokens) == 4
        assert len(set(tokens)) == 1
        bench.drained()
        bench.ran_once(label)

    def test_pydantic(self, bench: Bench, label: str) -> None:
        """A model and its mapping are one argument: the second call gets the first one's result."""
        order = features.Order(number=label)
        sends_models = hasattr(features.pay, "_dump_pydantic_arguments")  # since Celery 5.7
        first = features.pay.delay(order if sends_models else order.model_dump(), label=label)
        second = features.pay.delay({"number": label}, label=label)

        assert answer(first) == answer(second) == {"order": {"number": label}}
        bench.drained()
        bench.ran_once(label)

    def test_untyped_arguments(self, bench: Bench, label: str) -> None:
        """With typing=False wrong arguments are found by the worker, and fail the job."""
        result = features.untyped.delay(label, "wrong")

        with pytest.raises(TypeError):
            answer(result)
        bench.drained()

    @COPIES
    def test_ignored_result(self, bench: Bench, label: str, copies: str) -> None:
        """A task whose result is ignored runs once, and the result backend knows nothing of it."""
        bench.faults.plan("copies", label, copies, 2)

        result = features.forgetful.delay(label=label)

        bench.each_once(label)
        bench.drained()
        bench.ran_once(label)
        assert bench.state(result.id) == "PENDING"

    def test_mixins(self, bench: Bench, label: str) -> None:
        """What stands before the guard sees each delivery; what stands behind it, each run."""
        bench.faults.plan("copies", label, "late", 2)

        assert answer(features.mixed.delay(label=label)) == 1

        bench.drained()
        bench.ran_once(label)
        seen = [entry.details for entry in bench.ledger.entries("begun") if entry.job == label]
        assert seen.count({"by": "before"}) == 3
        assert seen.count({"by": "after"}) == 1

    @pytest.mark.parametrize("task", [features.by_class, features.inherited])
    def test_class_with_run(self, bench: Bench, label: str, task: Any) -> None:
        """A task class is guarded under its key, and so is one that inherits from it."""
        results = [task.delay(label=label, order=label) for _ in range(2)]

        assert [answer(result) for result in results] == [f"{label} 1"] * 2
        bench.drained()
        bench.ran_once(label)


class TestReplace:
    """A task that is replaced goes on as its replacement."""

    @pytest.mark.parametrize("copies", ["", "copy", "late"])
    @pytest.mark.parametrize(
        ("how", "value"),
        [
            ("by itself", "itself()"),
            ("by itself after a retry", "itself()"),
            ("by another", "label"),
            ("by a chain", "label(a)"),
            ("by a chain that ends in itself", "itself(a)"),
            ("by a chord with itself", "itself(['a'])"),
            ("by a group", ["label"]),
        ],
    )
    def test_replacement_runs_once(
        self, bench: Bench, label: str, how: str, value: Any, copies: str
    ) -> None:
        """Whatever replaces a task, it runs once under the task's id and answers for it."""
        if copies:
            bench.faults.plan("copies", label, copies, 1)

        result = features.replace.delay(label=label, how=how)

        answered = answer(result)
        assert str(answered).replace(label, "label") == str(value)
        bench.drained()
        bench.ran_once(label)
