"""What an examination has found, for people and for programs."""

from __future__ import annotations
