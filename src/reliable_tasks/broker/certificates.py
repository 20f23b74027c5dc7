"""The name that the certificate of each of RabbitMQ's hosts must have."""

from __future__ import annotations

from typing import Any

__all__ = ("NamedByAddress", "named_by_address")

NAME = "server_hostname"


class NamedByAddress(dict[str, Any]):
    """
    TLS options whose ``server_hostname`` is that of the host that is tried.

    Kombu writes the name of the first host into the options where it finds None, and so asks the
    next host for a certificate with the first one's name: there is no fail-over. Here it always
    finds None. What it wrote goes to the connection, which takes all options at once.
    """

    def __getitem__(self, option: str) -> Any:
        return None if option == NAME else super().__getitem__(option)


def named_by_address(conf: Any) -> None:
    """Have an app's TLS options ask each host for its own name, if they ask for that of a host."""
    options = conf.get("broker_use_ssl")
    is_asked = isinstance(options, dict) and NAME in options and options[NAME] is None
    if is_asked and not isinstance(options, NamedByAddress):
        conf.broker_use_ssl = NamedByAddress(options)
