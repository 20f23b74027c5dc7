"""Chains, groups, chords and callbacks, with copies and faults at every position."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.utils import uuid

from reliable_tasks.testing import Database, Ledger, Server, WorkerProcess, close_app, eventually
from tests.integration.apps import flows
from tests.integration.apps.flows import FAULTS_VARIABLE, Faults

pytestmark = pytest.mark.hooks

TIMEOUT = 40.0


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


class Bench:
    """A worker that breaks where it is told to, and the flows that run on it."""

    def __init__(self, database: Database, ledger: Ledger, faults: Faults, worker: Any) -> None:
        self.database, self.ledger, self.faults, self.worker = database, ledger, faults, worker

    def begin(self, build: Build, *plan: tuple[str, str, str, int]) -> Flow:
        """Plan (point, step, action, times), then publish the flow."""
        flow = Flow(uuid()[:13])
        signature = build(flow)
        for point, step, action, times in plan:
            self.faults.plan(point, flow.label(step), action, times)
        flow.result = signature.apply_async()
        return flow

    def finish(self, flow: Flow) -> Any:
        """Wait for the result, and for every step to have run once."""
        value = flow.result.get(timeout=TIMEOUT, interval=0.05)
        self.each_once(flow)
        return value

    def each_once(self, flow: Flow) -> None:
        """Wait until every step of the flow has run; each has run once."""
        eventually(lambda: set(flow.steps) <= set(self.ledger.counts()), timeout=TIMEOUT)
        self.expect_once(flow)

    def expect_once(self, flow: Flow) -> None:
        """No step of the flow has run twice."""
        counts = self.ledger.counts()
        assert {step: counts[step] for step in flow.steps} == dict.fromkeys(flow.steps, 1)

    def drained(self) -> None:
        """Wait until no message is left: none waits, none is held."""
        client = self.database.client()
        eventually(
            lambda: client.llen("celery") == client.hlen("unacked") == 0,
            timeout=TIMEOUT,
            message="no message is left",
        )
        client.close()


@pytest.fixture(scope="module")
def app(valkey: Server) -> Iterator[Celery]:
    """The app of the flows, on a database of its own."""
    app = flows.app
    database = valkey.new_database()
    app.conf.update(broker_url=database.url, result_backend=database.url)
    app.database = database
    yield app
    close_app(app)


@pytest.fixture(scope="module")
def shared_bench(app: Celery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One worker for the whole module; steps are told apart by their labels."""
    directory = tmp_path_factory.mktemp("flows")
    ledger, faults = Ledger(directory / "ledger"), Faults(directory / "faults")
    faults.directory.mkdir()
    flows.copy_messages(app, faults)
    env = {**ledger.env, **app.database.celery_env, FAULTS_VARIABLE: str(faults.directory)}
    with WorkerProcess("tests.integration.apps.flows", concurrency=3, env=env) as worker:
        yield Bench(app.database, ledger, faults, worker)


@pytest.fixture
def bench(shared_bench: Bench, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The module's worker; its log of this test is shown if the test fails."""
    start = len(shared_bench.worker.log)
    yield shared_bench
    log = shared_bench.worker.log[start:]
    request.node.add_report_section("teardown", "worker", log[-30_000:])


Fault = tuple[str, str, str, int]


def run_all(bench: Bench, plans: list[tuple[Build, list[Fault]]]) -> None:
    """Run flows side by side; each ends with its result, each step has run once, all is over."""
    begun = [(build, plan, bench.begin(build, *plan)) for build, plan in plans]
    for build, plan, flow in begun:
        assert bench.finish(flow) == FLOWS[build].result, (build.__name__, plan)
    bench.drained()
    for _, _, flow in begun:
        bench.expect_once(flow)
    assert bench.faults.left() == []


def at_each_carrier(point: str, action: str, times: int = 1) -> list[tuple[Build, list[Fault]]]:
    """Plan one fault per flow, at each step that carries something."""
    return [
        (build, [(point, name, action, times)])
        for build, expected in FLOWS.items()
        for name in expected.carrying
    ]


@pytest.mark.parametrize("action", ["copy", "late"])
def test_copies_of_every_message(bench: Bench, action: str) -> None:
    """However often each message of a flow comes, each step runs once and the result arrives."""
    names = {build: [label.rpartition(".")[2] for label in steps_of(build)] for build in FLOWS}
    run_all(bench, [
        (build, [("copies", name, action, 2) for name in names[build]]) for build in FLOWS
    ])  # fmt: skip


def steps_of(build: Build) -> list[str]:
    """Return the steps of a flow."""
    flow = Flow("any")
    build(flow)
    return flow.steps


@pytest.mark.parametrize("point", ["record", "result", "sent"])
def test_process_killed_after_the_record(bench: Bench, point: str) -> None:
    """Killed between the record and the broker's acknowledgement, a copy sends what is unsent."""
    run_all(bench, at_each_carrier(point, "kill"))


@pytest.mark.parametrize("point", ["record", "result"])
@pytest.mark.parametrize("times", [1, 4])
def test_broker_or_backend_fails_after_the_record(bench: Bench, point: str, times: int) -> None:
    """A publish or a result that fails is tried again, in place or by a copy: the body is not."""
    run_all(bench, at_each_carrier(point, "fail", times))


def test_completer_killed_before_the_body(bench: Bench) -> None:
    """A member that died with the backend's claim on its chord is looked at a second time."""
    run_all(bench, [
        (build, [("publish", body, "kill", 1)])
        for build, expected in FLOWS.items()
        for body in expected.bodies
    ])  # fmt: skip
