"""What lies in the broker, seen from outside: queues, and where the messages of a job are."""

from __future__ import annotations

from reliable_tasks.broker.view.amqp_broker import delayed_queues
from reliable_tasks.broker.view.opening import view_of
from reliable_tasks.broker.view.seen import (
    BrokerUnseen,
    BrokerView,
    Held,
    QueueView,
    Search,
    Sighting,
)

__all__ = (
    "BrokerUnseen",
    "BrokerView",
    "Held",
    "QueueView",
    "Search",
    "Sighting",
    "delayed_queues",
    "view_of",
)
