"""`celery -A proj reliable ...`, at Celery's own plug-in point for commands."""

from __future__ import annotations

from importlib import import_module

import click

__all__ = ("reliable",)

WHERE = {
    "alive": "reliable_tasks.commands.alive:alive",
    "dead": "reliable_tasks.commands.dead:dead",
    "doctor": "reliable_tasks.commands.doctor:doctor",
    "forget": "reliable_tasks.commands.records:forget_",
    "list": "reliable_tasks.commands.records:list_",
    "preset": "reliable_tasks.commands.preset:preset",
    "show": "reliable_tasks.commands.records:show",
    "why": "reliable_tasks.commands.why:command",
    "watch": "reliable_tasks.commands.watch:watch",
}


class _LoadedWhenCalled(click.Group):
    """Finds its commands by name: every command of Celery loads the group."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(WHERE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in WHERE:
            return None
        module, _, name = WHERE[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_LoadedWhenCalled)
def reliable() -> None:
    """Tools of reliable-tasks."""
