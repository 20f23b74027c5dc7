"""The Lua scripts, read from their files, with the heads of the commands that run them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha1
from importlib.resources import files

__all__ = ("Script", "load")

_INCLUDE = "-- include: "


@dataclass(frozen=True, slots=True)
class Script:
    """One operation of the store as the server runs it."""

    name: str
    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)

    def by_digest(self, parts: int) -> bytes:
        """Head of the command of *parts* parts that runs the script by its digest."""
        return b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % (parts, self.digest.encode())

    def by_text(self, parts: int) -> bytes:
        """Head of the command that sends the whole script, which also loads it."""
        text = self.text.encode()
        return b"*%d\r\n$4\r\nEVAL\r\n$%d\r\n%b\r\n" % (parts, len(text), text)


@cache
def load(name: str) -> Script:
    """Return the script in ``lua/<name>.lua``, with the files that it includes in their places."""
    return Script(name, "".join(_lines(name)))


def _lines(name: str) -> Iterator[str]:
    file = files("reliable_tasks.stores") / "lua" / f"{name}.lua"
    for line in file.read_text("utf-8").splitlines(keepends=True):
        if line.startswith(_INCLUDE):
            yield from _lines(line.removeprefix(_INCLUDE).strip())
        else:
            yield line
