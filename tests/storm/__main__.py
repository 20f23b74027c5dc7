"""
Run the four ways one after the other, and print what the service saw: `nox -s storm`.

`--write` draws docs/images/retry-budget.png.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from reliable_tasks.testing import redis_server
from tests.storm.picture import draw
from tests.storm.run import WAYS, Storm, storm

PICTURE = Path("docs/images/retry-budget.png")
HEAD = (
    "| | retries while it was down | most in a second | most in a tenth of one | all done after |\n"
    "| --- | --- | --- | --- | --- |"
)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"draw {PICTURE}")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average before: {os.getloadavg()[0]:.1f}\n\n{HEAD}")
    storms = {}
    with redis_server() as server:
        for way in WAYS:
            storms[way] = storm(server.new_database(), way)
            print(_row(way, storms[way]), flush=True)
    if options.write:
        draw(storms, PICTURE)


def _row(way: str, seen: Storm) -> str:
    return (
        f"| {way} | {seen.while_down} | {seen.highest(1.0)} | {seen.highest(0.1)} "
        f"| {seen.over_after:.0f} s |"
    )


if __name__ == "__main__":
    main()
