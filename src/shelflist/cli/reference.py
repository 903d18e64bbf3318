"""Prints docs/cli.md, which is the `--help` of every command: python -m shelflist.cli.reference > docs/cli.md"""

from __future__ import annotations

from collections.abc import Iterator

import click

from shelflist.cli.main import shelflist_group

_WIDTH = 100


def commands(
    command: click.Command = shelflist_group, name: str = "shelflist", parent: click.Context | None = None
) -> Iterator[click.Context]:
    """A context for every command, parents first; `command_path` is what one types."""
    look = {**command.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH, "color": False}
    context = click.Context(command, info_name=name, parent=parent, **look)
    yield context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from commands(found, child, context)


def reference() -> str:
    """The text of docs/cli.md."""
    parts = [
        "# The command line",
        "",
        "Generated from `--help` by `python -m shelflist.cli.reference > docs/cli.md`. Do not edit.",
    ]
    for context in commands():
        depth = context.command_path.count(" ")
        text = "\n".join(line.rstrip() for line in context.get_help().splitlines())
        parts += ["", f"{'#' * (2 + min(depth, 2))} {context.command_path}", "", "```text", text, "```"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
