"""The errors as users type them."""

from __future__ import annotations

from typing import assert_type

from reliable_tasks.errors import ReliableTasksError, StoreUnavailable, UnserializableArguments


def what_to_pass_instead(error: UnserializableArguments) -> str:
    assert_type(error.argument, str)
    assert_type(error.kind, str)
    return str(error)


def one_tree(error: StoreUnavailable) -> ReliableTasksError:
    return error
