"""The command group, and what every command has in common when it ends: exit codes, Ctrl-C, errors without traceback.

0 done, 1 something failed or was refused, 2 wrong usage, 3 `verify` found differences, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

# Loading a command's module only when it is run keeps `search` fast.
_COMMANDS = {
    "init": "setup",
    "plan": "sync",
    "sync": "sync",
    "search": "search",
    "why": "search",
    "count": "search",
    "status": "look",
    "documents": "look",
    "show": "look",
    "verify": "care",
    "repair": "care",
    "purge": "care",
    "copy": "copy",
    "drop": "setup",
    "fields": "setup",
    "stores": "stores",
}


class LazyGroup(click.Group):
    """A group that knows the names of its commands, and imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, "demo"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "demo":
            module = import_module("shelflist.cli.demo")
        elif cmd_name in _COMMANDS:
            module = import_module(f"shelflist.cli.commands_{_COMMANDS[cmd_name]}")
        else:
            return None
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    import shelflist

    click.echo(f"shelflist {shelflist.__version__}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    name="shelflist",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def shelflist_group() -> None:
    """Index documents for retrieval, search them, and prove that what you search is what you wrote.

    Settings come from flags, then the environment (SHELFLIST_URL, SHELFLIST_COLLECTION, SHELFLIST_LEDGER,
    SHELFLIST_EMBEDDER, SHELFLIST_TENANT), then the nearest shelflist.toml.

    \b
    Example:
      shelflist init --url file:./index
      shelflist sync ./docs
      shelflist search "how do I rotate keys"

    Exit codes: 0 done, 1 something failed or was refused, 2 wrong usage, 3 verify found differences, 130 interrupted.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `arguments` without the program's name."""
    # NumPy starts a thread a core when it is imported; for one command's arithmetic that costs more than it brings.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            # A terminal without UTF-8 shows "?", it does not end the command.
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        result = shelflist_group.main(
            args=None if arguments is None else list(arguments), prog_name="shelflist", standalone_mode=False
        )
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.UsageError) and as_json:
            _print_error(error.format_message(), "UsageError")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        said = "Interrupted. What was acknowledged is kept; run the same command again and it goes on from there."
        click.echo(f"\n{said}", err=True)
        if as_json:
            _print_error(said, "Interrupted")
        return 130


def _print_error(text: str, kind: str) -> None:
    from shelflist.cli.output import print_json

    print_json({"error": text, "error_type": kind})


def main() -> None:
    """The entry point of the console script."""
    sys.exit(run())
