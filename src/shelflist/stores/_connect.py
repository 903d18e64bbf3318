"""What the stores behind a server share: their client package, the options of their URL, and retries of what may go away."""

from __future__ import annotations

import importlib.util
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from shelflist.config import StoreUrl, in_brackets
from shelflist.core.errors import ConfigError, MissingDependency, Transient
from shelflist.core.log import log

_RETRIES = 4
_FIRST_PAUSE = 0.25
_PATIENCE = 60.0
_SAME_OUTAGE = 60.0
_last_warning = ("", 0.0)
DEFAULT_TIMEOUT = 30.0
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, repr=False)
class Server:
    """Where a server is and how it is spoken to. `address` is for messages: no secret is in it."""

    address: str
    host: str
    port: int
    tls: bool
    api_key: str | None
    timeout: float
    options: Mapping[str, str]

    def hidden(self, text: str) -> str:
        """The text without the API key, as it is or as Python writes it in quotes."""
        for secret in (self.api_key, repr(self.api_key)[1:-1]) if self.api_key else ():
            text = text.replace(secret, "***")
        return text


def require_package(module: str, package: str, extra: str, who: str) -> None:
    """MissingDependency if the client is not installed. It is not imported to find out, which takes some of them a second."""
    if importlib.util.find_spec(module) is None:
        raise MissingDependency.for_extra(package, extra, who)


def server(
    place: StoreUrl,
    *,
    port: int,
    tls_port: int | None = None,
    options: frozenset[str] = frozenset(),
    users: bool = False,
) -> Server:
    """The server that a URL names: `scheme://host:port?tls=1&timeout=10`, or ConfigError for an option it does not have.

    The API key is `api_key=` of the URL, its password, SHELFLIST_QDRANT_API_KEY (or as the scheme is called), or
    SHELFLIST_API_KEY. `options`: what the store knows besides. `users`: whether it has users, whose passwords it sends
    encoded.
    """
    known = {"tls", "timeout", "api_key", *options}
    unknown = sorted(set(place.query) - known)
    if unknown:
        raise ConfigError(
            f"{place.bare} has an option {unknown[0]!r} that is not known. Known: {', '.join(sorted(known))}"
        )
    if not place.host:
        raise ConfigError(f"{place} names no host. Write for example: {place.scheme}://127.0.0.1:{port}")
    tls = flag(place, "tls")
    number = place.port or (tls_port if tls and tls_port else port)
    return Server(
        address=f"{place.scheme}://{in_brackets(place.host)}:{number}",
        host=place.host,
        port=number,
        tls=tls,
        api_key=_api_key(place, encoded=users and bool(place.username)),
        timeout=positive(place, "timeout", DEFAULT_TIMEOUT),
        options=place.query,
    )


def _api_key(place: StoreUrl, *, encoded: bool) -> str | None:
    """The secret to log in with. A bare one goes into a header, so one that no header can carry is a ConfigError."""
    variables = (f"SHELFLIST_{place.scheme.upper()}_API_KEY", "SHELFLIST_API_KEY")
    found = place.query.get("api_key") or place.password or next(filter(None, map(os.environ.get, variables)), "")
    if encoded:
        return found or None
    key = found.strip()  # a file or a shell easily adds the end of a line
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"The API key for {place.bare} holds a character that no header can carry: use printable ASCII. It is "
            f"read from api_key= of the URL, its password, {' or '.join(variables)}."
        )
    return key or None


def flag(place: StoreUrl, name: str) -> bool:
    value = place.query.get(name, "0").lower()
    if value not in ("0", "1", "true", "false"):
        raise ConfigError(f"{place}: {name}={value!r} is neither 1 nor 0.")
    return value in ("1", "true")


def positive(place: StoreUrl, name: str, default: float) -> float:
    text = place.query.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{place}: {name}={text!r} is not a positive number.")
    return value


def retried(call: Callable[[], Answer], what: str) -> Answer:
    """`call`, again after a growing pause while it raises a Transient error: five times in all, within about ten seconds.

    Only for calls that may safely be repeated. Where the error takes its time, as a time-out does, no call begins once
    a minute has passed.
    """
    began = time.monotonic()
    for attempt in range(_RETRIES):
        try:
            return call()
        except Exception as error:
            if not isinstance(error, Transient) or time.monotonic() - began > _PATIENCE:
                raise
            pause = _FIRST_PAUSE * 2.5**attempt * random.uniform(0.75, 1.25)
            if attempt == 0:
                _warn(error)
            log.debug("%s is tried again in %.1f s.", what, pause)
            time.sleep(pause)
    return call()


def _warn(error: Exception) -> None:
    """Say it once, however many calls and threads one outage stops."""
    global _last_warning
    text, now = str(error), time.monotonic()
    known, at = _last_warning
    _last_warning = (text, now)
    if text != known or now - at > _SAME_OUTAGE:
        log.warning("%s Trying again for a while.", text)
