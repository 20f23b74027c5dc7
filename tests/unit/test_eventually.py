"""`eventually` waits for a condition and says what it waited for."""

from __future__ import annotations

import pytest

from reliable_tasks.testing import eventually


def test_returns_the_first_true_answer():
    """The answer is the first that is true, after as many calls as it takes."""
    answers = iter([0, "", None, "there", "later"])

    assert eventually(lambda: next(answers), interval=0) == "there"


def test_a_failed_assertion_counts_as_not_yet():
    """A condition may assert: it is asked again until its assertions hold."""
    answers = iter([1, 2, 3])

    def is_three():
        assert next(answers) == 3
        return True

    assert eventually(is_three, interval=0)


def test_failure_says_what_was_waited_for():
    """A condition that stays false is an AssertionError with the message and the last answer."""
    with pytest.raises(
        AssertionError, match=r"not within 0 s: three workers \(last answer: \[\]\)"
    ):
        eventually(list, timeout=0, message="three workers")


def test_message_is_made_only_when_needed():
    """A message that costs something is made after the last failure."""
    with pytest.raises(AssertionError, match="log of the worker"):
        eventually(lambda: False, timeout=0, message=lambda: "log of the worker")


def test_the_last_failed_assertion_is_shown():
    """Of a condition that asserts, the last failed assertion is shown."""

    def never():
        raise AssertionError("2 of 3")

    with pytest.raises(AssertionError, match="2 of 3"):
        eventually(never, timeout=0)


def test_another_error_is_passed_on():
    """An error that is no failed assertion ends the waiting at once."""
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0)
