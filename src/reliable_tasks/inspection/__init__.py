"""What operators ask: where a job is, what the records say, how the work goes."""

from __future__ import annotations

__all__ = ()
