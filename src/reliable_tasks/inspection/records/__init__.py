"""The records of an app's guarded jobs: listed, shown, forgotten."""

from __future__ import annotations

from reliable_tasks.inspection.records.entries import STATES, Entry, Wanted
from reliable_tasks.inspection.records.finding import Found, find
from reliable_tasks.inspection.records.forgetting import consequences, forget
from reliable_tasks.inspection.records.listing import Listing, records
from reliable_tasks.inspection.records.showing import document

__all__ = (
    "STATES",
    "Entry",
    "Found",
    "Listing",
    "Wanted",
    "consequences",
    "document",
    "find",
    "forget",
    "records",
)
