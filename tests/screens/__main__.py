"""
Run a shop in which much goes wrong, and draw what the commands say of it: `nox -s screens`.

Writes docs/images/screen-*.svg.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from reliable_tasks.testing import Database, WorkerProcess, eventually, valkey_server
from tests.screens.picture import WIDTH, draw

FOLDER = Path("docs/images")
SHOP, SICK = "tests.screens.shop", "tests.screens.sick"
PROGRAMS = Path(sys.executable).parent


class Shop:
    """A database, and the environment in which commands know the shop."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.reports = folder / "reports"
        self.url = database.url
        self.env = {"SHOP_URL": database.url, "SHOP_REPORTS": str(self.reports)}
        os.environ.update(self.env)

    def picture(self, name: str, command: str, app: str = SHOP) -> None:
        """Run *command*, and draw what it prints as ``screen-<name>.svg``."""
        printed = self._as_read(self.run(command, app))
        draw(command, printed, FOLDER / f"screen-{name}.svg")
        print(f"$ {command}\n{printed}", flush=True)

    def sees(self, command: str) -> bool:
        """Whether a listing has anything in it; one that has not says ``0 of ...``."""
        return not self.run(command).startswith("0 of")

    def run(self, command: str, app: str = SHOP) -> str:
        """Return what *command* prints on a terminal; its status does not matter."""
        words = command.replace("-A shop", f"-A {app}").split()
        if words[0] == "reliable-tasks":
            words += ["--directory", str(self.reports)]
        seen = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
        done = subprocess.run(
            [PROGRAMS / words[0], *words[1:]],
            env={**os.environ, **seen},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout + done.stderr

    def _as_read(self, printed: str) -> str:
        """Return what is left on the screen, with the names and addresses of a shop."""
        left = re.split(r"(?:\x1b\[2K\x1b\[1A)+\x1b\[2K", printed)[-1].replace("\x1b[?25h", "")
        port = self.url.rsplit(":")[-1].partition("/")[0]
        here = re.sub(rf"(127\.0\.0\.1|localhost):{port}", "redis.shop:6379", left)
        names = {
            SHOP: "shop",
            SICK: "shop",
            f"{Path.cwd()}/tests/screens/": "/srv/shop/",
            f"{Path.cwd()}/src/": "/srv/lib/",
            f" {socket.gethostname()} ": " web-1 ",
        }
        for real, name in names.items():
            here = here.replace(real, name)
        return here


def main() -> None:
    """Let things go wrong, and look at them."""
    FOLDER.mkdir(exist_ok=True)
    with valkey_server(appendonly=True) as server, TemporaryDirectory() as folder:
        sick = Shop(server.new_database(), Path(folder))
        with WorkerProcess(SICK, env=sick.env, name="shop", concurrency=3):
            sick.picture("doctor", "celery -A shop reliable doctor", SICK)
        shop = Shop(server.new_database(), Path(folder))
        first = WorkerProcess(SHOP, env=shop.env, name="shop-1", concurrency=3)
        second = WorkerProcess(SHOP, env=shop.env, name="shop-2", concurrency=3)
        with first, second:
            publish()
            look(shop)
            second.pause(second.pid)
            eventually(lambda: "not alive" in shop.run("reliable-tasks alive --within 5"))
            shop.picture("alive", "reliable-tasks alive --within 5")
            second.resume()


def publish() -> None:
    """Publish a job for each thing that can be seen."""
    from tests.screens import shop  # it reads the environment

    for order in (41, 42):
        shop.charge.apply_async((order,), task_id=f"charge-{order}").get(timeout=30)
    shop.charge.apply_async((43, 600.0), task_id="charge-43")
    shop.ship.apply_async((42,), task_id="ship-42")
    shop.refund.apply_async((17,), task_id="refund-17")
    shop.report.apply_async(("sunday",), task_id="report-sunday")
    shop.refresh_catalogue.apply_async((7,), task_id="refresh-7", countdown=900)
    shop.import_feed.apply_async(("feed.csv",), task_id="import-feed")


def sell(over: threading.Event) -> None:
    """Publish orders, each of them twice, until it is over."""
    from tests.screens import shop

    for order in itertools.count(1_000):
        for _ in range(2):
            shop.charge.delay(order)
        if over.wait(0.05):
            return


def look(shop: Shop) -> None:
    """Draw a picture of each command, once its subject has come about."""
    for state in ("retrying", "failed", "quarantined", "reserved", "running"):
        command = f"celery -A shop reliable list --state {state}"
        eventually(partial(shop.sees, command), timeout=60, message=state)
    eventually(lambda: "@localhost" in shop.run("celery -A shop reliable list --state running"))
    shop.picture("list", "celery -A shop reliable list")
    shop.picture("show", "celery -A shop reliable show charge-42 --result")
    shop.picture("why-running", "celery -A shop reliable why charge-43")
    shop.picture("why-retrying", "celery -A shop reliable why ship-42")
    shop.picture("dead", "celery -A shop reliable dead list")
    shop.picture("dead-show", "celery -A shop reliable dead show refund-17")
    over = threading.Event()
    sale = threading.Thread(target=sell, args=(over,))
    sale.start()
    shop.picture("watch", "celery -A shop reliable watch --once")
    over.set()
    sale.join()


if __name__ == "__main__":
    main()
