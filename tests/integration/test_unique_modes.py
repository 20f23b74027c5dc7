"""The modes of unique tasks with real workers: the last call wins, and calls put runs off."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError

from reliable_tasks.testing import eventually
from tests.integration.apps.unique import debounced, keep_last
from tests.integration.uniting import TIMEOUT, Unique, answer


class TestKeepLast:
    """At most one runs and one waits, and the last arguments always run."""

    def test_change_while_it_runs(self, united: Unique, label: str) -> None:
        """It causes exactly one more run, afterwards, with the latest arguments."""
        first = keep_last.delay(label, 1, 1.0)
        united.began(label)

        second = keep_last.delay(label, 2)

        assert not second.duplicate
        assert [answer(first), answer(second)] == [1, 2]
        united.drained()
        assert united.versions(label) == [1, 2]
        united.one_at_a_time(label)

    def test_three_changes_while_it_runs(self, united: Unique, label: str) -> None:
        """They cause one more run; the calls that were replaced are revoked."""
        first = keep_last.delay(label, 1, 1.0)
        united.began(label)

        changes = [keep_last.delay(label, version) for version in (2, 3, 4)]
        again = keep_last.delay(label, 4)

        assert again.id == changes[-1].id
        assert [answer(first), answer(again)] == [1, 4]
        for replaced in changes[:-1]:
            with pytest.raises(TaskRevokedError):
                answer(replaced)
        united.drained()
        assert united.versions(label) == [1, 4]

    def test_same_arguments_while_it_runs(self, united: Unique, label: str) -> None:
        """An equal call is a change too: what it is about may have changed since the run began."""
        first = keep_last.delay(label, 1, 1.0)
        united.began(label)

        second = keep_last.delay(label, 1, 1.0)
        third = keep_last.delay(label, 1, 1.0)

        assert [second.duplicate, third.duplicate] == [False, True]
        assert second.id != first.id
        answer(third)
        united.drained()
        assert united.versions(label) == [1, 1]
        united.one_at_a_time(label)

    def test_waiting_in_the_queue(self, united: Unique, label: str) -> None:
        """Of calls that wait only the last runs."""
        results = [keep_last.apply_async((label, n), queue=label) for n in range(5)]

        united.read(label)

        assert answer(results[-1]) == 4
        united.drained(label)
        assert united.versions(label) == [4]

    def test_retry_of_an_older_call(self, united: Unique, label: str) -> None:
        """A retry gives way to a later call: what it would do is out of date."""
        first = keep_last.delay(label, 1, 0.0, 1)
        united.began(label)
        eventually(lambda: first.state == "RETRY", timeout=TIMEOUT)

        second = keep_last.delay(label, 2)

        assert answer(second) == 2
        with pytest.raises(TaskRevokedError):
            answer(first)
        united.drained()
        assert united.versions(label) == [2]

    def test_many_changes(self, united: Unique, label: str) -> None:
        """However many calls come, runs never overlap, and the last arguments run last."""
        for version in range(40):
            last = keep_last.delay(label, version, 0.3)
            time.sleep(0.02)

        assert answer(last) == 39
        united.drained()
        versions = united.versions(label)
        assert versions == sorted(versions)
        assert versions[-1] == 39
        assert len(versions) < 40
        united.one_at_a_time(label)

    def test_call_that_others_wait_for(self, united: Unique, label: str) -> None:
        """A call with a task id of its own always runs."""
        first = keep_last.delay(label, 1, 1.0)
        united.began(label)

        second = keep_last.apply_async((label, 2), task_id=f"own-{label}")
        third = keep_last.delay(label, 3)

        assert [answer(each) for each in (first, second, third)] == [1, 2, 3]


class TestDebounce:
    """The run comes a while after the last call."""

    def calls(self, label: str, versions: list[int], pause: float) -> list[Any]:
        results = []
        for version in versions:
            results.append(debounced.delay(label, version))
            time.sleep(pause)
        return results

    def effect(self, united: Unique, label: str) -> Any:
        return next(each for each in united.ledger.entries("effect") if each.job == label)

    def test_same_arguments(self, united: Unique, label: str) -> None:
        """Equal calls put the one message off; it runs once, after the last of them."""
        results = self.calls(label, [1, 1, 1], 0.5)
        last_call = time.time() - 0.5

        assert len({each.id for each in results}) == 1
        assert answer(results[0]) == 1
        united.drained()
        assert united.versions(label) == [1]
        assert 1.4 < self.effect(united, label).at - last_call < 6

    def test_other_arguments(self, united: Unique, label: str) -> None:
        """The run has the arguments of the last call."""
        results = self.calls(label, [1, 2, 3], 0.5)
        last_call = time.time() - 0.5

        assert answer(results[-1]) == 3
        united.drained()
        assert united.versions(label) == [3]
        assert self.effect(united, label).at - last_call > 1.4

    def test_limit(self, united: Unique, label: str) -> None:
        """Calls that never pause put a run off no longer than the limit."""
        began = time.time()
        calls = 0
        while not united.versions(label):
            debounced.delay(label, 1)
            calls += 1
            time.sleep(0.25)
            assert time.time() - began < TIMEOUT

        assert calls > 8
        assert 2.9 < self.effect(united, label).at - began < 6
