"""A stand-in for a payment provider: it takes its time and keeps books of its own."""

from __future__ import annotations

import os
import secrets
import time
from typing import Any

from reliable_tasks.demo.journal import Journal, Kind
from reliable_tasks.demo.plan import Point
from reliable_tasks.demo.site import Site

__all__ = ("Gateway", "Scribe")

AUTHORISE_SECONDS, CAPTURE_SECONDS = 0.06, 0.01
LONGEST_HOLD = 30.0  # seconds


class Scribe:
    """Writes what happens to the one delivery that this process is working on."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._payment, self._run = 0, ""

    def open(self, payment: int, **facts: Any) -> None:
        """Begin with a new delivery."""
        self._payment, self._run = payment, secrets.token_hex(6)
        self.note(Kind.DELIVERED, **facts)

    def note(self, kind: Kind, **facts: Any) -> None:
        """Write a line about the delivery."""
        self._journal.note(kind, self._payment, self._run, **facts)


class Gateway:
    """
    Authorises and charges, and suffers the faults of the plan.

    Args:
        site: The side it works for.
        scribe: Writes its books.
    """

    def __init__(self, site: Site, scribe: Scribe) -> None:
        self._site, self._scribe = site, scribe
        self._faults = site.plan.faults

    def authorise(self, payment: int) -> None:
        """Ask whether the money is there."""
        time.sleep(AUTHORISE_SECONDS)
        self._suffer(payment, Point.BEFORE)

    def charge(self, payment: int, cents: int) -> None:
        """Take the money: the effect that must happen once."""
        self._scribe.note(Kind.CHARGED, cents=cents)
        self._suffer(payment, Point.AFTER)
        time.sleep(CAPTURE_SECONDS)

    def _suffer(self, payment: int, point: Point) -> None:
        """Wait for the blow that the plan has for the first execution to come here."""
        fault = self._faults.get(payment)
        if fault is None or fault.point is not point or not self._comes_first(payment):
            return
        self._scribe.note(Kind.HELD)
        release, patient_until = self._site.sign("release", payment), time.time() + LONGEST_HOLD
        while not release.exists() and time.time() < patient_until:
            time.sleep(0.01)

    def _comes_first(self, payment: int) -> bool:
        try:
            sign = self._site.sign("held", payment)
            os.close(os.open(sign, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return False
        return True
