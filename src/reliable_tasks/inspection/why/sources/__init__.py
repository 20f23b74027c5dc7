"""Who is asked; each answers within its time, or says why not."""

from __future__ import annotations

__all__ = ()
