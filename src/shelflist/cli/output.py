"""What a command prints: tables and sentences for people, or one JSON object for programs.

With `--json` the object is the last line of stdout and nothing else is there; warnings and errors go to stderr.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

# A chunk may hold anything; what it holds must not move the cursor or rename the window of a terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_BARE = re.compile(r"[\x7f-\x9f\u2028\u2029]")


class Failed(click.ClickException):
    """A command that could not do its work: a line on stderr, exit code 1, and with `--json` the same as an object."""

    exit_code = 1

    def __init__(
        self, error: BaseException, message: str, as_json: bool, more: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        super().__init__(message)
        self.error_type = type(error).__name__
        self.as_json = as_json
        self.more = more

    def show(self, file: Any = None) -> None:
        click.echo(f"Error: {printable(self.message)}", err=True)
        if self.as_json:
            print_json({"error": self.message, "error_type": self.error_type, **self.more})


def print_json(value: Mapping[str, Any]) -> None:
    """One object on one line, UTF-8 whatever the terminal speaks."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    # JSON lets these stand, but `splitlines` ends a line at some of them and a terminal obeys others.
    text = _BARE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    click.echo(text.encode("utf-8", "backslashreplace"))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(member) for member in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)


def say(text: str = "", **style: Any) -> None:
    """A line for people, on stdout."""
    click.secho(printable(text), **style)


def warn(text: str) -> None:
    """A line on stderr that does not stop the command."""
    click.echo(f"Warning: {printable(text)}", err=True)


def printable(text: str) -> str:
    """The text without characters that command a terminal."""
    return _CONTROL.sub("�", text)


def one_line(text: str, length: int = 100) -> str:
    """The text on one line, cut at a word with an ellipsis."""
    words = " ".join(text.split())
    if len(words) <= length:
        return words
    cut = words[: length - 1]
    return (cut.rsplit(" ", 1)[0] if " " in cut[length // 2 :] else cut) + "…"


def body(content: str, section: str | None) -> str:
    """A chunk's text without the path of headings that its content begins with, where that has just been said."""
    return content.removeprefix(f"{section}\n") if section else content


def shown(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return value.isoformat()  # as a filter takes it: with its zone
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(member)}" for key, member in value.items()) or "-"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(shown(member) for member in value) or "-"
    return str(value)


def as_written(value: Any) -> str:
    """A value of metadata: a year is no quantity, and its digits are not grouped."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {as_written(member)}" for key, member in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(as_written(member) for member in value) or "-"
    return shown(value)


def counted(number: int, noun: str) -> str:
    """`1 chunk`, `2,000 chunks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def when(seconds: float) -> str:
    """A moment, given as seconds since the epoch."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """A table on stdout: numbers to the right, whole values (nothing is cut) when stdout is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=10_000)
    table = Table(box=box.SIMPLE_HEAD, title=title and Text(printable(title)), title_justify="left", pad_edge=False)
    for place, name in enumerate(columns):
        numbers = [row[place] for row in rows if row[place] is not None]
        is_number = bool(numbers) and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(shown(value))) for value in row))
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n"))


def print_facts(facts: Mapping[str, Any], *, title: str | None = None) -> None:
    """Names and values beside each other; a nested mapping becomes `name.part` lines."""
    lines = list(_flat(facts))
    width = max((len(name) for name, _ in lines), default=0)
    if title:
        say(title, bold=True)
    for name, value in lines:
        say(f"  {name.ljust(width)}  {shown(value)}")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for name, value in facts.items():
        label = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            lines += _flat(value, f"{prefix}{name}.")
        else:
            lines.append((label, value))
    return lines


class _Stderr(logging.Handler):
    """Log lines as warnings; looks stderr up at every line, so that a progress bar can move them above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(self.format(record))
        click.echo(f"{record.levelname.capitalize()}: {text}", err=True)


def log_to_stderr() -> None:
    logger = logging.getLogger("shelflist")
    if not logger.handlers:
        logger.addHandler(_Stderr(logging.WARNING))
        logger.propagate = False


def relative(path: Path) -> str:
    """The path from here, if that is shorter to read."""
    try:
        return f"./{path.resolve().relative_to(Path.cwd())}"
    except ValueError:
        return str(path)
