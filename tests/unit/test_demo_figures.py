"""What a demo does, counts and concludes, without running one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reliable_tasks.cli import LEAST_JOBS
from reliable_tasks.demo import plan
from reliable_tasks.demo.journal import Entry, Journal, Kind
from reliable_tasks.demo.plan import Blow, Point, draw
from reliable_tasks.demo.tally import Tally
from reliable_tasks.demo.trouble import Trouble, address_of, scrubbed
from reliable_tasks.demo.verdict import Verdict, rows

LEASE = 2.0
VICTIM = {"victim": "worker 1"}


def line(kind: Kind, run: str, at: float = 0.0, payment: int = 1) -> Entry:
    """A line of a journal about a payment."""
    return Entry(kind, payment, run, at, 100, VICTIM)


def counted(*entries: Entry, jobs: int = 1) -> Tally:
    """The figures of these lines."""
    tally = Tally(jobs, LEASE)
    tally.add(entries)
    return tally


def run(name: str, *kinds: Kind) -> list[Entry]:
    """An execution that was delivered, charged, and went on so."""
    return [line(kind, name) for kind in (Kind.DELIVERED, Kind.CHARGED, *kinds)]


class TestVerdict:
    """The exit status is 0 only if the promise was kept."""

    def test_kept(self):
        """Each payment once is as promised."""
        tally = counted(*run("a", Kind.LEFT))

        assert Verdict(tally, finished=True).is_kept
        assert not tally.in_hand

    def test_lost(self):
        """A payment without a charge is lost, named, and breaks the promise."""
        tally = counted(*run("a", Kind.LEFT), jobs=2)

        assert tally.lost == [2]
        assert not Verdict(tally, finished=True).is_kept
        assert (False, "lost: payments 2") in Verdict(tally, finished=True).lines()

    def test_unfinished(self):
        """A demo that was cut off proves nothing."""
        assert not Verdict(counted(*run("a", Kind.LEFT)), finished=False).is_kept

    def test_killed_in_the_window(self):
        """A process killed between the charge and its record is named, and no breach."""
        tally = counted(*run("a", Kind.KILLED), *run("b", Kind.LEFT))

        assert tally.doubled == [1]
        assert "worker 1 was killed between" in str(tally.reason(1))
        assert Verdict(tally, finished=True).is_kept

    def test_two_whole_executions(self):
        """Two charges by executions that both came to their end have no excuse."""
        tally = counted(*run("a", Kind.LEFT), *run("b", Kind.LEFT))

        assert not Verdict(tally, finished=True).is_kept

    def test_killed_after_another_was_recorded(self):
        """A kill does not excuse the execution that should never have charged."""
        tally = counted(*run("a", Kind.LEFT), *run("b", Kind.KILLED))

        assert tally.reason(1) is None
        assert not Verdict(tally, finished=True).is_kept

    def test_killed_before_the_charge(self):
        """A kill before the charge excuses nothing."""
        killed = [line(Kind.DELIVERED, "a"), line(Kind.KILLED, "a")]
        tally = counted(*killed, *run("b", Kind.LEFT), *run("c", Kind.LEFT))

        assert not Verdict(tally, finished=True).is_kept

    def test_one_kill_excuses_one_charge(self):
        """Three charges need two reasons."""
        tally = counted(*run("a", Kind.KILLED), *run("b", Kind.LEFT), *run("c", Kind.LEFT))

        assert not Verdict(tally, finished=True).is_kept

    @pytest.mark.parametrize(("seconds", "is_kept"), [(2.5, True), (1.5, False)])
    def test_paused_in_the_window(self, seconds, is_kept):
        """A pause between the charge and its record is a reason only if it outlasts the lease."""
        paused = [line(Kind.PAUSED, "a", 10), line(Kind.RESUMED, "a", 10 + seconds)]
        tally = counted(*run("a"), *paused, *run("b", Kind.LEFT), line(Kind.LEFT, "a"))

        assert Verdict(tally, finished=True).is_kept is is_kept

    def test_paused_before_the_charge(self):
        """An execution that wakes up late and charges all the same breaks the promise."""
        asleep = [line(Kind.DELIVERED, "a"), line(Kind.PAUSED, "a", 10)]
        awake = [line(Kind.RESUMED, "a", 15), line(Kind.CHARGED, "a", 16), line(Kind.LEFT, "a")]
        tally = counted(*asleep, *run("b", Kind.LEFT), *awake)

        assert tally.doubled == [1]
        assert not Verdict(tally, finished=True).is_kept

    def test_rows_are_counts(self):
        """Every figure of the table is a number of lines."""
        tally = counted(line(Kind.SENT, ""), *run("a", Kind.KILLED), *run("b", Kind.LEFT))
        figures = dict(rows(tally))

        assert figures["messages published"] == 1
        assert figures["deliveries"] == figures["charges"] == 2
        assert (figures["crashes"], figures["lost"], figures["doubled"]) == (1, 0, 1)


class TestPlan:
    """Both sides get the same, and every plan holds each kind of fault."""

    @example(jobs=11, seed=188)  # two faults fell on one payment
    @given(jobs=st.integers(LEAST_JOBS, 400), seed=st.integers())
    def test_any_size_and_seed(self, jobs, seed):
        """Every payment is published, some again, and each kind of fault finds one of its own."""
        drawn = draw(jobs, seed)
        sent = Counter(message.payment for message in drawn.messages)

        assert drawn == draw(jobs, seed)
        assert set(sent) == set(range(1, jobs + 1))
        assert set(sent.values()) <= {1, 2, 3}
        assert drawn.sent_again >= 2
        assert set(drawn.faults) <= set(sent)
        assert {fault.blow for fault in drawn.faults.values()} == set(Blow)
        assert {fault.point for fault in drawn.faults.values()} == set(Point)

    def test_copies_of_both_kinds(self):
        """Among the copies are messages sent twice, and new messages of an old payment."""
        messages = draw(300, 1).messages

        assert len({message.task_id for message in messages}) < len(messages)
        assert len({message.task_id for message in messages}) > 300

    def test_least_jobs_are_told_to_the_user(self):
        """The command refuses what the plan cannot do."""
        assert LEAST_JOBS == plan.LEAST_JOBS


class TestJournal:
    """A file that many write and one follows."""

    def test_news(self, tmp_path):
        """Each line is read once, and only when it is whole."""
        journal = Journal(tmp_path / "journal")
        assert journal.news() == []

        journal.note(Kind.CHARGED, 7, "a", cents=5)
        [entry] = journal.news()

        assert (entry.kind, entry.payment, entry.run, entry.facts) == (
            "charged",
            7,
            "a",
            {"cents": 5},
        )
        with journal.path.open("a") as file:
            file.write('["left", 7, "a", 1')
        assert journal.news() == []
        with journal.path.open("a") as file:
            file.write(".5, 100, {}]\n")
        assert [entry.at for entry in journal.news()] == [1.5]


class TestAddresses:
    """What is shown of a URL."""

    def test_without_credentials(self):
        """User, password and options of an address are never shown."""
        assert address_of("redis://me:secret@shop:1234/2?x=1") == "redis://shop:1234/2"
        assert address_of("rediss://shop") == "rediss://shop:6379"

    @pytest.mark.parametrize(
        "url", ["", "shop", "amqp://shop", "redis://", "redis://a:b", "redis://a/b"]
    )
    def test_no_address(self, url):
        """What is no address of a Redis is refused in words."""
        with pytest.raises(Trouble, match="expected redis://"):
            address_of(url)

    def test_scrubbed(self):
        """A server's words are shown without the password, as written or as meant."""
        url = "redis://:a%3Ab@shop"

        assert scrubbed("no a%3Ab\nnor a:b.", url) == "no *** nor ***"
        assert scrubbed("as it is", None) == "as it is"
