"""
The main job, shown: the same payments and the same faults, on plain Celery and guarded.

`reliable-tasks demo` runs it. Read `shops` for the two tasks, `plan` for what is done to
them, `tally` for how the table at the end is counted.
"""

from __future__ import annotations
