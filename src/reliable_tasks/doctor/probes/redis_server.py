"""A Redis or Valkey: whether it lets us in, and how it describes itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from time import monotonic, time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from reliable_tasks.doctor.facts import Gap, Link, Place, RedisServer
from reliable_tasks.doctor.probes.reach import Address, failed, said_of
from reliable_tasks.errors import ConfigurationError
from reliable_tasks.stores.addresses import client_at

__all__ = ("probe_redis",)

PASSWORD = ("WRONGPASS", "NOAUTH", "AUTH <password>", "invalid password", "invalid username")
DATABASE = ("DB index", "SELECT is not allowed", "INVALID DATABASE")


def probe_redis(
    place: Place, url: str, options: Mapping[str, Any], timeout: float
) -> tuple[Link, list[Gap]]:
    """
    Log in to a Redis, and read how it is set up.

    Args:
        place: As the app's settings name it.
        url: The same with credentials, as redis-py takes it.
        options: What redis-py needs besides, for example TLS files.
        timeout: Seconds for each answer.
    """
    try:
        client = client_at(url, timeout, {**options, "retry": Retry(NoBackoff(), 0)})
    except (ConfigurationError, TypeError, ValueError) as error:
        return Link(place=place, trouble="other", detail=said_of(error)), []
    begun = monotonic()
    with closing(client):
        try:
            client.ping()
        except (redis.RedisError, OSError) as error:
            return _refused(place, client, error, timeout), []
        seconds = monotonic() - begun
        server, gaps = _described(client)
    return Link(place=place, seconds=seconds, redis=server), gaps


def _refused(place: Place, client: Any, error: Exception, timeout: float) -> Link:
    """Take the server's word for it if it said one, else look who is there."""
    text = str(error)
    if isinstance(error, redis.AuthenticationError) or any(word in text for word in PASSWORD):
        return Link(place=place, trouble="password", detail=said_of(error))
    if any(word.lower() in text.lower() for word in DATABASE):
        return Link(place=place, trouble="database", detail=said_of(error))
    if isinstance(error, redis.ResponseError):
        return Link(place=place, trouble="other", detail=said_of(error))
    return failed(place, _address(client), error, timeout)


def _address(client: Any) -> Address | None:
    pool = client.connection_pool
    host = pool.connection_kwargs.get("host")
    if not host:  # a socket, or sentinels
        return None
    tls = issubclass(pool.connection_class, redis.SSLConnection)
    return Address("redis", host, int(pool.connection_kwargs.get("port") or 6379), tls)


def _described(client: Any) -> tuple[RedisServer, list[Gap]]:
    """Read what it tells; what its user may not ask stays unknown."""
    gaps: list[Gap] = []

    def answer(question: str, *words: str) -> Any:
        try:
            return client.execute_command(*words)
        except redis.ResponseError as error:
            gaps.append(Gap(question, said_of(error)))
            return {}

    begun = time()
    now = answer("the clock of Redis", "TIME")
    middle = (begun + time()) / 2
    info = answer("what Redis says of itself", "INFO")
    settings = {
        **_config(answer("Redis's maxmemory-policy", "CONFIG", "GET", "maxmemory-policy")),
        **_config(answer("Redis's persistence", "CONFIG", "GET", "save")),
    }
    return _server(info, settings, _seconds(now) - middle if now else None), _once(gaps)


def _once(gaps: list[Gap]) -> list[Gap]:
    """Two refusals of CONFIG are one gap."""
    return list({gap.why: gap for gap in gaps}.values())


def _server(
    info: Mapping[str, Any], settings: Mapping[str, str], ahead: float | None
) -> RedisServer:
    return RedisServer(
        identity=_text(info.get("run_id")),
        version=_text(info.get("redis_version")),
        maxmemory=_number(info.get("maxmemory")),
        used_memory=_number(info.get("used_memory")),
        policy=settings.get("maxmemory-policy") or _text(info.get("maxmemory_policy")),
        appendonly=None if "aof_enabled" not in info else bool(int(info["aof_enabled"])),
        save=settings.get("save"),
        role=_text(info.get("role")),
        replicas=_number(info.get("connected_slaves")),
        evicted=_number(info.get("evicted_keys")),
        write_fault=_write_fault(info),
        clock_ahead=ahead,
    )


def _write_fault(info: Mapping[str, Any]) -> str | None:
    if not info:
        return None
    statuses = {
        "the last snapshot": info.get("rdb_last_bgsave_status", "ok"),
        "the last write of the append-only file": info.get("aof_last_write_status", "ok"),
    }
    failed_ones = [what for what, status in statuses.items() if status != "ok"]
    return f"{' and '.join(failed_ones)} failed" if failed_ones else ""


def _config(answer: Any) -> dict[str, str]:
    """Read the answer to CONFIG GET, which RESP2 and RESP3 write differently."""
    pairs = (
        answer.items()
        if isinstance(answer, Mapping)
        else zip(answer[::2], answer[1::2], strict=True)
    )
    return {str(_text(name)): str(_text(value)) for name, value in pairs}


def _seconds(now: Any) -> float:
    return int(now[0]) + int(now[1]) / 1_000_000


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)


def _number(value: Any) -> int | None:
    return None if value is None else int(value)
