"""The whole demo, from a server to an exit status."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Self

import redis
from kombu.exceptions import OperationalError

from reliable_tasks.demo.ground import Ground, ground
from reliable_tasks.demo.plan import Blow, Plan, draw
from reliable_tasks.demo.screen import Screen
from reliable_tasks.demo.site import Side, Site
from reliable_tasks.demo.stand import Stand
from reliable_tasks.demo.trouble import Interrupted, Trouble, scrubbed
from reliable_tasks.demo.verdict import Verdict
from reliable_tasks.testing.processes import remove_directory, scratch_directory
from reliable_tasks.testing.workers import WorkerFailed

__all__ = ("show",)

STEP_SECONDS = 0.02
LONGEST = 50.0  # seconds for up to EASY_JOBS payments
EASY_JOBS, SECONDS_PER_JOB = 300, 0.1
KEPT, BROKEN, UNABLE = 0, 1, 2


def show(url: str | None, jobs: int, seed: int) -> int:
    """
    Run the demo.

    Args:
        url: A Redis of the user's; None: start one.
        jobs: Payments.
        seed: Of the plan.

    Returns:
        0 if the guarded side lost none and doubled none without a named reason, else 1; 2 if
        the demo could not run; 128 and the signal's number if it was interrupted.
    """
    with _Signals() as signals, _no_celery_variables():
        try:
            return _Show(url, jobs, seed, signals).run()
        except Interrupted as stop:
            _complain("stopped; no process and no key is left behind")
            return 128 + stop.number
        except Trouble as trouble:
            reason = str(trouble)
        except (redis.RedisError, OperationalError) as error:
            reason = (
                f"the server failed in the middle: {scrubbed(error, url)}. Start the demo again."
            )
        except WorkerFailed as error:
            reason = f"a worker did not start: {scrubbed(error, url)}"
        _complain(reason)
        return UNABLE


@contextmanager
def _no_celery_variables() -> Iterator[None]:
    """Hide CELERY_BROKER_URL and its kin: they win over settings, and name a broker in use."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name[:7] == "CELERY_"}
    try:
        yield
    finally:
        os.environ.update(hidden)


class _Signals:
    """Turns Ctrl-C and its kin into an `Interrupted` where the demo can take it."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._number = number

    def check(self) -> None:
        """Raise `Interrupted` if a signal came."""
        if self._number is not None:
            raise Interrupted(self._number)


class _Show:
    """One run of the demo."""

    def __init__(self, url: str | None, jobs: int, seed: int, signals: _Signals) -> None:
        self._url, self._jobs, self._seed, self._signals = url, jobs, seed, signals

    def run(self) -> int:
        with ExitStack() as stack:
            place = stack.enter_context(ground(self._url))
            folder = scratch_directory()
            stack.callback(remove_directory, folder)
            screen = stack.enter_context(Screen())
            stands = {side: self._stand(side, place, str(folder), screen) for side in Side}
            for stand in stands.values():
                stack.callback(stand.close)
            self._announce(screen, place)
            finished = self._play(stands, screen)
            verdict = Verdict(stands[Side.GUARDED].tally, finished)
            screen.conclude({side: stand.tally for side, stand in stands.items()}, verdict)
            return KEPT if verdict.is_kept else BROKEN

    def _stand(self, side: Side, place: Ground, folder: str, screen: Screen) -> Stand:
        site = Site(
            side=side,
            url=place.url,
            prefix=f"{place.prefix}-{side}.",
            folder=folder,
            jobs=self._jobs,
            seed=self._seed,
        )
        return Stand(site, place.client, screen.tell)

    def _announce(self, screen: Screen, place: Ground) -> None:
        plan = draw(self._jobs, self._seed)
        screen.say(
            f"{self._jobs} payments, {plan.sent_again} of them sent two or three times, through "
            f"{place.what}: once to plain Celery (acks_late, reject_on_worker_lost), once to "
            "IdempotentTask."
        )
        screen.say(f"Both suffer the same: {_faults(plan)}.")

    def _play(self, stands: Mapping[Side, Stand], screen: Screen) -> bool:
        """Step until both sides are over, or time is; returns whether they are."""
        screen.start(self._jobs)
        for stand in stands.values():
            stand.start()
        longest = LONGEST + SECONDS_PER_JOB * max(0, self._jobs - EASY_JOBS)
        ends_at = time.monotonic() + longest
        while time.monotonic() < ends_at:
            for stand in stands.values():
                self._signals.check()
                stand.step()
            screen.update({side: stand.tally for side, stand in stands.items()})
            if all([stand.is_over for stand in stands.values()]):  # noqa: C419 - ask each one
                return True
            time.sleep(STEP_SECONDS)
        return False


def _faults(plan: Plan) -> str:
    blows = [fault.blow for fault in plan.faults.values()]
    return (
        f"SIGKILL of pool processes ({blows.count(Blow.KILL_CHILD)}) and of whole workers "
        f"({blows.count(Blow.KILL_WORKER)}), pauses past the lease ({blows.count(Blow.PAUSE)})"
    )


def _complain(text: str) -> None:
    sys.stderr.write(f"reliable-tasks demo: {text}\n")
