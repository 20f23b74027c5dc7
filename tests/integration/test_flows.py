"""Chains, groups, chords and callbacks, with copies and faults at every position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError
from celery.utils import uuid

from tests.integration.apps import flows
from tests.integration.flowing import TIMEOUT, Bench

pytestmark = pytest.mark.hooks


@dataclass
class Flow:
    """A published flow: its result, and what each of its steps is called."""

    run: str
    steps: list[str] = field(default_factory=list)
    result: Any = None

    def step(self, name: str, task: Any = flows.step) -> Any:
        """Return the signature of a step."""
        self.steps.append(self.label(name))
        return task.s(label=self.label(name))

    def label(self, name: str) -> str:
        """Return the name of a step in the ledger."""
        return f"{self.run}.{name}"


Build = Callable[[Flow], Any]


def linked(flow: Flow) -> Any:
    signature = flow.step("a")
    signature.link(flow.step("b"))
    return signature


def chained(flow: Flow) -> Any:
    return chain(flow.step("a"), flow.step("b"), flow.step("c"))


def grouped(flow: Flow) -> Any:
    return group(flow.step("a"), flow.step("b"))


def chorded(flow: Flow) -> Any:
    return chord([flow.step("a"), flow.step("b")], flow.step("c"))


def chord_of_chains(flow: Flow) -> Any:
    members = [chain(flow.step("a"), flow.step("b")), chain(flow.step("c"), flow.step("d"))]
    return chord(members, flow.step("e"))


def group_in_chain(flow: Flow) -> Any:
    return chain(flow.step("a"), group(flow.step("b"), flow.step("c")), flow.step("d"))


def chain_after_chord(flow: Flow) -> Any:
    return chain(chord([flow.step("a"), flow.step("b")], flow.step("c")), flow.step("d"))


@dataclass(frozen=True)
class Expected:
    """What a flow answers, which steps carry something, and which are the bodies of chords."""

    result: Any
    carrying: str
    bodies: str = ""


FLOWS: dict[Build, Expected] = {
    linked: Expected("a", "a"),
    chained: Expected("c(b(a))", "ab"),
    grouped: Expected(["a", "b"], ""),
    chorded: Expected("c(a,b)", "ab", "c"),
    chord_of_chains: Expected("e(b(a),d(c))", "abcd", "e"),
    group_in_chain: Expected("d(b(a),c(a))", "abc", "d"),
    chain_after_chord: Expected("d(c(a,b))", "abc", "c"),
}


Fault = tuple[str, str, str, int]
"""Point, step, action, times."""


def begin(bench: Bench, build: Build, *plan: Fault) -> Flow:
    """Plan faults, then publish the flow."""
    flow = Flow(uuid()[:13])
    signature = build(flow)
    for point, step, action, times in plan:
        bench.faults.plan(point, flow.label(step), action, times)
    flow.result = signature.apply_async()
    return flow


def finish(bench: Bench, flow: Flow) -> Any:
    """Wait for the result, and for every step to have run once."""
    value = flow.result.get(timeout=TIMEOUT, interval=0.05)
    bench.each_once(*flow.steps)
    return value


def run_all(bench: Bench, plans: list[tuple[Build, list[Fault]]]) -> None:
    """Run flows side by side; each ends with its result, each step has run once, all is over."""
    begun = [(build, plan, begin(bench, build, *plan)) for build, plan in plans]
    for build, plan, flow in begun:
        assert finish(bench, flow) == FLOWS[build].result, (build.__name__, plan)
    bench.drained()
    for _, _, flow in begun:
        bench.ran_once(*flow.steps)
    assert bench.faults.left() == []


def at_each_carrier(*faults: tuple[str, str, int]) -> list[tuple[Build, list[Fault]]]:
    """Plan one fault per flow, at each step that carries something; the *faults* take turns."""
    carriers = [(build, name) for build, expected in FLOWS.items() for name in expected.carrying]
    return [
        (build, [(point, name, action, times)])
        for (build, name), (point, action, times) in zip(carriers, cycle(faults), strict=False)
    ]


def steps_of(build: Build) -> list[str]:
    """Return the steps of a flow."""
    flow = Flow("any")
    build(flow)
    return flow.steps


class TestCopies:
    """Copies of every message of a flow."""

    @pytest.mark.parametrize("action", ["copy", "late"])
    def test_copies_of_every_message(self, bench: Bench, action: str) -> None:
        """However often a message of a flow comes, each step runs once and the result arrives."""
        names = {build: [label.rpartition(".")[2] for label in steps_of(build)] for build in FLOWS}
        run_all(bench, [
            (build, [("copies", name, action, 2) for name in names[build]]) for build in FLOWS
        ])  # fmt: skip


class TestDeaths:
    """Processes that die when the outcome is recorded."""

    POINTS = ("record", "result", "sent")

    def test_process_killed_after_the_record(self, bench: Bench) -> None:
        """Killed between the record and the acknowledgement, a copy sends what is unsent."""
        run_all(bench, at_each_carrier(*((point, "kill", 1) for point in self.POINTS)))

    @pytest.mark.chaos
    @pytest.mark.parametrize("point", POINTS)
    def test_process_killed_everywhere(self, bench: Bench, point: str) -> None:
        """The same with each step at each point."""
        run_all(bench, at_each_carrier((point, "kill", 1)))

    def test_completer_killed_before_the_body(self, bench: Bench) -> None:
        """A member that died with the backend's claim on its chord is looked at a second time."""
        run_all(bench, [
            (build, [("publish", body, "kill", 1)])
            for build, expected in FLOWS.items()
            for body in expected.bodies
        ])  # fmt: skip


class TestOutages:
    """A broker or a result backend that fails when the outcome is recorded."""

    FAULTS = tuple((point, "fail", times) for point in ("record", "result") for times in (1, 3))

    def test_broker_or_backend_fails_after_the_record(self, bench: Bench) -> None:
        """What fails to be sent is tried again, in place or by a copy: the body is not."""
        run_all(bench, at_each_carrier(*self.FAULTS))

    @pytest.mark.chaos
    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[0]}-{fault[2]}")
    def test_broker_or_backend_fails_everywhere(
        self, bench: Bench, fault: tuple[str, str, int]
    ) -> None:
        """The same with each step and each fault."""
        run_all(bench, at_each_carrier(fault))


class TestFailure:
    """What hangs on a failure is sent once."""

    @pytest.mark.parametrize(
        "fault",
        [
            ("copies", "a", "copy", 2),
            ("copies", "a", "late", 2),
            ("copies", "b", "copy", 2),
            ("record", "a", "kill", 1),
            ("result", "a", "kill", 1),
            ("sent", "a", "kill", 1),
            ("record", "a", "fail", 1),
            ("record", "a", "fail", 3),
        ],
        ids=lambda fault: "-".join(map(str, fault)),
    )
    def test_error_callback(self, bench: Bench, fault: Fault) -> None:
        """A published error callback runs once, and the result is the task's own error."""

        def failing(flow: Flow) -> Any:
            signature = flow.step("a", flows.fail)
            signature.link_error(flow.step("b", flows.note))
            return signature

        flow = begin(bench, failing, fault)

        with pytest.raises(KeyError):
            flow.result.get(timeout=TIMEOUT)
        bench.each_once(*flow.steps)
        bench.drained()
        bench.ran_once(*flow.steps)
        assert bench.faults.left() == []

    @pytest.mark.parametrize("action", ["copy", "late"])
    def test_failed_member(self, bench: Bench, action: str) -> None:
        """A member that fails ends its chord, whose body never runs, however often it comes."""

        def failing(flow: Flow) -> Any:
            return chord([flow.step("a"), flow.step("b", flows.fail)], flow.step("c"))

        flow = begin(bench, failing, *(("copies", name, action, 2) for name in "ab"))

        with pytest.raises((KeyError, ChordError)):
            flow.result.get(timeout=TIMEOUT)
        bench.drained()
        bench.ran_once(flow.label("a"), flow.label("b"))
        assert bench.ledger.counts()[flow.label("c")] == 0

    @pytest.mark.parametrize("action", ["copy", "late"])
    def test_failed_link(self, bench: Bench, action: str) -> None:
        """A link that fails ends its chain, also for who waits for the last."""

        def failing(flow: Flow) -> Any:
            return chain(flow.step("a"), flow.step("b", flows.fail), flow.step("c"))

        flow = begin(bench, failing, *(("copies", name, action, 2) for name in "ab"))

        with pytest.raises(KeyError):
            flow.result.get(timeout=TIMEOUT)
        bench.drained()
        bench.ran_once(flow.label("a"), flow.label("b"))
        assert bench.ledger.counts()[flow.label("c")] == 0


class TestOneKeyInAFlow:
    """Jobs of one key, which would be deferred or skipped if nothing waited for them."""

    @pytest.mark.parametrize("seconds", [0.0, 1.5])
    @pytest.mark.parametrize("shape", [group, chord, chain])
    def test_flow_goes_on(self, bench: Bench, shape: Any, seconds: float) -> None:
        """A flow in which two jobs have one key runs it once, and answers both from it."""
        run = uuid()[:13]
        both = [
            flows.keyed.s(order=run, label=f"{run}.{name}", seconds=seconds) for name in ("a", "b")
        ]
        signature = chord(both, flows.step.s(label=f"{run}.c")) if shape is chord else shape(*both)

        value = signature.apply_async().get(timeout=TIMEOUT)

        [first] = [entry for entry in bench.ledger.entries("effect") if entry.job == run]
        name = first.details["label"].rpartition(".")[2]
        assert value == {group: [name, name], chord: f"c({name},{name})", chain: name}[shape]
        bench.drained()
        bench.ran_once(run)

    @pytest.mark.parametrize("seconds", [0.0, 1.5])
    def test_lone_job_is_skipped(self, bench: Bench, seconds: float) -> None:
        """Where nothing waits, a second job of the key is skipped as the options say."""
        run = uuid()[:13]
        first, second = (
            flows.keyed.delay(order=run, label=f"{run}.{name}", seconds=seconds)
            for name in ("a", "b")
        )

        bench.drained()

        assert sorted([first.state, second.state]) == ["PENDING", "SUCCESS"]
        bench.ran_once(run)
