"""Unique tasks in chains, groups, chords and callbacks, beside equal jobs: nothing hangs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import chain, chord, group
from celery.result import GroupResult

from reliable_tasks.testing import Server
from tests.integration.apps import unique
from tests.integration.apps.unique import collect, plain, rpc_work, work
from tests.integration.uniting import TIMEOUT, Unique, connected, lent

Build = Callable[[Any, str], Any]
"""Makes a flow of one unique signature; the labels of its other steps begin with a text."""


def other(sig: Any, label: str, name: str) -> Any:
    return sig.app.tasks[plain.name].si(label=f"{label}.{name}")


def alone_in_chain(sig: Any, label: str) -> Any:
    return chain(sig)


def first_in_chain(sig: Any, label: str) -> Any:
    return chain(sig, other(sig, label, "a"), other(sig, label, "b"))


def middle_of_chain(sig: Any, label: str) -> Any:
    return chain(other(sig, label, "a"), sig, other(sig, label, "b"))


def last_in_chain(sig: Any, label: str) -> Any:
    return chain(other(sig, label, "a"), other(sig, label, "b"), sig)


def in_group(sig: Any, label: str) -> Any:
    return group(other(sig, label, "a"), sig, other(sig, label, "b"))


def twice_in_group(sig: Any, label: str) -> Any:
    return group(sig, other(sig, label, "a"), sig.clone())


def with_link(sig: Any, label: str) -> Any:
    sig.link(other(sig, label, "a"))
    return sig


def with_link_error(sig: Any, label: str) -> Any:
    sig.link_error(other(sig, label, "never"))
    return sig


def as_link(sig: Any, label: str) -> Any:
    before = other(sig, label, "a")
    before.link(sig)
    return before


def in_chord_header(sig: Any, label: str) -> Any:
    return chord([other(sig, label, "a"), sig, other(sig, label, "b")], collect.s())


def twice_in_chord_header(sig: Any, label: str) -> Any:
    return chord([sig, sig.clone(), other(sig, label, "a")], collect.s())


def all_of_chord_header(sig: Any, label: str) -> Any:
    return chord([sig.clone() for _ in range(4)], collect.s())


def chord_body(sig: Any, label: str) -> Any:
    return chord([other(sig, label, "a"), other(sig, label, "b")], sig)


def chord_of_chains(sig: Any, label: str) -> Any:
    members = [chain(sig, other(sig, label, "a")), chain(other(sig, label, "b"), sig.clone())]
    return chord(members, collect.s())


def group_in_chain(sig: Any, label: str) -> Any:
    return chain(other(sig, label, "a"), group(sig, other(sig, label, "b")), collect.s())


def chain_in_group(sig: Any, label: str) -> Any:
    return group(chain(other(sig, label, "a"), sig), chain(sig.clone(), other(sig, label, "b")))


def chain_after_chord(sig: Any, label: str) -> Any:
    return chain(group(sig, other(sig, label, "a")), collect.s(), sig.clone())


WITHOUT_CHORDS: list[Build] = [
    alone_in_chain,
    first_in_chain,
    middle_of_chain,
    last_in_chain,
    in_group,
    twice_in_group,
    chain_in_group,
    with_link,
    with_link_error,
    as_link,
]
CHORDS: list[Build] = [
    in_chord_header,
    twice_in_chord_header,
    all_of_chord_header,
    chord_body,
    chord_of_chains,
    group_in_chain,
    chain_after_chord,
]
SECONDS = 1.0


def finish(result: Any) -> None:
    """Wait for a flow's result and for those of its members."""
    if isinstance(result, GroupResult):
        for each in result.results:
            each.get(timeout=TIMEOUT)
    else:
        result.get(timeout=TIMEOUT)


def end_of(united: Unique, label: str, *queues: str) -> None:
    """All messages are gone, every other step of the flow has run, and equal jobs one by one."""
    united.drained(*queues)
    counts = united.ledger.counts()
    others = {name for name in counts if name.startswith(f"{label}.")}
    assert all(counts[name] == 1 for name in others)
    assert f"{label}.never" not in others
    united.one_at_a_time(label)


SHARING = {
    alone_in_chain,
    first_in_chain,
    in_group,
    twice_in_group,
    with_link,
    with_link_error,
    in_chord_header,
    twice_in_chord_header,
    all_of_chord_header,
}
"""Flows whose unique tasks are all published when the flow is."""


class Flows:
    """What holds for every flow on every result backend."""

    task: Any
    keeps_results = True

    @pytest.mark.hooks
    def test_beside_a_running_job(self, united: Unique, label: str, build: Build) -> None:
        """The flow ends while an equal job runs; what was called before its end shares its run."""
        first = self.task.delay(label, SECONDS)
        united.began(label)

        result = build(self.task.si(label, SECONDS), label).apply_async()

        finish(result)
        assert first.get(timeout=TIMEOUT) == first.id
        end_of(united, label)
        if build in SHARING:
            assert united.ledger.counts()[label] == 1

    def test_beside_a_queued_job(self, united: Unique, label: str, build: Build) -> None:
        """The flow ends while an equal job waits in a queue, and that job ends too."""
        seconds = 0.6 if build in SHARING else 0.2  # which publishing the flow may take
        first = self.task.apply_async((label, seconds), queue=label)

        result = build(self.task.si(label, seconds), label).apply_async()

        finish(result)
        assert not first.ready()
        united.read(label)
        first.get(timeout=TIMEOUT)
        end_of(united, label, label)
        if build in SHARING:
            assert united.ledger.counts()[label] == 1

    def test_call_during_the_flow(self, united: Unique, label: str, build: Build) -> None:
        """A plain call during the flow's job is its duplicate, and can have its result."""
        result = build(self.task.si(label, SECONDS), label).apply_async()
        united.began(label)

        call = self.task.delay(label, SECONDS)

        assert call.duplicate
        finish(result)
        if self.keeps_results:
            assert call.get(timeout=TIMEOUT)
        end_of(united, label)


@pytest.mark.parametrize("build", [*WITHOUT_CHORDS, *CHORDS], ids=lambda build: build.__name__)
class TestOnRedis(Flows):
    """Results in Redis."""

    task = work


@pytest.mark.parametrize("build", WITHOUT_CHORDS, ids=lambda build: build.__name__)
class TestOnRpc(Flows):
    """Results as messages to the process that called."""

    task = rpc_work
    keeps_results = False  # each is a message, which one reader takes

    @pytest.fixture
    def united(
        self,
        shared_rpc: Unique,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[Unique]:
        yield from lent(shared_rpc, request, monkeypatch)


@pytest.fixture(scope="module")
def shared_rpc(valkey: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unique]:
    """A worker whose results are messages."""
    directory = tmp_path_factory.mktemp("rpc")
    with connected(valkey, directory, unique.rpc_app, backend="rpc://") as united:
        yield united
