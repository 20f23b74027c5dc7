"""The name of a task's code, which workers compare."""

from __future__ import annotations

import subprocess
import sys
from functools import wraps
from typing import Any

import pytest

from reliable_tasks.inspectable import digest_of

BODY = """
def work(order: str) -> str:
    "Do it."
    return order if order in {"a", "b", "c"} else "none"
"""


def compiled(source: str, file: str = "shop.py") -> Any:
    """Return the function of *source* as if it stood in *file*."""
    names: dict[str, Any] = {}
    exec(compile(source, file, "exec"), names)
    return names["work"]


class TestDigest:
    """`digest_of` names what a function does."""

    @pytest.mark.parametrize(
        ("other", "file"),
        [(BODY, "/srv/other/shop.py"), (f"\n\n# a comment\n{BODY}", "shop.py")],
    )
    def test_place_and_comments_do_not_count(self, other, file):
        """The same code on two machines has one name."""
        assert digest_of(compiled(other, file)) == digest_of(compiled(BODY))

    @pytest.mark.parametrize(
        "other",
        [
            BODY.replace('"none"', '"some"'),
            BODY.replace("order in", "order not in"),
            BODY.replace('"c"', '"d"'),
            BODY.replace("if order in", "if str(order) in"),
        ],
    )
    def test_what_it_does_counts(self, other):
        """A constant, an operator, a member of a set, a call."""
        assert digest_of(compiled(other)) != digest_of(compiled(BODY))

    def test_decorators_are_looked_through(self):
        """A wrapper of the library is not the task's code."""
        work = compiled(BODY)

        @wraps(work)
        def wrapper(order: str) -> str:
            return work(order)

        assert digest_of(wrapper) == digest_of(work)

    def test_what_is_not_python_has_none(self):
        """A builtin has no code to look at."""
        assert digest_of(len) is None

    def test_every_process_says_the_same(self):
        """Sets have another order in each process; names do not."""
        script = (
            "from reliable_tasks.inspectable import digest_of\n"
            f"names = {{}}; exec({BODY!r}, names); print(digest_of(names['work']))"
        )
        found = {
            subprocess.run(
                [sys.executable, "-c", script],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("1", "2")
        }
        assert found == {f"{digest_of(compiled(BODY))}\n"}
