"""Errors reach callers whole, whatever carries them."""

from __future__ import annotations

import json
import pickle

import pytest
from celery import Celery

import reliable_tasks
from reliable_tasks import errors

EXAMPLES = [
    errors.ConfigurationError("lease_seconds: expected seconds, got 'soon'"),
    errors.UnserializableArguments("order['lines'][1]", "shop.models.Line"),
    errors.IdempotencyKeyReused("rt1::shop.charge:@1"),
    errors.DuplicateJob("rt1::shop.refresh:@1", "id-1"),
    errors.InheritedConnection(100, 101),
    errors.AlreadyRunning("rt1::shop.charge:@1", 12.5),
    errors.AlreadyDone("rt1::shop.charge:@1", {"charged": 999}),
    errors.LeaseLost("rt1::shop.charge:@1", 30.0, 41.2),
    errors.ResultNotKept("rt1::shop.charge:@1"),
    errors.RetriesExhausted(3, 0.4),
    errors.Quarantined("rt1::shop.charge:@1", 3),
    errors.StoreUnavailable("claim", "TimeoutError"),
]
each_error = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


def test_every_error_is_in_the_examples() -> None:
    """No error of the tree is left out of the tests below, nor of the package's face."""
    names = set(errors.__all__) - {"ReliableTasksError"}

    assert {type(error).__name__ for error in EXAMPLES} == names
    assert names <= set(reliable_tasks.__all__)


@each_error
def test_belongs_to_the_tree(error: errors.ReliableTasksError) -> None:
    """Whoever catches ReliableTasksError catches them all."""
    assert isinstance(error, errors.ReliableTasksError)


@each_error
def test_survives_pickle(error: errors.ReliableTasksError) -> None:
    """A pool's child hands its error to the main process with all attributes."""
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert (vars(copy), str(copy)) == (vars(error), str(error))


@each_error
def test_survives_celerys_json(error: errors.ReliableTasksError) -> None:
    """A caller's `.get()` raises the same class with the same attributes."""
    backend = Celery("errors", backend="cache+memory://", set_as_current=False).backend

    stored = json.loads(json.dumps(backend.prepare_exception(error, serializer="json")))
    copy = backend.exception_to_python(stored)

    assert type(copy) is type(error)
    assert (vars(copy), str(copy)) == (vars(error), str(error))


def test_one_death_is_said_as_one() -> None:
    """With `max_crashes=1` the text still reads as a sentence."""
    assert " 1 execution ended " in str(errors.Quarantined("rt1::shop.charge:@1", 1))
