"""The options of a unique task are checked as a set, when it is declared."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reliable_tasks.core.uniqueness import in_force, read
from reliable_tasks.errors import ConfigurationError


def test_defaults_are_those_of_the_reference() -> None:
    """Without a word from the user: nothing is kept after success, 30 s of grace, 1 h in queue."""
    uniqueness, options = read({})

    assert (uniqueness.grace_ms, uniqueness.reserved_for_ms) == (30_000, 3_600_000)
    assert uniqueness.on_duplicate == "return"
    assert not uniqueness.latest_wins
    assert uniqueness.throttle_ms == 0
    assert options.retention_ms == 0


def test_unique_for_is_the_retention() -> None:
    """An equal call is a duplicate for as long as the outcome answers it."""
    uniqueness, options = read({"unique_for": timedelta(minutes=5)})

    assert uniqueness.unique_for_ms == options.retention_ms == 300_000


@pytest.mark.parametrize("mode", [{"keep_last": True}, {"debounce": 5}])
def test_modes_in_which_the_latest_call_wins(mode: dict[str, object]) -> None:
    """With keep_last and debounce a later call takes the place of one that waits."""
    uniqueness, _ = read(mode)

    assert uniqueness.latest_wins


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"unique_for": -1}, "unique_for: expected seconds .* at least 0, got -1"),
        ({"on_duplicate": "drop"}, r"on_duplicate: expected one of \('return', 'raise'\)"),
        ({"publish_grace": 0}, "publish_grace: expected seconds .* at least 0.1, got 0"),
        ({"reserved_for": 0.5}, "reserved_for: expected seconds .* at least 1, got 0.5"),
        ({"keep_last": "yes"}, "keep_last: expected True or False, got 'yes'"),
        ({"periodic": 60}, "periodic: expected True or False, got 60"),
        ({"debounce": "soon"}, "debounce: expected seconds"),
        ({"throttle": -1}, "throttle: expected seconds"),
        ({"unique_for": 5, "throttle": 5}, "at most one of .*, got unique_for and throttle"),
        ({"keep_last": True, "debounce": 5}, "at most one of .*, got keep_last and debounce"),
        ({"unique_for": 5, "keep_last": True}, "got unique_for and keep_last"),
        ({"throttle": 5, "periodic": True}, "got throttle and periodic"),
        ({"debounce_limit": 5}, "debounce_limit: expected debounce beside it, got 5 s alone"),
        ({"debounce": 10, "debounce_limit": 5}, r"at least debounce \(10 s\), got 5 s"),
        ({"retention": 60}, "retention: expected nothing on a UniqueTask, got 60"),
        ({"retention": 0}, "retention: expected nothing on a UniqueTask, got 0"),
        ({"when_failed": "remember"}, "expected 'release' without unique_for"),
        ({"keep_last": True, "same_payload": ("a",)}, "same_payload: expected nothing with keep"),
        ({"debounce": 5, "same_payload": ("a",)}, "same_payload: expected nothing with debounce"),
        ({"debounce": 5, "when_running": "skip"}, "expected 'defer' with debounce, got 'skip'"),
        ({"keep_last": True, "when_running": "skip"}, "expected 'defer' with keep_last"),
        ({"lease_seconds": 0}, "lease_seconds: expected seconds"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, object], expected: str) -> None:
    """A wrong value, or two that contradict one another, is named with what was expected."""
    with pytest.raises(ConfigurationError, match=expected):
        read(given)


def test_what_works_together() -> None:
    """A failure is remembered where success is, a debounce has a limit, and skipping is allowed."""
    read({"unique_for": 60, "when_failed": "remember", "when_done": "skip"})
    read({"debounce": 5, "debounce_limit": 5})
    read({"throttle": 5, "when_running": "skip", "same_payload": ("a",)})


@pytest.mark.parametrize(
    ("declared", "settings"),
    [
        ({}, {"retention": 60}),
        ({}, {"when_failed": "remember"}),
        ({"keep_last": True}, {"when_failed": "remember"}),
        ({"keep_last": True}, {"same_payload": ("a",), "when_running": "skip"}),
        ({"debounce": 5}, {"same_payload": ("a",), "when_running": "skip"}),
        ({"throttle": 5}, {"debounce_limit": 60}),
        ({"throttle": 5}, {"unique_for": 300, "when_failed": "remember"}),
        ({"unique_for": timedelta(minutes=5)}, {"keep_last": True, "debounce": 5}),
    ],
)
def test_settings_that_do_not_suit_do_not_apply(
    declared: dict[str, object], settings: dict[str, object]
) -> None:
    """What the app says for all its tasks forbids no mode of one."""
    assert read(in_force(declared, settings)) == read(declared)


def test_settings_that_suit_apply() -> None:
    """What the task leaves open, the app decides; what the task says goes before."""
    declared = {"reserved_for": 100, "when_running": "defer", "keep_last": None, "throttle": 0}
    settings = {"reserved_for": 50, "when_running": "skip", "unique_for": 60, "throttle": 5}

    found = in_force(declared, {**settings, "when_failed": "remember"})

    assert read(found) == read(
        {
            "reserved_for": 100,
            "when_running": "defer",
            "unique_for": 60,
            "when_failed": "remember",
        }
    )


@pytest.mark.parametrize(
    ("declared", "settings"),
    [
        ({"when_failed": "remember"}, {}),
        ({"keep_last": True, "when_running": "skip"}, {}),
        ({"same_payload": ("a",)}, {"keep_last": True}),
        ({}, {"keep_last": True, "debounce": 5}),
        ({}, {"when_failed": "forget"}),
    ],
)
def test_what_is_declared_is_refused(
    declared: dict[str, object], settings: dict[str, object]
) -> None:
    """Not so what the task says itself, settings that contradict each other, and nonsense."""
    with pytest.raises(ConfigurationError):
        read(in_force(declared, settings))
