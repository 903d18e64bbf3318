"""A `postgresql://` or `pgvector://` URL as what libpq takes. Options of ours are `timeout` and `pool_size`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from shelflist.config import StoreUrl, in_brackets
from shelflist.core.errors import ConfigError, MissingDependency
from shelflist.postgres.database import DEFAULT_POOL, PostgresDatabase

_OWN = ("timeout", "pool_size")
_IN_URLS_ONLY = ("ssl",)
_WORD = re.compile(r"[a-z_]+")
_PORTS = re.compile(r"[0-9,]*")


def database_from_url(place: StoreUrl, *, busy_timeout: float = 30.0) -> PostgresDatabase:
    """The database that a URL names, not yet connected. Raises ConfigError, or MissingDependency without psycopg.

    Everything that libpq takes is taken: `host=/path/of/socket`, several hosts, `sslmode`, `connect_timeout`,
    `passfile`, `service`, `options`; what is left out comes from PGHOST, PGPASSWORD and the like. `timeout`: seconds that
    one statement may take (0 or left out: no limit). `pool_size`: connections at most.
    """
    timeout = _number(place, "timeout", 0.0)
    pool_size = int(_number(place, "pool_size", DEFAULT_POOL))
    if pool_size < 1:
        raise ConfigError(f"{place}: pool_size={place.query['pool_size']!r} is not a whole number from 1 up.")
    parameters = _libpq(place)
    return PostgresDatabase(
        parameters,
        address=_address(place, parameters),
        busy_timeout=busy_timeout,
        timeout=timeout or None,
        pool_size=pool_size,
    )


def _libpq(place: StoreUrl) -> dict[str, Any]:
    try:
        from psycopg import Error, pq
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        raise MissingDependency.for_extra("psycopg", "pgvector", f"Postgres ({place.scheme}:)") from None
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {*_OWN, *_IN_URLS_ONLY}
    for name in place.query:
        if name not in known and _WORD.fullmatch(name):
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"Did you mean {near[0]!r}?" if near else f"Known are those of libpq, {' and '.join(_OWN)}."
            raise ConfigError(f"{place.bare} has an option {name!r} that is not known. {guess}")
    rest = place.raw.partition(":")[2]
    start, mark, query = rest.partition("?")
    kept = "&".join(pair for pair in re.split("&", query) if pair.partition("=")[0] not in _OWN)
    text = f"postgresql:{start if start.startswith('//') else '//' + start}{mark if kept else ''}{kept}"
    parameters: dict[str, Any] | None
    try:
        parameters = dict(conninfo_to_dict(text))
    except Error:  # libpq's own message quotes what it could not read, which may be the end of a password
        parameters = None
    if (
        parameters is None
        or "@" in str(parameters.get("dbname"))
        or not _PORTS.fullmatch(str(parameters.get("port", "")))
    ):
        raise ConfigError(
            f"{place} is not a URL that Postgres understands. Write {place.scheme}://USER:PASSWORD@HOST:PORT/DATABASE or "
            f"{place.scheme}:///DATABASE?host=/SOCKET/FOLDER, with @ : / ? # in a password as %40 %3A %2F %3F %23; known "
            "options are those of libpq, timeout and pool_size."
        )
    return parameters


def _address(place: StoreUrl, parameters: Mapping[str, Any]) -> str:
    """Where the database is, for messages: no user, no secret."""
    host = str(parameters.get("host") or parameters.get("hostaddr") or "")
    port = parameters.get("port")
    database = parameters.get("dbname") or ""
    if host.startswith(("/", "@")):
        return f"{place.scheme}:///{database}?host={host}{f'&port={port}' if port else ''}"
    hosts = ",".join(map(in_brackets, host.split(",")))
    return f"{place.scheme}://{hosts}{f':{port}' if port else ''}/{database}"


def _number(place: StoreUrl, name: str, default: float) -> float:
    text = place.query.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise ConfigError(f"{place}: {name}={text!r} is not a number from 0 up.")
    return value
