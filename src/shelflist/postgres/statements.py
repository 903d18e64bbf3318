"""Statements and values on their way to Postgres: `?` becomes `$1`, and text that Postgres cannot hold is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any

_TOKEN = re.compile(
    r"""
    \b[eE]'(?:\\.|''|[^'\\])*'      # a string with backslashes
    | '(?:''|[^'])*'
    | "(?:""|[^"])*"
    | \$([A-Za-z_]\w*|)\$.*?\$\1\$  # a dollar-quoted string
    | --[^\n]*
    | /\*.*?\*/
    | \?\??
    """,
    re.VERBOSE | re.DOTALL,
)


class Wire(bytes):
    """A value in Postgres's own binary form, for types that nobody here has an adapter for: `?::vector`, `?::halfvec`.

    Its type comes from where it stands, so a parameter needs the cast. In `insert` plain bytes do: the column says it.
    """


def wire_dumper(oid: int) -> Any:
    """What sends bytes as they are, as a value of this type; 0: of the type that the place says."""
    from psycopg.adapt import Dumper
    from psycopg.pq import Format

    return type("WireDumper", (Dumper,), {"format": Format.BINARY, "oid": oid, "dump": lambda self, obj: obj})


@lru_cache(maxsize=4096)
def native(sql: str) -> str:
    """The statement with `$1, $2, …` for `?`, outside strings, names and comments. `??` stands for Postgres's own `?`."""
    numbers = count(1)

    def replaced(found: re.Match[str]) -> str:
        token = found[0]
        return f"${next(numbers)}" if token == "?" else "?" if token == "??" else token

    return _TOKEN.sub(replaced, sql)


# Postgres holds every character but NUL. U+0000 becomes U+0001 U+0001 and U+0001 becomes U+0001 U+0002: so the order of
# texts stays what it was, and what one begins with.


def escaped(text: str) -> str:
    return text.replace("\1", "\1\2").replace("\0", "\1\1") if "\0" in text or "\1" in text else text


def unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: "\0" if found[0] == "\1\1" else "\1", text)


_ESCAPE = re.compile("\1[\1\2]")


def held(values: Sequence[Any]) -> Sequence[Any]:
    """The values of one row or statement, with every text in a form that Postgres can hold."""
    for value in values:
        if (type(value) is str and ("\0" in value or "\1" in value)) or (type(value) is list and _needs_escape(value)):
            return [_held(one) for one in values]
    return values


def _needs_escape(values: list[Any]) -> bool:
    return any(type(value) is str and ("\0" in value or "\1" in value) for value in values)


def _held(value: Any) -> Any:
    if type(value) is str:
        return escaped(value)
    return [_held(one) for one in value] if type(value) is list else value
