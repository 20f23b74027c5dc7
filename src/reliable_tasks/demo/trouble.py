"""Why a demo cannot run."""

from __future__ import annotations

from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ("Interrupted", "Trouble", "address_of", "scrubbed")


class Trouble(Exception):
    """Something that the user can mend; its text says what to do."""


class Interrupted(BaseException):
    """
    The user, or whoever runs the demo, wants it to end.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def address_of(url: str) -> str:
    """
    Return *url* without credentials and options.

    Raises:
        Trouble: It is no address of a Redis.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6_379
    except ValueError:
        raise _not_an_address() from None
    is_database = parts.path.strip("/").isdecimal() or parts.path in ("", "/")
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or not is_database:
        raise _not_an_address()
    return f"{parts.scheme}://{parts.hostname}:{port}{parts.path}"


def scrubbed(text: object, url: str | None) -> str:
    """Return *text* in one line, without the password of *url* and without a full stop."""
    line = " ".join(str(text).split()).rstrip(".")
    password = _parts(url).password if url else None
    for secret in {password, unquote(password)} if password else ():
        line = line.replace(secret, "***")
    return line


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def _not_an_address() -> Trouble:
    return Trouble(
        "--url: expected redis://[user:password@]host[:port][/database] (or rediss://), got "
        "something that cannot be read as that. Without --url the demo brings a server of its own."
    )
