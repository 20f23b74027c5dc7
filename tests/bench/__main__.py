"""
Print the table of benchmarks: `nox -s bench`, or `python -m tests.bench`.

The exit status is 1 if a bound is missed. `--write` puts the table into docs/benchmarks.md,
`--only guard,records,publishing,heartbeat,flight,retry,imports,workers` takes a part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from reliable_tasks.testing import Server, redis_server, valkey_server
from tests.bench import flight, guard, heartbeat, imports, publishing, records, retry, workers
from tests.bench.report import Figure, failures, table
from tests.bench.rounds import Cost

PAGE = Path("docs/benchmarks.md")
SERVERS: dict[str, Callable[[], Server]] = {"Valkey": valkey_server, "Redis": redis_server}
CLIENTS = {"hiredis": (), "no hiredis": ("plain",)}
PARTS = ("guard", "records", "publishing", "heartbeat", "flight", "retry", "imports", "workers")
LEAST = {"solo": (0.75, 0.85), "prefork": (0.9, 0.95)}


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    options = parser.parse_args()
    setting = _setting()
    figures = list(_figures(options.only.split(",")))
    print(table(figures))
    if options.write:
        PAGE.write_text(_page(figures, setting), encoding="utf-8")
    missed = failures(figures)
    print(f"\n{len(missed)} of {len(figures)} figures miss their bounds." if missed else "")
    return 1 if missed else 0


def _figures(parts: list[str]) -> Iterator[Figure]:
    for name, start in SERVERS.items():
        with start() as server:
            yield from _figures_of(server, name, parts)
    if "retry" in parts:
        yield from retry.retry()
    if "imports" in parts:
        yield from imports.imports()


def _figures_of(server: Server, name: str, parts: list[str]) -> Iterator[Figure]:
    if "guard" in parts:
        for client, arguments in CLIENTS.items():
            yield from _guard(server, f"{name}, {client}", arguments)
    if "records" in parts:
        yield from records.memory(server.new_database(), name)
        yield from records.renewal(server.new_database(), name)
    if "publishing" in parts:
        yield from publishing.publishing(server.new_database(), name)
    if "heartbeat" in parts:
        yield from heartbeat.heartbeat(server.new_database(), name)
    if "flight" in parts:
        yield from flight.flight(server, name)
    if "workers" in parts:
        yield from _workers(server, name)


def _guard(server: Server, where: str, arguments: tuple[str, ...]) -> Iterator[Figure]:
    command = [sys.executable, "-m", guard.__name__, server.url, *arguments]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    costs = {name: Cost(**cost) for name, cost in json.loads(run.stdout).items()}
    lock, ping = costs["lock"], costs["ping"]
    for identity in ("message", "key"):
        cost = costs[identity]
        what = f"guard by {identity}"
        yield Figure(f"{what}: Lock, time", where, cost.wall / lock.wall, at_most=1.3, aim=1.0)
        yield Figure(f"{what}: Lock, CPU", where, cost.cpu / lock.cpu, at_most=1.3, aim=1.0)
        yield Figure(f"{what}: PING, time", where, cost.wall / ping.wall, at_most=3.5)
    for name, cost in costs.items():
        yield Figure(f"{name} itself", where, cost.wall, "µs")


def _workers(server: Server, where: str) -> Iterator[Figure]:
    for pool, (at_least, aim) in LEAST.items():
        ratio = workers.throughput(server, pool, rounds=7, messages=2_000)
        what = f"throughput, {pool}, guarded: plain"
        yield Figure(what, where, ratio, at_least=at_least, aim=aim)


def _setting() -> list[str]:
    """Return what the figures were taken on."""
    load = os.getloadavg()[0]
    machine = f"{os.cpu_count()} cores ({platform.machine()})"
    packages = [f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "hiredis")]
    return [
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}; load average before the run: {load:.1f}",
        f"Python {platform.python_version()}, {', '.join(packages)}",
        ", ".join(_version_of(start) for start in SERVERS.values()),
    ]


def _version_of(start: Callable[[], Server]) -> str:
    with start() as server, server.client() as client:
        info = client.info("server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    return f"{name} {info.get('valkey_version') or info['redis_version']}"


def _page(figures: list[Figure], setting: list[str]) -> str:
    return TEMPLATE.format(setting="\n".join(f"- {line}" for line in setting), table=table(figures))


TEMPLATE = """\
# Benchmarks

What the guard costs, as ratios taken in one run: absolute times depend on the machine.
This page is written by the benchmark itself.

## The latest run

{setting}

{table}

## How it was taken

- **Guard.** Celery's own tracer runs new messages of a task that does nothing, on an app whose
  broker is the server. From each figure the same without guard is taken away. What is left is the
  whole guard: key, claim, renewal bookkeeping, settle. "By message" is the default identity; "by
  key" derives the key from the arguments in the worker, which is its dearest case. The lock is
  `redis-py`'s, acquired and released in a task's body; PING is sent by the same client.
  120 rounds of 60 calls each, all things in turn, medians. CPU is that of the client's process.
- **Records.** `MEMORY USAGE` of a record in its final state. A longer task name makes the key
  longer, and with it the record.
- **Leases.** One process holds 10,000 leases and renews them in one round trip; the longest command
  is what the server's slow log says. Medians of 11 rounds.
- **Publishing.** 1,000 jobs with an argument each, one `apply_async` after the other and as one
  `publish_many`, to the server that also has the records; results are not kept. 11 rounds in turn,
  the medians of their ratios. In a batch most of the time goes into making the messages, which
  Celery does as ever; a unique job adds its key, its header and two scripts on the server. Where
  results are kept in Redis, Celery subscribes to each job's in both ways, and a batch is 2 to 3
  times a loop. A single unique `apply_async` asks for its reservation, has Celery make the message,
  and reads the answer just before that leaves. The confirmation is not waited for: on Linux it
  leaves in one packet with the next reservation, or by itself within 200 ms.
- **Retry.** A function that does nothing, with its task and a request on Celery's stacks, with and
  without the decorator; 300 rounds of 100 calls, medians. Most of it is Celery's own look-up of the
  task and the request of a thread.
- **Heartbeat.** A worker that was delivered 5,000 messages says at its broker that it holds them,
  41 times; CPU of both processes, medians, over the 1.25 s between two beats of the shortest
  visibility timeout, 5 s. At 60 s a beat comes twelve times less often.
- **Flight recorder.** Two workers of two processes, one with `reliable_tasks_flight_recorder`,
  empty the same queue of 1,000 guarded jobs in turn; CPU of all their processes, the median of 5
  rounds. What publishes the jobs records nothing, so a job has 3 lines.
  Measured apart from the table, load average 8 to 12 on two cores: 0.93 and 0.91, so the cost is
  lost in the noise. A line takes 0.8 µs of CPU where it is noted, and 8 µs in all with the thread
  that writes it (9,000 lines, 3 times, Valkey).
- **Import.** New processes, in turn with and without our import, bytecode cached; CPU time, the
  difference of the medians of 15. What runs jobs, retries, budgets, `UniqueTask`, `publish_many`
  and presets are loaded when they are first asked for; the second row has all names of the package.
- **Throughput.** A real worker empties a queue of 2,000 messages that was filled before; broker and
  records are on one server, results are ignored, no line is logged per task. One process (solo) or
  two children (prefork); 7 rounds, plain and guarded first in turn, the median of their ratios.
  Each wait for a server costs the time in which an idle core wakes, so single rounds differ by a
  fifth. A guarded job waits twice for the store, and not for the broker to acknowledge its
  message; a plain one waits for that, on kombu's longer way.

That an execution costs two commands, or three if something hangs on its message, and that all
renewals are one round trip, are tests, since nothing about them depends on the machine.

## Run it again

<!-- run by: nox -s bench -->
```console
$ nox -s bench
$ nox -s bench -- --write
```

The exit status is 1 if a figure misses its bound.
"""

if __name__ == "__main__":
    sys.exit(main())
