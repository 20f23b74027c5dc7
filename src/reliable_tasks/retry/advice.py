"""
What a server said about trying again (pure).

It is looked for where clients put it: on the error (`retry_after`, gRPC's trailing metadata), on
its response (requests, httpx, botocore), among the error's own headers (urllib, aiohttp, stripe),
and in a response that the function returned. What cannot be read was not said: foreign objects are
asked with care, and never end a job by the way in which they answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, Final

from reliable_tasks.retry.attempts import Outcome, Raised

__all__ = ("DO_NOT_RETRY", "DoNotRetry", "advised")

RETRY_AFTER = "retry-after"
SHOULD_RETRY = ("stripe-should-retry", "x-should-retry")
PUSHBACK = "grpc-retry-pushback-ms"

_READ = {RETRY_AFTER, *SHOULD_RETRY}
_MAX_PAIRS = 1_000  # of headers; nothing goes on for ever
_FOR_EVER = 1e10  # seconds
_MAX_LENGTH = 64  # characters of a date or a number
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?", re.ASCII)
_WHOLE = re.compile(r"[0-9]+", re.ASCII)


class DoNotRetry:
    """The server's word that it does not want to be asked again."""


DO_NOT_RETRY: Final = DoNotRetry()


def advised(outcome: Outcome, now: float) -> float | DoNotRetry | None:
    """
    Return what the server said in an error or a response.

    Args:
        outcome: How the attempt ended.
        now: Seconds since 1970, for a server that names a date.

    Returns:
        Seconds to wait, `DO_NOT_RETRY`, or None if it said nothing that can be read.
    """
    headers = _headers(outcome)
    if any(_says_false(headers.get(name)) for name in SHOULD_RETRY):
        return DO_NOT_RETRY
    if isinstance(outcome, Raised):
        pushback = _pushback(outcome.error)
        if pushback is not None:
            return pushback
        seconds = _seconds(_look(outcome.error, "retry_after"), now)
        if seconds is not None:
            return seconds
    return _seconds(headers.get(RETRY_AFTER), now)


def _headers(outcome: Outcome) -> Mapping[str, Any]:
    """Return the headers that matter here, by their name in small letters."""
    for source in _sources(outcome):
        found = {name.lower(): value for name, value in _pairs(source) if name.lower() in _READ}
        if found:
            return found
    return {}


def _sources(outcome: Outcome) -> Iterator[Any]:
    """Yield what may be headers."""
    if isinstance(outcome, Raised):
        response = _look(outcome.error, "response")
        yield _look(response, "headers")
        if isinstance(response, Mapping):  # botocore's; to iterate over one of requests reads it
            metadata = dict(_pairs(response)).get("ResponseMetadata")
            yield dict(_pairs(metadata)).get("HTTPHeaders")
        yield _look(outcome.error, "headers")
    elif any(_look(outcome.value, name) is not None for name in ("status_code", "status")):
        yield _look(outcome.value, "headers")


def _pushback(error: BaseException) -> float | DoNotRetry | None:
    """Return gRPC's word, by its proposal A6: what is no wait in milliseconds is a refusal."""
    metadata = _look(error, "trailing_metadata")
    if not callable(metadata):
        return None
    try:
        said = dict(_pairs(metadata())).get(PUSHBACK)
    except Exception:
        return None
    if said is None:
        return None
    is_wait = isinstance(said, str) and _WHOLE.fullmatch(said) and len(said) <= _MAX_LENGTH
    return min(int(said) / 1_000, _FOR_EVER) if is_wait else DO_NOT_RETRY


def _says_false(said: Any) -> bool:
    return isinstance(said, str) and said.strip().lower() == "false"


def _seconds(said: Any, now: float) -> float | None:
    """Return a wait that was given as seconds, a duration, a point in time, or the text of one."""
    if isinstance(said, str):
        said = _read(said.strip())
    if isinstance(said, datetime):
        point = said if said.tzinfo else said.replace(tzinfo=UTC)
        return max(0.0, point.timestamp() - now)
    if isinstance(said, timedelta):
        said = said.total_seconds()
    is_number = isinstance(said, int | float) and not isinstance(said, bool)
    return float(min(said, _FOR_EVER)) if is_number and 0 <= said < math.inf else None


def _read(text: str) -> float | datetime | None:
    """Read seconds or an HTTP date."""
    if len(text) > _MAX_LENGTH:
        return None
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        return parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None


def _pairs(headers: Any) -> list[tuple[str, Any]]:
    """Return the pairs of a mapping or a list; none of what is neither, or cannot be read."""
    try:
        items = headers.items() if callable(getattr(headers, "items", None)) else headers
        return [(name, value) for name, value in islice(items, _MAX_PAIRS) if isinstance(name, str)]
    except Exception:
        return []


def _look(source: Any, name: str) -> Any:
    """Return an attribute of a foreign object; None if there is none or it cannot be read."""
    try:
        return getattr(source, name, None)
    except Exception:
        return None
