"""Versions of releases, compared by their numbers (pure)."""

from __future__ import annotations

import operator
import re
from itertools import zip_longest

__all__ = ("allows", "is_at_least", "numbers")

LIMITS = re.compile(r"(<=|>=|==|!=|<|>)\s*(\d+(?:\.\d+)*)")
COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}


def numbers(version: str | None) -> tuple[int, ...]:
    """Return the numbers of a version: those before anything else."""
    head = re.match(r"\d+(\.\d+)*", version or "")
    return tuple(map(int, head[0].split("."))) if head else ()


def is_at_least(version: str | None, *least: int) -> bool:
    """Whether a version is known, and *least* or later."""
    found = numbers(version)
    return bool(found) and found >= least


def allows(limits: str, version: str) -> bool:
    """
    Whether a requirement lets a version be installed.

    Args:
        limits: As in the metadata of a distribution: ``<6.5,>=4.5.2``.
        version: What is installed.
    """
    return all(_holds(sign, version, limit) for sign, limit in LIMITS.findall(limits))


def _holds(sign: str, version: str, limit: str) -> bool:
    pairs = list(zip_longest(numbers(version), numbers(limit), fillvalue=0))
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    return bool(COMPARE[sign](ours, theirs))
