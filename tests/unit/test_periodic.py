"""Which firing a beat makes, and who publishes it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.beat import Scheduler
from celery.schedules import BaseSchedule, crontab, schedstate, schedule

from reliable_tasks import StoreUnavailable, periodic, task_deduplicated
from reliable_tasks.core.slots import Slot
from reliable_tasks.periodic import Firing, Ticket, current_firing, fire, slot_of, ticket_of
from reliable_tasks.stores.memory import MemoryStore
from reliable_tasks.testing import ManualClock
from tests.unit.test_unique import UniqueBench

HORIZON = 6 * 3_600_000
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(moment: datetime, kind: type = crontab, *args: Any, **options: Any) -> Any:
    """A schedule for which it is now *moment*, of an app that knows its time zone."""
    app = Celery(set_as_current=False)
    zone = getattr(moment.tzinfo, "key", "UTC")
    app.conf.update(timezone=zone)
    return kind(*args, nowfun=lambda: moment, app=app, **options)


def firing(plan: Any, last: datetime | None) -> Firing:
    """A beat's call of an entry that it called last at *last*."""
    return Firing("report", "shop.report", plan, last)


def due_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000)


class TestSlots:
    """Every beat names a firing alike, whatever it did before."""

    @pytest.mark.parametrize("late", [0, 0.01, 1, 59.9])
    @pytest.mark.parametrize(
        "last",
        [
            NOON - timedelta(minutes=1),
            NOON - timedelta(seconds=1),
            NOON - timedelta(days=40, seconds=7),
            datetime(1, 1, 2, tzinfo=UTC),
            None,
        ],
    )
    def test_crontab(self, last: datetime | None, late: float) -> None:
        """A beat that has just started, one that missed much and one that is late agree."""
        slot = slot_of(firing(at(NOON + timedelta(seconds=late)), last), HORIZON)

        assert slot is not None
        assert slot.name == f"due {due_ms(NOON)}"
        assert slot.keep_ms == pytest.approx(HORIZON + (60 - late) * 1_000, abs=1)

    def test_next_due_time_is_another_slot(self) -> None:
        """A late call is no duplicate of the next one on time."""
        names = {
            slot_of(firing(at(NOON + timedelta(seconds=late)), NOON - timedelta(hours=1)), HORIZON)
            for late in (0, 60)
        }

        assert len({slot.name for slot in names if slot is not None}) == 2

    @pytest.mark.parametrize(
        ("now", "due"),
        [
            # Clocks go forward at 02:00 on 29 March and back at 03:00 on 25 October.
            ("2026-03-29T03:10", "2026-03-29T03:00"),
            ("2026-10-25T03:10", "2026-10-25T03:00"),
            ("2026-10-26T02:59", "2026-10-26T02:00"),
        ],
    )
    @pytest.mark.parametrize("days", [0.06, 0.1, 1, 3, 300])
    def test_crontab_in_local_time(self, now: str, due: str, days: float) -> None:
        """Beats agree on the days on which the clocks change, too."""
        moment, expected = (
            datetime.fromisoformat(each).replace(tzinfo=ZoneInfo("Europe/Berlin"))
            for each in (now, due)
        )
        plan = at(moment, crontab, minute=0)

        slot = slot_of(firing(plan, moment - timedelta(days=days)), HORIZON)

        assert slot is not None
        assert slot.name == f"due {due_ms(expected)}"

    @pytest.mark.parametrize("days", [0.1, 1.5, 3])
    def test_missed_the_day_before(self, days: float) -> None:
        """A beat that was away over midnight finds yesterday's last due time, on every Celery."""
        now = NOON.replace(hour=0, minute=10)
        plan = at(now, crontab, minute="15,45")

        slot = slot_of(firing(plan, now - timedelta(days=days)), HORIZON)

        assert slot is not None
        assert slot.name == f"due {due_ms(now - timedelta(minutes=25))}"

    def test_rare_crontab(self) -> None:
        """A slot of 29 February is kept until the next."""
        now = datetime(2028, 2, 29, 0, 0, 1, tzinfo=UTC)
        plan = at(now, crontab, minute=0, hour=0, day_of_month=29, month_of_year=2)

        slot = slot_of(firing(plan, None), HORIZON)

        assert slot is not None
        assert slot.name == f"due {due_ms(datetime(2028, 2, 29, tzinfo=UTC))}"
        assert slot.keep_ms > 4 * 365 * 86_400_000

    def test_entry_that_is_not_due(self) -> None:
        """Who fires an entry by hand makes none of its firings."""
        assert slot_of(firing(at(NOON), NOON + timedelta(seconds=1)), HORIZON) is None

    def test_interval(self) -> None:
        """A firing of an interval opens a window, whatever the phase of the beat."""
        plan = at(NOON, schedule, 10)

        slots = {slot_of(firing(plan, NOON - timedelta(seconds=s)), HORIZON) for s in (10, 500)}

        assert [(slot.name, slot.keep_ms) for slot in slots if slot] == [("every 0:00:10", 9_000)]

    def test_interval_at_full_hours(self) -> None:
        """The window of a schedule at round times ends before the next of them."""
        plan = at(NOON + timedelta(minutes=40), schedule, 3_600, relative=True)

        slot = slot_of(firing(plan, NOON - timedelta(hours=3)), HORIZON)

        assert slot is not None
        assert 15 * 60_000 <= slot.keep_ms < 20 * 60_000

    def test_one_moment(self) -> None:
        """A moment on its own, as that of django-celery-beat, is named by its time."""
        slot = slot_of(firing(at(NOON + timedelta(hours=1), Once), None), HORIZON)

        assert slot == Slot(f"due {due_ms(NOON)}", HORIZON, is_dated=True)

    @pytest.mark.parametrize("seconds", [20, 86_400])
    def test_calendar_of_another_package(self, seconds: int) -> None:
        """Due times that all beats find are names, also if the last one is over for good."""
        now = NOON + timedelta(seconds=5)
        calendar = at(now, Calendar, NOON - 3 * timedelta(seconds=seconds), seconds)

        slots = {
            slot_of(firing(calendar, last), HORIZON)
            for last in (NOON - timedelta(seconds=1), NOON - timedelta(days=2), None)
        }

        assert slots == {Slot(f"due {due_ms(NOON)}", HORIZON, is_dated=True)}

    def test_interval_of_another_package(self) -> None:
        """A schedule that counts from its last call has a window, whatever its class."""
        slot = slot_of(firing(at(NOON, Minutely), NOON - timedelta(minutes=1)), HORIZON)

        assert slot == Slot("every Minutely", 54_000, is_dated=False)


class Once(BaseSchedule):
    """At noon."""

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        return NOON - self.now()


class Calendar(BaseSchedule):
    """Four times from *first* on; after that there is no next, as with a rule of RedBeat."""

    def __init__(self, first: datetime, seconds: int, **options: Any) -> None:
        super().__init__(**options)
        self.times = [first + number * timedelta(seconds=seconds) for number in range(4)]

    def remaining_estimate(self, last_run_at: datetime) -> timedelta | None:
        later = [moment for moment in self.times if moment > last_run_at]
        return min(later) - self.now() if later else None


class Minutely(BaseSchedule):
    """A minute after the last call."""

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        return last_run_at + timedelta(minutes=1) - self.now()


class OnlyIsDue(BaseSchedule):
    """Every minute; it answers what Celery's own beat asks, and nothing else."""

    def is_due(self, last_run_at: datetime) -> schedstate:
        left = 60 - (self.now() - last_run_at).total_seconds()
        return schedstate(left <= 0, left if left > 0 else 60)


class TestTickets:
    """A ticket stands for one firing of one entry of one task."""

    def ticket(self, plan: Any, prefix: str = "", **changes: Any) -> Ticket:
        values = {"entry": "report", "task": "shop.report", "schedule": plan, "last_run_at": None}
        found = ticket_of(
            Firing(**{**values, **changes}), prefix=prefix, grace_ms=30_000, horizon_ms=HORIZON
        )
        assert found is not None
        return found

    def test_names_what_it_is_for(self) -> None:
        """Entry, task, prefix and due time all make another ticket, and another job."""
        plan = at(NOON)
        tickets = [
            self.ticket(plan),
            self.ticket(plan, entry="other"),
            self.ticket(plan, task="shop.other"),
            self.ticket(plan, "staging"),
            self.ticket(at(NOON + timedelta(minutes=1))),
        ]

        assert len({ticket.key for ticket in tickets}) == len(tickets)
        assert len({ticket.job for ticket in tickets}) == len(tickets)
        assert self.ticket(at(NOON + timedelta(seconds=9))).job == tickets[0].job

    def test_grace_ends_with_the_window(self) -> None:
        """Without a common due time, a beat that died must not keep the next firing back."""
        ticket = self.ticket(at(NOON, schedule, 10))

        assert (ticket.job, ticket.keep_ms, ticket.grace_ms) == (None, 9_000, 9_000)

    def test_changed_interval_is_another_ticket(self) -> None:
        """After a deploy with a shorter interval the window of the longer one is of no account."""
        plans = [at(NOON, schedule, seconds) for seconds in (10, 3_600)]

        assert len({self.ticket(plan).key for plan in plans}) == 2


@dataclass
class Beats:
    """Beats that share a store."""

    clock: ManualClock = field(default_factory=ManualClock)
    published: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.clock)

    def fire(
        self, ticket: Ticket, publish: Callable[[str], object] | None = None
    ) -> periodic.Fired:
        return fire(self.store, ticket, publish or self.published.append)


DATED = Ticket("rt1::shop.report:1", "report", "the-job", keep_ms=3_600_000, grace_ms=30_000)
SPACED = Ticket("rt1::shop.report:2", "report", None, keep_ms=9_000, grace_ms=9_000)
BOTH = pytest.mark.parametrize("ticket", [DATED, SPACED], ids=["dated", "spaced"])


@pytest.fixture
def beats() -> Beats:
    return Beats()


class TestFire:
    """One job for each firing, whatever becomes of a beat."""

    @BOTH
    def test_second_beat_publishes_nothing(self, beats: Beats, ticket: Ticket) -> None:
        """A firing that was published is a duplicate, and names the job."""
        first = beats.fire(ticket)
        beats.clock.advance(8)
        second = beats.fire(ticket)

        assert beats.published == [first.job]
        assert (first.duplicate, second.duplicate) == (False, True)
        assert second.job == first.job

    @BOTH
    def test_free_when_the_time_is_over(self, beats: Beats, ticket: Ticket) -> None:
        """The next firing of an interval is published again, by whoever comes first."""
        beats.fire(ticket)
        beats.clock.advance(ticket.keep_ms / 1_000)

        assert not beats.fire(ticket).duplicate
        assert len(beats.published) == 2

    @BOTH
    def test_beat_that_dies_before_it_publishes(self, beats: Beats, ticket: Ticket) -> None:
        """The next beat waits a moment, then publishes the same job; a third publishes nothing."""
        begun: list[str] = []

        def die(job: str) -> None:
            begun.append(job)
            raise SystemExit

        with pytest.raises(SystemExit):
            beats.fire(ticket, die)
        second, third = beats.fire(ticket), beats.fire(ticket)

        assert beats.published == begun == [second.job]
        assert (second.duplicate, third.duplicate) == (False, True)

    @BOTH
    def test_publish_that_fails(self, beats: Beats, ticket: Ticket) -> None:
        """The error is the beat's; the firing is left to the next beat."""

        def fail(job: str) -> None:
            raise OSError("no broker")

        with pytest.raises(OSError, match="no broker"):
            beats.fire(ticket, fail)

        assert not beats.fire(ticket).duplicate
        assert len(beats.published) == 1

    @BOTH
    def test_waits_for_a_publish_that_is_under_way(
        self, beats: Beats, ticket: Ticket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two beats in the same moment: the second waits for the first, and publishes nothing."""
        asked: list[float] = []
        slow = beats.store.reserve
        [first] = slow([(ticket.key, periodic.Reservation("slow", ticket.grace_ms))])
        assert not isinstance(first, periodic.Duplicate)

        def confirm_meanwhile(seconds: float) -> None:
            asked.append(seconds)
            word = periodic.Confirmation("slow", ticket.keep_ms)
            beats.store.confirm([(ticket.key, word)])

        monkeypatch.setattr(periodic, "sleep", confirm_meanwhile)

        assert beats.fire(ticket).duplicate
        assert beats.published == []
        assert len(asked) == 1

    @BOTH
    def test_store_is_down(
        self, ticket: Ticket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without a store every beat publishes, and says so; one job where its id is known."""
        beats = Beats()

        def down(*_: Any) -> Any:
            raise StoreUnavailable("redis://nowhere", "refused")

        monkeypatch.setattr(beats.store, "reserve", down)
        monkeypatch.setattr(beats.store, "confirm", down)

        fired = [beats.fire(ticket) for _ in range(2)]

        assert beats.published == [each.job for each in fired]
        assert len(set(beats.published)) == (1 if ticket.job else 2)
        assert not any(each.duplicate for each in fired)
        assert [r.levelno for r in caplog.records if "without asking" in r.message] == [
            logging.WARNING
        ] * 2

    def test_reply_of_the_store_is_lost(
        self, beats: Beats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A beat that took the ticket and does not know it publishes the job that others find."""
        reserve = beats.store.reserve

        def lose_reply(asks: Any) -> Any:
            reserve(asks)
            raise StoreUnavailable("reserve", "no answer")

        with monkeypatch.context() as patch:
            patch.setattr(beats.store, "reserve", lose_reply)
            first = beats.fire(SPACED)

        assert beats.fire(SPACED) == periodic.Fired(first.job, duplicate=True)


def test_beats_tell_what_they_fire() -> None:
    """While a scheduler publishes an entry its firing is known, for its own task alone."""
    seen: list[Any] = []
    entry = SimpleNamespace(name="report", task="shop.report", schedule=at(NOON), last_run_at=NOON)

    class Scheduler:
        def apply_async(self, entry: Any, producer: Any = None, advance: bool = True) -> str:
            seen.extend([current_firing("shop.report"), current_firing("shop.other"), advance])
            return "result"

    service = SimpleNamespace(scheduler=Scheduler())
    periodic._watch(service, signal=None)

    assert service.scheduler.apply_async(entry, advance=False) == "result"
    assert seen == [Firing("report", "shop.report", entry.schedule, NOON), None, False]
    assert current_firing("shop.report") is None


@dataclass
class World:
    """An app, its schedulers, and the time that all of them see."""

    bench: UniqueBench
    now: datetime = NOON

    def beat(self, task: Any, plan: str = "crontab", **entry: Any) -> Scheduler:
        """A scheduler of Celery's own with one entry."""
        clock = {"nowfun": lambda: self.now, "app": self.bench.app}
        plans = {
            "crontab": crontab(**clock),
            "interval": schedule(60, **clock),
            "only is_due": OnlyIsDue(**clock),
        }
        scheduler = Scheduler(self.bench.app)
        scheduler.add(name="report", task=task.name, schedule=plans[plan], **entry)
        periodic._watch(SimpleNamespace(scheduler=scheduler))
        return scheduler

    def minutes(self, count: int, *beats: Scheduler) -> None:
        """Let so many minutes pass, in which every beat does what it does."""
        for _ in range(count):
            self.now += timedelta(minutes=1)
            self.bench.clock.advance(60)
            for beat in beats:
                while beat.tick() == 0:
                    pass


@pytest.fixture
def world() -> Iterator[World]:
    bench = UniqueBench()
    bench.app.conf.beat_schedule = {}
    yield World(bench)
    bench.app.close()


class TestUniqueTask:
    """A periodic unique task, as Celery's own scheduler calls it."""

    @pytest.mark.parametrize("plan", ["crontab", "interval"])
    def test_two_beats(self, world: World, plan: str) -> None:
        """Each firing is published once, and runs though an equal one was done a minute ago."""
        task = world.bench.unique(periodic=True)
        beats = [world.beat(task, plan, args=(7,)) for _ in range(2)]

        world.minutes(3, *beats)
        assert world.bench.waiting() == 3
        world.bench.work()

        assert world.bench.ran == [7, 7, 7]

    def test_schedule_that_says_little(
        self, world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A firing of which no beat can know that it is the same is published, and it is said."""
        monkeypatch.setattr(periodic, "_warned_of", set())
        task = world.bench.unique(periodic=True)
        beat = world.beat(task, "only is_due", args=(7,))

        for _ in range(3):
            world.minutes(1, beat)
            world.bench.work()

        assert world.bench.ran == [7, 7, 7]
        [line] = caplog.records
        assert line.getMessage() == (
            "report: every beat fires it, for its schedule does not say when it is due: "
            "NotImplementedError"
        )

    def test_without_the_option(self, world: World) -> None:
        """A unique task that is not periodic is unique by its arguments, as for any caller."""
        task = world.bench.unique()
        beats = [world.beat(task, args=(7,)) for _ in range(2)]

        world.minutes(3, *beats)

        assert world.bench.waiting() == 1

    def test_other_calls(self, world: World) -> None:
        """What is called by hand is told apart by its arguments, and from what beat fires."""
        task = world.bench.unique(periodic=True)

        world.minutes(1, world.beat(task, args=(7,)))
        first, second = task.delay(7), task.delay(7)

        assert (first.duplicate, second.duplicate) == (False, True)
        assert world.bench.waiting() == 2

    def test_failed_job(self, world: World) -> None:
        """A late beat does not run a firing again that has failed."""

        def body(task: Any) -> None:
            world.bench.ran.append(task.request.id)
            raise ValueError

        task = world.bench.unique(body, periodic=True)
        early, late = world.beat(task), world.beat(task)

        world.minutes(1, early)
        world.bench.work()
        world.now += timedelta(seconds=50)
        world.bench.clock.advance(50)
        late.tick()
        world.bench.work()

        assert len(world.bench.ran) == 1

    def test_options_of_the_entry(self, world: World) -> None:
        """Links and headers of the entry go with the firing, which is published once even so."""

        def note(task: Any, value: int) -> None:
            world.bench.ran.append(("after", value))

        after = world.bench.task(note)
        task = world.bench.unique(periodic=True)
        options = {"link": after.s(), "headers": {"from": "beat"}}
        beats = [world.beat(task, args=(7,), options=options) for _ in range(2)]

        world.minutes(1, *beats)
        world.bench.work()

        assert world.bench.ran == [7, ("after", 7)]
        assert world.bench.headers[0]["from"] == "beat"

    def test_arguments_may_differ(self, world: World) -> None:
        """In the middle of a deploy beats give other arguments, and it is still one firing."""
        task = world.bench.unique(periodic=True)

        world.minutes(1, world.beat(task, args=(7,)), world.beat(task, args=(8,)))
        world.bench.work()

        assert world.bench.ran == [7]

    def test_tells_of_duplicates(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """A firing that another beat published is a log line and a signal."""
        told: list[dict[str, Any]] = []
        task = world.bench.unique(periodic=True)
        beats = [world.beat(task, args=(7,)) for _ in range(2)]

        def listen(**facts: Any) -> None:
            told.append(facts)

        task_deduplicated.connect(listen, sender=task)
        with caplog.at_level(logging.INFO, "reliable_tasks"):
            world.minutes(1, *beats)

        [facts] = told
        assert facts["reason"] == "duplicate"
        assert f"{facts['task_id']}] was not published again" in caplog.text
