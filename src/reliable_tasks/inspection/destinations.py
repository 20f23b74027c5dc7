"""The queues that an app's jobs can wait in, whoever reads them."""

from __future__ import annotations

from typing import Any

__all__ = ("destinations",)


def destinations(app: Any) -> set[str]:
    """Return the queues that *app* declares, and those that its tasks are sent to."""
    names = {str(name) for name in app.amqp.queues}
    for task in app.tasks:
        try:
            target = app.amqp.router.route({}, task).get("queue")
        except Exception:  # noqa: S112 - a route that leads nowhere is the doctor's to name
            continue
        if target is not None:
            names.add(str(getattr(target, "name", target)))
    return names
