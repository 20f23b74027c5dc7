"""Options are checked as a set, when a task is declared."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reliable_tasks.core.defaults import GUARDED
from reliable_tasks.core.settings import check_spelling, read
from reliable_tasks.errors import ConfigurationError


def test_defaults_are_those_of_the_reference() -> None:
    """Without a word from the user: 30 s leases, 6 h horizon, 3 deaths, 64 KiB, and waiting."""
    options = read({})

    assert (options.lease_ms, options.horizon_ms) == (30_000, 21_600_000)
    assert (options.max_crashes, options.max_result_bytes) == (3, 65_536)
    assert (options.when_running, options.when_done) == ("defer", "replay")
    assert (options.when_failed, options.when_store_down) == ("release", "retry")
    assert options.idempotency_key is None


def test_retention_depends_on_the_identity() -> None:
    """A key answers its duplicates for a day; a message for as long as a copy may turn up."""
    options = read({})

    assert options.retention_for(has_key=True) == 86_400_000
    assert options.retention_for(has_key=False) == options.horizon_ms


def test_zero_retention_is_a_value() -> None:
    """retention=0 means not at all, not the default."""
    assert read({"retention": 0}).retention_for(has_key=True) == 0


def test_max_run_follows_the_hard_time_limit() -> None:
    """A hung execution is renewed until its hard limit and a margin, else for a day."""
    assert read({}).max_run_for(60) == 90_000
    assert read({}).max_run_for(None) == 86_400_000
    assert read({"max_run": 120}).max_run_for(60) == 120_000


def test_durations_may_be_timedeltas() -> None:
    """Half a minute is 30 seconds."""
    assert read({"lease_seconds": timedelta(minutes=0.5)}).lease_ms == 30_000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"lease_seconds": 0}, "lease_seconds: expected seconds"),
        ({"lease_seconds": "30"}, "got '30'"),
        ({"lease_seconds": True}, "got True"),
        ({"lease_seconds": float("nan")}, "got nan"),
        ({"retention": -1}, "retention: expected seconds .* at least 0, got -1"),
        ({"redelivery_horizon": 0}, "redelivery_horizon"),
        ({"max_crashes": 0}, "max_crashes: expected a whole number from 1, got 0"),
        ({"max_crashes": 2.5}, "got 2.5"),
        ({"max_result_bytes": -1}, "max_result_bytes: expected a whole number from 0"),
        ({"when_running": "wait"}, r"expected one of \('defer', 'skip'\), got 'wait'"),
        ({"when_done": "raise"}, "when_done"),
        ({"when_failed": "forget"}, "when_failed"),
        ({"when_store_down": "ignore"}, "when_store_down"),
        ({"idempotency_key": "order_id"}, r"argument names such as \('order_id',\) or a callable"),
        ({"same_payload": "order_id"}, "same_payload: expected argument names"),
        ({"lease_seconds": 60, "redelivery_horizon": 30}, "must outlive every copy"),
        ({"lease_seconds": 60, "max_run": 30}, "Renewal would end before the first lease does"),
        ({"when_failed": "remember", "retention": 0}, "Without retention"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(given: dict[str, object], expected: str) -> None:
    """A wrong value, or two that contradict one another, is named with what was expected."""
    with pytest.raises(ConfigurationError, match=expected):
        read(given)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("retension", "retention"), ("lease_second", "lease_seconds"),
        ("lease_secs", "lease_seconds"), ("idempotent_key", "idempotency_key"),
        ("max_crash", "max_crashes"), ("when_fails", "when_failed"), ("max_runs", "max_run"),
        ("redelivery_horizons", "redelivery_horizon"), ("same_payloads", "same_payload"),
    ],
)  # fmt: skip
def test_a_slip_is_refused(slip: str, meant: str) -> None:
    """A misspelt option would silently do nothing, so the one that was meant is named."""
    with pytest.raises(ConfigurationError, match=f"^{slip}: expected {meant}, got {slip}"):
        check_spelling(["shop", slip], tuple(GUARDED))


def test_attributes_of_a_users_own_are_left_alone() -> None:
    """A class may have what it likes beside the options, related words among them."""
    own = [
        "shop", "leases", "store_id", "stored", "score", "retries", "retention_days", "attention",
        "key", "payload", "max_rows", "max_retries", "max_results", "when", "when_paid", "horizon",
        "running", "bytes", "idempotent", "crashes", "max_turns", "detention_note",
    ]  # fmt: skip
    check_spelling(own, tuple(GUARDED))
    check_spelling(GUARDED, tuple(GUARDED))
