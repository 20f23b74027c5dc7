"""The passwords of an app, to keep them out of what is told (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from reliable_tasks.presets.addresses import masked

__all__ = ("hidden", "secrets_in")

HIDDEN = "***"
SHORTEST = 4  # letters; a shorter password would blank out words that are none
_PASSWORD = re.compile(r"://[^/@;:]*:((?:(?!://).)*)(?=@)")
_ENDS_ONE = re.compile(r"[/?#;@:\[\]]")
_SAYS_SECRET = re.compile(r"passw|secret|token|credential|api_?key|access_?key", re.IGNORECASE)


def secrets_in(value: Any, *, is_secret: bool = False) -> Iterator[str]:
    """
    Yield every password in settings: of addresses, and behind names that speak of one.

    Args:
        value: A setting, or a mapping or list of them.
        is_secret: Whether its name says so.
    """
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from secrets_in(each, is_secret=bool(_SAYS_SECRET.search(str(name))))
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from secrets_in(each, is_secret=is_secret)
    elif isinstance(value, bytes):
        yield from secrets_in(value.decode(errors="replace"), is_secret=is_secret)
    elif isinstance(value, str):
        yield from [value] if is_secret else _of_addresses(value)


def hidden(text: str, secrets: Iterable[str]) -> str:
    """Return *text* with stars in place of *secrets*, and of passwords in any address in it."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, HIDDEN)
    return masked(text)


def _of_addresses(text: str) -> Iterator[str]:
    yield from _of_unreadable(text)
    for url in text.split(";"):
        if "://" not in url:
            continue
        try:
            parts = urlsplit(url)
        except ValueError:  # no address after all
            continue
        found = [value for name, value in parse_qsl(parts.query) if _SAYS_SECRET.search(name)]
        if parts.password:
            found.append(parts.password)
        for secret in found:
            yield secret
            yield unquote(secret)


def _of_unreadable(text: str) -> Iterator[str]:
    """Yield the parts in which a password is read that has letters of an address in it."""
    for found in _PASSWORD.finditer(text):
        if _ENDS_ONE.search(found[1]):
            yield from _ENDS_ONE.split(found[1])
