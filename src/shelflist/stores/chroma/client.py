"""Chroma's client: opened on a server or on a directory of this machine, and its errors as ours."""

from __future__ import annotations

import base64
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shelflist.config import in_brackets
from shelflist.core.errors import (
    ConfigError,
    MissingDependency,
    ShelflistError,
    StoreDamaged,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreTimeout,
    StoreUnavailable,
)
from shelflist.core.locks import ProcessLock
from shelflist.stores._connect import Server

_LOCK_FILE = "shelflist.lock"
_LONGEST_REASON = 300
OLDEST_CLIENT = (1, 5)
"""It is also what runs a directory."""
_OLDEST_SERVER = 1
"""All that can be checked: servers call themselves 1.0.0 up to version 1.5.9."""

_BY_TEXT: tuple[tuple[type[StoreError], tuple[str, ...], str], ...] = (
    (StoreFull, ("database or disk is full", "No space left on device"), "Free some, then run the same again."),
    (StoreReadOnly, ("readonly database", "Read-only file system", "Permission denied"), "Make its folder writable."),
    (
        StoreUnavailable,
        ("database is locked", "hnsw segment reader: Nothing found on disk"),
        "Somebody else writes there (or to a collection that has just been made): try again.",
    ),
    (
        StoreDamaged,
        ("disk image is malformed", "file is not a database", "Error loading hnsw index"),
        "Put back a backup of its folder, or give it an empty one and run: shelflist repair",
    ),
)
"""Failures inside Chroma come as InternalError, whatever they are: only the text tells them apart."""


class WriteUnapplied(StoreError):
    """Chroma took a write and could not carry it out. It says nothing more, and may hang until it is started again."""


class CollectionMissing(StoreError):
    """Chroma has no collection of this name or id."""


Hidden = Callable[[str], str]
"""A text without the secrets that it repeats."""


def secrets_of(server: Server, user: str | None) -> Hidden:
    """Proxies repeat what they were sent: the API key as it is, or with a user the header that it is encoded in."""
    encoded = _headers(server, user).get("Authorization", "").partition(" ")[2]

    def hidden(text: str) -> str:
        return server.hidden(text.replace(encoded, "***") if encoded else text)

    return hidden


def on_server(server: Server, user: str | None) -> Any:
    """A client of a Chroma server, after asking once whether there is one."""
    chromadb = _chromadb()
    headers = _headers(server, user)
    host = in_brackets(server.host)
    tenant = server.options.get("tenant", "default_tenant")
    database = server.options.get("database", "default_database")
    with errors_of(server.address, secrets_of(server, user)):
        # A client that finds something wrong while it is made leaves its connections open.
        _require_chroma(
            server, f"{'https' if server.tls else 'http'}://{host}:{server.port}", headers, tenant, database
        )
        client = chromadb.HttpClient(
            host=host,
            port=server.port,
            ssl=server.tls,
            headers=headers,
            settings=_settings(),
            tenant=tenant,
            database=database,
        )
        # The client has no option for it, and waits for ever otherwise.
        for session in _sessions(client):
            session.timeout = server.timeout
    return client


def in_directory(path: Path, address: str, busy_timeout: float) -> Any:
    """A client of the Chroma in a directory, run by this process; no other process may have it open."""
    chromadb = _chromadb()
    place = os.path.realpath(path)
    with errors_of(address):
        Path(place).mkdir(parents=True, exist_ok=True)
        _claim(place, address, busy_timeout)
        try:
            return chromadb.PersistentClient(path=place, settings=_settings())
        except BaseException:
            release(path)
            raise


def close(client: Any) -> None:
    client.close()
    for session in _sessions(client):  # their connections would stay open until they are collected
        session.close()


def _sessions(client: Any) -> list[Any]:
    """The HTTP sessions of a client: its own, and that of the part of it that looks up tenant and database."""
    parts = [client._server, getattr(getattr(client, "_admin_client", None), "_server", None)]
    return [part._session for part in parts if hasattr(part, "_session")]


def _chromadb() -> Any:
    try:
        import chromadb
    except ImportError as error:
        raise MissingDependency.for_extra(error.name or "chromadb", "chroma", "The Chroma store") from None
    if _numbers(chromadb.__version__) < OLDEST_CLIENT:
        oldest = ".".join(map(str, OLDEST_CLIENT))
        raise ConfigError(
            f"The installed chromadb is {chromadb.__version__}, and the Chroma store needs {oldest} or newer. Run: "
            "pip install --upgrade 'shelflist[chroma]'"
        )
    return chromadb


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _settings() -> Any:
    from chromadb.config import Settings

    # `.env` of the working directory is the application's: Chroma would take settings from it, and refuse unknown ones.
    own: dict[str, Any] = {"_env_file": None, "anonymized_telemetry": False}
    return Settings(**own)


def _headers(server: Server, user: str | None) -> dict[str, str]:
    """The API key in both places where it is looked for: Chroma's own header, and that of proxies before a server."""
    key = server.api_key
    if key is None:
        return {}
    if user:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{key}'.encode()).decode()}"}
    return {"x-chroma-token": key, "Authorization": f"Bearer {key}"}


def _require_chroma(server: Server, url: str, headers: dict[str, str], tenant: str, database: str) -> None:
    import httpx

    with httpx.Client(base_url=f"{url}/api/v2", headers=headers, timeout=server.timeout) as session:
        answer = session.get("/version")
        if answer.status_code in (404, 405, 410, 501):
            raise _no_chroma(server, f"HTTP {answer.status_code}")
        answer.raise_for_status()
        try:
            version = answer.json()
            major = int(version.split(".")[0])
        except (ValueError, AttributeError):
            raise _no_chroma(server, "another kind of answer") from None
        if major < _OLDEST_SERVER:
            raise StoreError(
                f"{server.address} runs Chroma {version}. Shelflist needs a server of version 1: upgrade it."
            )
        owner = f"/tenants/{quote(tenant, safe='')}"
        answer = session.get(f"{owner}/databases/{quote(database, safe='')}")
        if answer.status_code == 404:
            if session.get(owner).status_code == 404:
                raise _no_place(server, "tenant", repr(tenant))
            raise _no_place(server, "database", f"{database!r} of tenant {tenant!r}")
        answer.raise_for_status()


def _no_place(server: Server, option: str, name: str) -> StoreError:
    return StoreError(
        f"Chroma at {server.address} has no {option} {name}. Correct ?{option}= of the URL, leave it out for "
        f"default_{option}, or make it first with create_{option}() of chromadb.AdminClient."
    )


def _no_chroma(server: Server, what: str) -> StoreError:
    return StoreError(
        f"What answers at {server.address} is no Chroma server of version 1: /api/v2/version gives {what}. "
        "Check host and port of the URL."
    )


@dataclass(slots=True)
class _Claim:
    lock: sqlite3.Connection
    process: int
    handles: int = 0


_claims: dict[str, _Claim] = {}
_claiming = ProcessLock()


def _claim(place: str, address: str, busy_timeout: float) -> None:
    """Take the directory for this process. Two of them would each keep a graph in memory that lacks the other's points."""
    with _claiming:
        claim = _claims.get(place)
        if claim is None:
            lock = sqlite3.connect(
                Path(place) / _LOCK_FILE, timeout=busy_timeout, isolation_level=None, check_same_thread=False
            )
            try:
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                lock.close()
                if "locked" not in str(error):
                    raise
                raise StoreUnavailable(
                    f"{address} is open in another process, and Chroma in a directory serves one at a time. Close that "
                    "one, or share it: chroma run --path DIRECTORY, and give the URL chroma://127.0.0.1:8000"
                ) from None
            claim = _claims[place] = _Claim(lock, os.getpid())
        if claim.process != os.getpid():
            raise forked(address)
        claim.handles += 1


def release(path: Path) -> None:
    """Give up one handle on a directory; the last one lets other processes in."""
    place = os.path.realpath(path)
    with _claiming:
        claim = _claims[place]
        claim.handles -= 1
        if claim.handles == 0:
            del _claims[place]
            claim.lock.close()


def forked(address: str) -> StoreError:
    return StoreError(
        f"{address} was opened before this process was forked, and Chroma in a directory serves one process. Open the "
        "collection after the fork in one process only, or run a server: chroma run --path DIRECTORY"
    )


@contextmanager
def errors_of(address: str, hidden: Hidden = str) -> Iterator[None]:
    """Whatever the client raises, as an error of ours that names the address; `hidden` keeps secrets out of it."""
    try:
        yield
    except ShelflistError:
        raise
    except Exception as error:
        # A cause stands in the traceback, with its own text.
        told = any(hidden(text) != text for one in _causes(error) for text in (str(one), repr(one)))
        raise _translated(error, address, hidden) from (None if told else error)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what Rust raises is no Exception in Python
            raise
        raise StoreError(f"Chroma at {address} failed inside: {_reason(error, hidden)}") from error


def _translated(error: Exception, address: str, hidden: Hidden) -> StoreError:
    import httpx
    from chromadb import errors

    if isinstance(error, errors.NotFoundError):
        return CollectionMissing(
            f"Chroma at {address} says: {_reason(error, hidden)} Somebody deleted it, or the URL names another server or database. "
            "To restore it from the ledger, run: shelflist repair"
        )
    if isinstance(error, (errors.ChromaAuthError, errors.AuthorizationError)):
        return _denied(address)
    # The client hides some errors behind a plain Exception or ValueError.
    for cause in _causes(error):
        if isinstance(cause, httpx.TimeoutException):
            return StoreTimeout(f"Chroma at {address} did not answer in time. Give it longer: ?timeout=SECONDS")
        if isinstance(cause, httpx.TransportError):
            return _unreachable(cause, address, hidden)
        if isinstance(cause, httpx.HTTPStatusError):
            return _refused(cause.response.status_code, error, address, hidden)
    text = str(error)
    if "Error in compaction" in text:
        return WriteUnapplied(
            f"Chroma at {address} could not carry out a write ({_reason(error, hidden)}) and does not say why. See whether its "
            "disk is full, and what its log says; then start it again, and run the same again."
        )
    for kind, signs, advice in _BY_TEXT:
        if any(sign in text for sign in signs):
            return kind(f"Chroma at {address} says: {_reason(error, hidden)} {advice}")
    return StoreError(f"Chroma at {address} says: {_reason(error, hidden)}")


def _unreachable(error: Exception, address: str, hidden: Hidden) -> StoreError:
    text = str(error)
    if "SSL" in text or "CERTIFICATE" in text.upper():
        return StoreError(
            f"TLS with Chroma at {address} failed: {_reason(error, hidden)} Drop tls=1 if the server speaks plain HTTP; for a "
            "certificate of your own, name its file in SSL_CERT_FILE."
        )
    if isinstance(error, _broken_talk()):
        return StoreUnavailable(
            f"Chroma at {address} broke off: {_reason(error, hidden)} Is it up? If it speaks TLS, add ?tls=1 to the URL."
        )
    return StoreUnavailable(
        f"Chroma at {address} cannot be reached: {_reason(error, hidden)} Check that it runs (chroma run --path DIRECTORY) and "
        "that host and port are right."
    )


def _broken_talk() -> tuple[type[Exception], ...]:
    import httpx

    return (httpx.ProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)


def _refused(status: int, error: Exception, address: str, hidden: Hidden) -> StoreError:
    if status in (401, 403):
        return _denied(address)
    if status in (429, 502, 503, 504):
        return StoreUnavailable(f"Chroma at {address} is busy or not up: HTTP {status}. Try again.")
    if status == 507:
        return StoreFull(f"Chroma at {address} has no space left. Free some, then run the same again.")
    return StoreError(f"Chroma at {address} says: HTTP {status}, {_reason(error, hidden)}")


def _denied(address: str) -> StoreDenied:
    return StoreDenied(
        f"Chroma at {address} refuses the API key, or wants one. Give it by SHELFLIST_CHROMA_API_KEY or "
        "SHELFLIST_API_KEY, or as ?api_key= in the URL."
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def _reason(error: BaseException, hidden: Hidden) -> str:
    text = " ".join(hidden(str(error)).split()) or type(error).__name__
    text = text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."
    return text if text.endswith((".", "!", "?")) else text + "."
