"""What scenarios stand on: a broker, and the database of records and results."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import redis

from reliable_tasks import presets
from reliable_tasks.testing import Database, VirtualHost
from tests.integration.draining import held_routes

__all__ = ("Ground", "QueueType", "RabbitMQGround", "RedisGround")

QueueType = Literal["quorum", "classic"]

APPS_OWN = {"reliable_tasks_lease_seconds"}


class Ground(Protocol):
    """A broker that no other test has, and what workers and producers must know of it."""

    records: Database
    """Where records and results are."""

    quiet: float
    """Seconds for which the broker must look empty to be empty."""

    @property
    def broker_url(self) -> str:
        """Address of the broker."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Celery settings of workers and producers."""
        ...

    @property
    def env(self) -> dict[str, str]:
        """The variables that name broker and results to Celery."""
        return {"CELERY_BROKER_URL": self.broker_url, "CELERY_RESULT_BACKEND": self.records.url}

    def held(self) -> dict[str, int]:
        """Return how many messages of jobs are where, waiting or not acknowledged."""
        ...

    def is_drained(self, queues: Collection[str], readers: int) -> bool:
        """Whether no message is left in *queues*, which so many workers read, nor on its way."""
        ...

    def missing(self, jobs: Collection[str]) -> set[str]:
        """Return those of *jobs* that are not there although nobody may have taken them."""
        ...

    def take_back(self) -> None:
        """Have the broker take back what a paused worker holds, as it does at last by itself."""
        ...

    def close(self) -> None:
        """Give back what costs the broker something as long as it is there."""
        ...


@dataclass
class RedisGround(Ground):
    """One database that is broker, records and results."""

    records: Database
    quiet: float = 0.3

    @cached_property
    def _client(self) -> redis.Redis:
        """One for all looks: a test looks some twenty times a second."""
        return self.records.client()

    @property
    def broker_url(self) -> str:
        return self.records.url

    @property
    def settings(self) -> Mapping[str, Any]:
        return {}

    def held(self) -> dict[str, int]:
        with self._client.pipeline(transaction=True) as pipe:
            pipe.llen("celery").hlen("unacked").zcard("unacked_index")
            counts = pipe.execute()
        held = zip(("celery", "unacked", "unacked_index"), counts, strict=True)
        return {name: count for name, count in held if count}

    def is_drained(self, queues: Collection[str], readers: int) -> bool:
        return held_routes(self._client, queues, readers) == set()

    def missing(self, jobs: Collection[str]) -> set[str]:
        """
        Return those of *jobs* whose message the broker does not hold.

        kombu takes a message out of its list and notes it as unacknowledged in two steps. Right
        after a worker or the server died, the jobs between the two are named here.
        """
        with self._client.pipeline(transaction=True) as pipe:
            waiting, taken = pipe.lrange("celery", 0, -1).hvals("unacked").execute()
        messages = [json.loads(each) for each in waiting]
        messages += [json.loads(each)[0] for each in taken]
        return set(jobs) - {message["headers"]["id"] for message in messages}

    def take_back(self) -> None:
        """Nothing to do: the visibility timeout is short."""

    def close(self) -> None:
        """Close what has looked."""
        self._client.close()


@dataclass(slots=True)
class RabbitMQGround(Ground):
    """A virtual host with the preset's queues, and a database of records and results apart."""

    vhost: VirtualHost
    records: Database
    queue_type: QueueType
    publishers: Literal["web", "worker"] = "worker"
    quiet: float = 1.0  # a quorum queue counts its messages now and then, see `TICK_MS`

    @property
    def broker_url(self) -> str:
        return self.vhost.url

    @property
    def settings(self) -> Mapping[str, Any]:
        preset = presets.rabbitmq(
            self.vhost.url,
            results=self.records.url,
            queue_type=self.queue_type,
            publishers=self.publishers,
        )
        settings = {name: preset[name] for name in preset if name not in APPS_OWN}
        # Celery counts a job's own hard limit, if it is shorter than the soft one, from that on.
        return {**settings, "task_soft_time_limit": None}

    def held(self) -> dict[str, int]:
        """Count delayed messages and dead letters too, not the workers' own talk."""
        return {
            name: state.ready + state.unacknowledged
            for name, state in self.vhost.queues().items()
            if name.startswith(("jobs", "celery_delayed_")) and state.ready + state.unacknowledged
        }

    def is_drained(self, queues: Collection[str], readers: int) -> bool:
        """Look for as long as it takes to be sure."""
        until = time.monotonic() + self.quiet
        while not self.held():
            if time.monotonic() > until:
                return True
            time.sleep(0.1)
        return False

    def missing(self, jobs: Collection[str]) -> set[str]:
        """Return nothing: RabbitMQ notes what it hands out."""
        return set()

    def take_back(self) -> None:
        """Drop the connections, as missed heartbeats do after a minute."""
        self.vhost.cut()

    def close(self) -> None:
        self.vhost.delete()
