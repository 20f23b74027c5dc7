"""What the doctor tells, to people and to programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result
from rich.console import Console

from reliable_tasks import ConfigurationError, IdempotentTask, presets, setup
from reliable_tasks.commands import reliable
from reliable_tasks.doctor import Report, examine
from reliable_tasks.doctor.checks import CHECKS
from reliable_tasks.doctor.examining import report_of
from reliable_tasks.doctor.facts import Gap, Link
from reliable_tasks.doctor.report.junit import as_junit
from reliable_tasks.doctor.report.people import for_people
from reliable_tasks.doctor.report.sarif import as_sarif
from reliable_tasks.testing import close_app
from tests.patients import ON_REDIS, broken, conf, offline, server, task

ILL = replace(
    conf(server(task(acks_late=False), policy="allkeys-lru"), task_create_missing_queues=True),
    gaps=(Gap("queues that the app does not declare", "nobody said"),),
)
"""An error, a warning, something to know, and a gap."""

Run = Callable[..., Result]


def report(ignore: tuple[str, ...] = ()) -> Report:
    return replace(report_of(ILL, ignore=ignore), app="shop", file="shop.py")


def printed(shown: Report, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        for part in for_people(shown):
            console.print(part)
        return console.export_text()


def test_the_worst_comes_first() -> None:
    """Findings are in the order of their severity, and counted."""
    shown = report()

    assert [finding.severity for finding in shown.findings] == ["error", "warning", "info"]
    assert shown.ids == {"eviction-policy", "acks-late-missing", "queues-made-on-typo"}
    assert [shown.count(each) for each in ("error", "warning", "info")] == [1, 1, 1]


def test_what_fails() -> None:
    """Errors fail by default, warnings if they are to; what is to know never does."""
    assert [finding.id for finding in report().failures()] == ["eviction-policy"]
    assert len(report().failures("warning")) == 2
    assert not report_of(conf(task_create_missing_queues=True)).failures("warning")


def test_people_are_told_everything() -> None:
    """Each finding with its value, reason, remedy and page; and what was not looked at."""
    text = printed(report(ignore=("eager",)))

    for finding in report().findings:
        assert finding.title in text
        assert f"[{finding.id}]" in text
        assert finding.value in text
        for line in finding.fix.splitlines():
            assert line in text
        assert finding.page in text
    assert "queues that the app does not declare: nobody said" in text
    assert "Ignored: eager" in text
    assert "shop: 1 error, 1 warning, 1 to know; " in text


def test_narrow_screens_lose_nothing() -> None:
    """On 60 columns no word is cut off."""
    text = " ".join(printed(report(), width=60).split())

    for finding in report().findings:
        for word in f"{finding.why} {finding.id}".split():
            assert word in text


def test_an_examination_without_servers_says_so() -> None:
    """People read that nobody was asked, and of how many checks that is the reason."""
    shown = report_of(offline(), offline=True)

    assert f"no worker was asked, as {len(shown.undecided)} checks would need" in printed(shown)


def test_something_undecided_is_named() -> None:
    """A check that lacks a fact stands in the report by its id."""
    shown = report_of(broken("broker", "refused"))

    assert "worker-none" in printed(shown).partition("Not decided")[2]


def test_json() -> None:
    """The document has every finding whole, and every check in one place."""
    document = json.loads(json.dumps(report(ignore=("eager",)).as_dict()))

    assert document["app"] == "shop"
    assert document["counts"] == {"error": 1, "warning": 1, "info": 1}
    assert set(document["findings"][0]) == {
        *("id", "severity", "topic", "title", "value", "why", "fix", "page")
    }
    assert document["not_examined"] == [
        {"what": "queues that the app does not declare", "why": "nobody said"}
    ]
    found = {finding["id"] for finding in document["findings"]}
    others = [*document["passed"], *document["undecided"], *document["ignored"]]
    assert sorted([*found, *others]) == sorted(check.id for check in CHECKS)


@pytest.mark.parametrize(("fail_on", "failures"), [("error", 1), ("warning", 2)])
def test_junit(fail_on: str, failures: int) -> None:
    """Each check is a test; what fails is a failure, what was not decided is skipped."""
    facts = replace(ILL, workers=None)
    root = ET.fromstring(as_junit(report_of(facts, ignore=("eager",)), fail_on=fail_on))
    (suite,) = root
    cases = {case.get("name"): case for case in suite.iter("testcase")}

    assert root.tag == "testsuites"
    assert set(cases) == {check.id for check in CHECKS}
    assert suite.get("tests") == str(len(CHECKS))
    assert suite.get("failures") == str(len(suite.findall("testcase/failure"))) == str(failures)
    assert suite.get("skipped") == str(len(suite.findall("testcase/skipped")))
    assert suite.get("errors") == "0"
    assert all(case.get("classname") and case.get("time") for case in cases.values())
    failure = cases["eviction-policy"].find("failure")
    assert failure is not None
    assert failure.get("type") == "error"
    assert "maxmemory-policy noeviction" in (failure.text or "")
    skipped = {id_: case.find("skipped") for id_, case in cases.items()}
    reasons = {id_: each.get("message") for id_, each in skipped.items() if each is not None}
    assert reasons["eager"] == "ignored"
    assert reasons["worker-none"] == "not examined"
    assert "nobody said" in (suite.findtext("system-out") or "")


def test_sarif() -> None:
    """Every property that SARIF 2.1.0 requires is there, and every reference leads somewhere."""
    document = json.loads(json.dumps(as_sarif(report(), version="1.2.3")))
    (run,) = document["runs"]
    driver = run["tool"]["driver"]

    assert document["version"] == "2.1.0"
    assert document["$schema"].endswith("sarif-schema-2.1.0.json")
    assert driver["name"]
    assert driver["version"] == "1.2.3"
    assert [rule["id"] for rule in driver["rules"]] == [check.id for check in CHECKS]
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["help"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
    assert [result["level"] for result in run["results"]] == ["error", "warning", "note"]
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"] == "shop.py"
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is True
    (notification,) = invocation["toolExecutionNotifications"]
    assert "nobody said" in notification["message"]["text"]


def test_sarif_without_a_file() -> None:
    """An app that no file of this directory has is named all the same."""
    shown = replace(report(), file=None)
    (run,) = as_sarif(shown, version="1")["runs"]

    assert run["results"][0]["locations"] == [
        {"logicalLocations": [{"name": "shop", "kind": "module"}]}
    ]


def test_an_unknown_id_is_refused() -> None:
    """A typo in what to ignore ignores nothing."""
    with pytest.raises(ConfigurationError, match="Did you mean eager"):
        examine(Celery(set_as_current=False), offline=True, ignore=["eagre"])


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def app() -> Iterator[Any]:
    made = Celery("shop", broker="redis://own/0", set_as_current=False)
    yield made
    close_app(made)


def declare(app: Any) -> None:
    @app.task(base=IdempotentTask, shared=False)
    def charge() -> None: ...


@pytest.fixture
def run(app: Any) -> Run:
    """Run `reliable doctor --offline ...` as Celery does."""
    context = CLIContext(app=app, no_color=True, workdir=None)
    words = ("doctor", "--offline")
    return lambda *more: CliRunner().invoke(reliable, [*words, *more], obj=context)


def test_the_exit_status(app: Any, run: Run) -> None:
    """0 if nothing is as bad as --fail-on says, else 1."""
    app.conf.task_always_eager = True

    assert run().exit_code == 0
    assert run("--fail-on", "warning").exit_code == 1
    app.conf.broker_url = "redis://one/0;redis://two/0"
    done = run()
    assert done.exit_code == 1
    assert "expected one Redis, or sentinels" in done.output


def test_json_is_all_that_is_printed(run: Run) -> None:
    """`--json` prints one document."""
    document = json.loads(run("--json").stdout)

    assert document["offline"] is True
    assert "publish-unbounded" in [finding["id"] for finding in document["findings"]]


def test_a_check_can_be_left_out(run: Run) -> None:
    """`--ignore` takes a finding away, and the report says so; a typo ends the command."""
    done = run("--ignore", "publish-unbounded", "--ignore", "eager")

    assert "publish-unbounded" not in done.output.partition("Ignored")[0]
    assert "Ignored: publish-unbounded, eager" in done.output
    assert "Did you mean eager" in run("--ignore", "eagre").output
    assert run("--ignore", "eagre").exit_code == 1


def test_files_for_ci(run: Run, tmp_path: Path) -> None:
    """JUnit and SARIF go to files, beside the report for people."""
    junit, sarif = tmp_path / "doctor.xml", tmp_path / "doctor.sarif"
    done = run("--junit", str(junit), "--sarif", str(sarif), "--fail-on", "warning")

    assert done.exit_code == 1
    assert "publish-unbounded" in done.output
    suite = ET.parse(junit).getroot()[0]
    assert int(suite.get("failures", "0")) >= 1
    assert json.loads(sarif.read_text())["version"] == "2.1.0"


def test_a_grace_period_can_be_given(app: Any, run: Run) -> None:
    """What no server knows is told by the caller."""
    setup(app, presets.redis("redis://own/0", grace_period=60))
    declare(app)

    assert "grace-period-short" not in run("--grace-period", "60").output
    assert "grace-period-short" in run("--grace-period", "30").output


# --- secrets ----------------------------------------------------------------------------------

WORD = "hush-hush-4711"
PLACES: dict[str, dict[str, Any]] = {
    "broker": {"broker_url": f"redis://shop:{WORD}@h/0"},
    "percent-encoded": {"broker_url": "amqp://shop:hush%2Dhush%2D4711@h//"},
    "several brokers": {"broker_url": f"redis://:{WORD}@a/0;redis://:{WORD}@b/0"},
    "a list of brokers": {"broker_url": [f"redis://:{WORD}@a/0", f"redis://:{WORD}@b/0"]},
    "reading": {"broker_read_url": f"redis://shop:{WORD}@h/0"},
    "writing": {"broker_write_url": f"redis://shop:{WORD}@h/0"},
    "results": {"result_backend": f"db+postgresql://shop:{WORD}@h/0"},
    "rpc": {"result_backend": f"rpc://shop:{WORD}@h"},
    "shared": {"broker_url": f"redis://:{WORD}@h/0", "result_backend": f"redis://:{WORD}@h/0"},
    "store": {"reliable_tasks_store_url": f"redis://:{WORD}@h/0"},
    "wrong store": {"reliable_tasks_store_url": f"http://:{WORD}@h/0"},
    "query": {"broker_url": f"redis+socket:///redis.sock?virtual_host=0&password={WORD}"},
    "options": {"broker_transport_options": {"password": WORD}},
    "sentinel": {"broker_transport_options": {"sentinel_kwargs": {"password": WORD}}},
    "cluster": {"broker_url": f"redis+cluster://:{WORD}@h/0"},
    "setting": {"redis_password": WORD},
    "misspelt": {"task_ack_late": WORD},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("given", [True, False], ids=["preset", "plain"])
def test_no_password_is_told(place: str, given: bool) -> None:
    """Wherever a password stands, no form of the report has it."""
    app = Celery("shop", broker="redis://own/0", set_as_current=False)
    if given:
        setup(app, presets.redis("redis://other/0", longest_task=5))
    app.conf.update(PLACES[place])
    if place == "misspelt":
        app.conf.redis_password = WORD
    declare(app)

    shown = examine(app, offline=True, grace_period=1)

    forms = (
        printed(shown),
        json.dumps(shown.as_dict()),
        as_junit(shown),
        json.dumps(as_sarif(shown, version="1")),
        repr(shown),
    )
    assert shown.findings
    for form in forms:
        assert "hush" not in form


@pytest.mark.parametrize("letter", "/?#;[]@:")
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
@pytest.mark.parametrize("offline", [True, False])
def test_an_address_that_cannot_be_read_is_a_finding(
    letter: str, scheme: str, offline: bool
) -> None:
    """A password with a letter of addresses in it ends no examination, and no part is told."""
    url = f"{scheme}://shop:hush{letter}word@127.0.0.1:1/0"
    app = Celery("shop", broker=url, backend=url, set_as_current=False)
    declare(app)

    shown = examine(app, offline=offline, timeout=0.1)

    assert ("broker-address" in shown.ids) is (letter not in "@:")
    for form in (printed(shown), json.dumps(shown.as_dict()), as_junit(shown), repr(shown)):
        assert "hush" not in form


@pytest.mark.parametrize(
    ("name", "url", "id_", "says"),
    [
        ("broker_url", "reddis://localhost", "broker-address", "No such transport: reddis"),
        ("result_backend", "reddis://localhost", "setting-refused", "has no backend 'reddis'"),
    ],
)
def test_an_address_of_no_kind_is_a_finding(name: str, url: str, id_: str, says: str) -> None:
    """No worker starts with it."""
    app = Celery("shop", broker="redis://own/0", set_as_current=False)
    app.conf[name] = url

    (found,) = [each for each in examine(app, offline=True).failures() if each.id == id_]

    assert says in found.value


def test_without_a_broker_celery_looks_for_rabbitmq_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that names no broker is not one that needs none."""
    looked_at: list[str] = []

    def probe_rabbit(app: Any, place: Any, url: str, timeout: float) -> Link:
        looked_at.append(url)
        return Link(place=place, trouble="refused")

    monkeypatch.setattr("reliable_tasks.doctor.probes.servers.probe_rabbit", probe_rabbit)
    shown = examine(Celery("shop", set_as_current=False), timeout=0.1)

    assert looked_at == ["amqp://localhost//"]
    assert "broker-refused" in shown.ids


def test_a_password_in_an_error_is_not_told(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that a server or a driver repeats, nor letters that steer a terminal."""
    app.conf.broker_url = f"redis://shop:{WORD}@h/0"
    said = f"AUTH {WORD} refused\x1b[31m\x00"

    def probe(app: Any, settings: Any, *, timeout: float) -> Any:
        found = replace(broken("broker", "password", said), settings=settings)
        return replace(found, gaps=(Gap("queues", said),))

    monkeypatch.setattr("reliable_tasks.doctor.examining.probe", probe)
    shown = examine(app)

    text = as_junit(shown) + printed(shown) + json.dumps(shown.as_dict())
    assert "AUTH *** refused" in text
    assert WORD not in text
    assert "\x1b" not in text
    assert ET.fromstring(as_junit(shown)) is not None


def test_the_base_of_the_tests_is_well() -> None:
    """What the rows of these tests change was in order before."""
    assert not report_of(ON_REDIS).findings
