"""Which kind a resource is, by the names of its classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import iscoroutinefunction, signature
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from reliable_tasks.errors import ConfigurationError
from reliable_tasks.pools import clients, django, psycopg, sqlalchemy
from reliable_tasks.pools.kinds import Kind, lineage

__all__ = ("recognise", "stand_in")

# By the full name of a class, and by the word that stands for a framework.
KINDS: Mapping[str, Kind] = {**sqlalchemy.KINDS, **psycopg.KINDS, **clients.KINDS}
WORDS: Mapping[str, Kind] = {**django.WORDS}
# What cannot be kept over a fork or closed from outside, and what to do instead.
REFUSED: Mapping[str, str] = {**sqlalchemy.REFUSED, **psycopg.REFUSED, **clients.REFUSED}

FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType, partial)
WAYS_TO_CLOSE = ("close", "dispose", "disconnect")
ACCEPTED = (
    "a SQLAlchemy engine, scoped_session or sessionmaker, a pool of psycopg_pool or psycopg2, a "
    "redis-py, httpx, requests or pymongo client, 'django', an object with close(), dispose() or "
    "disconnect(), or a function"
)


def recognise(
    resource: Any,
    *,
    reset: Callable[[], object] | None = None,
    close: Callable[[], object] | None = None,
) -> Kind:
    """
    Return how *resource* is reset and closed.

    Args:
        resource: What was given to `close_on_shutdown`.
        reset: What the user says instead.
        close: What the user says instead.

    Raises:
        ConfigurationError: Nothing is known of it and *close* was not given; or too much is
            known: it cannot be reset or closed from outside, and not both were given.
    """
    for option, function in (("reset", reset), ("close", close)):
        if function is not None:
            _check_function(option, function)
    if reset is None or close is None:
        _check_possible(resource)
    kind = _known(resource)
    if kind is None and close is None:
        kind = _by_its_methods(resource)
    if kind is None:
        kind = Kind(title=type(resource).__name__, close=_nothing, is_known=False)
    if reset is None or close is None:
        _check_this_one(kind, resource)
    if close is not None:
        kind = replace(kind, collect=None, close=_bound(close, resource))
    if reset is not None:
        kind = replace(kind, reset=_bound(reset, resource))
    return kind


def stand_in(resource: Any) -> Any:
    """Return what is registered in the place of *resource*, which others may hold alone."""
    for name in lineage(resource):
        if name in sqlalchemy.STAND_INS:
            return sqlalchemy.STAND_INS[name](resource) or resource
    return resource


def _known(resource: Any) -> Kind | None:
    if isinstance(resource, str):
        return WORDS.get(resource)
    return next((KINDS[name] for name in lineage(resource) if name in KINDS), None)


def _check_possible(resource: Any) -> None:
    names = lineage(resource)
    for name in names:
        if name in REFUSED:
            raise ConfigurationError(f"close_on_shutdown: got a {names[0]}. {REFUSED[name]}")


def _check_this_one(kind: Kind, resource: Any) -> None:
    reason = kind.refuse and kind.refuse(resource)
    if reason:
        raise ConfigurationError(f"close_on_shutdown: {reason}")


def _by_its_methods(resource: Any) -> Kind:
    if not isinstance(resource, type):  # the class of a client is no client
        for way in WAYS_TO_CLOSE:
            method = getattr(resource, way, None)
            if callable(method):
                return _generic(resource, way, method)
        if isinstance(resource, FUNCTIONS):
            _check_function("close_on_shutdown", resource)
            return Kind(title=getattr(resource, "__name__", "function"), close=_call, is_weak=False)
    what = "the class" if isinstance(resource, type) else "a"  # a repr may show a password
    named = (resource if isinstance(resource, type) else type(resource)).__name__
    raise ConfigurationError(f"close_on_shutdown: expected {ACCEPTED}; got {what} {named}")


def _generic(resource: Any, way: str, method: Callable[[], object]) -> Kind:
    title = type(resource).__name__
    if iscoroutinefunction(method):
        raise ConfigurationError(
            f"close_on_shutdown: expected a {way}() that is no coroutine; got {title}. When a "
            "worker process ends no event loop runs: give close= a function that runs one."
        )
    return Kind(title=title, close=lambda one: getattr(one, way)(), is_known=False)


def _check_function(option: str, function: Any) -> None:
    """Refuse what cannot be called without arguments, or does nothing when it is."""
    if not callable(function):
        raise ConfigurationError(
            f"{option}: expected a function without arguments, got a {type(function).__name__}"
        )
    name = getattr(function, "__name__", type(function).__name__)
    if iscoroutinefunction(function):
        raise ConfigurationError(
            f"{option}: expected a plain function, got the coroutine function {name}(). When a "
            "worker process ends no event loop runs: give a function that runs one."
        )
    try:
        signature(function).bind()
    except TypeError as error:
        raise ConfigurationError(
            f"{option}: expected a function without arguments, got {name}(): {error}"
        ) from None
    except ValueError:  # some builtins have no signature
        return


def _bound(function: Callable[[], object], resource: Any) -> Callable[[Any], object]:
    """Return *function* as one of a Kind; a method of *resource* does not keep it alive."""
    if isinstance(function, MethodType) and function.__self__ is resource:
        return function.__func__
    return lambda _: function()


def _call(function: Callable[[], object]) -> object:
    return function()


def _nothing(_: Any) -> None:
    pass
