"""Why a server cannot be used, when its driver has said no."""

from __future__ import annotations

from dataclasses import dataclass

from reliable_tasks.doctor.facts import Link, Place
from reliable_tasks.doctor.probes.greeting import USUAL_PORTS, Caller, look_up
from reliable_tasks.presets.addresses import masked

__all__ = ("Address", "failed", "said_of")

NAMES = {"redis": "a Redis", "rabbitmq": "a RabbitMQ", "http": "an HTTP server"}


@dataclass(frozen=True, slots=True)
class Address:
    """
    One address of a server.

    Args:
        kind: ``"redis"`` or ``"rabbitmq"``.
        tls: Whether it is to be reached by TLS.
    """

    kind: str
    host: str
    port: int
    tls: bool = False


def said_of(error: BaseException) -> str:
    """Return an error in one line without passwords."""
    text = masked(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def failed(place: Place, address: Address | None, error: BaseException, timeout: float) -> Link:
    """
    Say what is wrong with an address that could not be used.

    Args:
        place: What was tried.
        address: None if it has no port to look at.
        error: What its driver raised, which was no word of the server about a login.
        timeout: Seconds for each step.
    """
    if address is None:
        return Link(place=place, trouble="other", detail=said_of(error))
    found = look_up(address.host, address.port, address.kind, tls=address.tls, timeout=timeout)
    trouble, detail = _judged(address, found, said_of(error), timeout)
    return Link(place=place, trouble=trouble, detail=detail)


def _judged(address: Address, found: Caller, said: str, timeout: float) -> tuple[str, str]:
    """Return the trouble, and what was said or seen."""
    is_other = found.trouble is None and found.speaks != address.kind
    if found.trouble == "refused" or is_other:
        usual = _at_usual_port(address, timeout)
        if usual:
            return "port", usual
    if found.speaks in NAMES and is_other:
        return "scheme", f"{NAMES[found.speaks]} answers there: {found.detail}"
    if is_other or (found.trouble == "silent" and address.tls):
        return _unlike(address, found, timeout)
    if found.trouble is not None:
        return found.trouble, found.detail
    return "tls" if "ssl" in said.lower() else "other", said


def _unlike(address: Address, found: Caller, timeout: float) -> tuple[str, str]:
    """Look once more, with TLS if it was without, and the other way round."""
    other = look_up(address.host, address.port, address.kind, tls=not address.tls, timeout=timeout)
    if other.speaks == address.kind:
        way = "without TLS" if address.tls else "with TLS only"
        return "tls", f"{NAMES[address.kind]} answers there {way}"
    if other.speaks in NAMES:
        return "scheme", f"{NAMES[other.speaks]} answers there: {other.detail}"
    return found.trouble or "scheme", found.detail


def _at_usual_port(address: Address, timeout: float) -> str:
    """Return where such a server answers, if it does at its usual port."""
    port = USUAL_PORTS[address.kind]
    if port == address.port:
        return ""
    found = look_up(address.host, port, address.kind, tls=False, timeout=timeout)
    if found.speaks != address.kind:
        return ""
    return f"{NAMES[address.kind]} answers at {address.host}:{port}"
