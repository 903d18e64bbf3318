"""How Milvus is reached: a server by its address, or Milvus Lite by its file; and its errors as ours."""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from shelflist.config import StoreUrl, in_brackets
from shelflist.core.errors import (
    ConfigError,
    MissingDependency,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreTimeout,
    StoreUnavailable,
)
from shelflist.core.locks import ProcessLock
from shelflist.stores import _connect

T = TypeVar("T")
Client = Any  # pymilvus.MilvusClient, which must not be imported before it is used

PORT = 19530
OLDEST = (2, 3)
PATIENCE = 600.0
"""Seconds that what Milvus does by itself, such as building an index, may stand still."""
_SLICE = 30.0
"""Seconds of one request for what Milvus may take long at: a server that hangs is noticed when they are over."""
UNDER_WAY = object()
"""What is left to do, where Milvus only says that it does it."""
_POLL = 0.05
_LONGEST_CONNECT = 10.0
_LONGEST_PROBE = 3.0
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a client of HTTP/2, and so of gRPC, begins: settings of its own, none."""
_IN_FLIGHT = 4
_NOT_FOUND = 100
_NOT_YET = {2, 4, 8, 12, 101, 103, 106, 202, 503, 901, 902, 905}
"""Codes of a server that starts, recovers or is asked too much: https://milvus.io/docs, `merr` in its source."""
_UNSET = 1
"""Of a server that is not ready, and of all that the client itself refuses."""
_FULL = {3, 7, 9}
_DENIED = {1400, 1401}
_UNREACHED = re.compile(
    r"fail connecting|channel.*(not ready|closed)|service unavailable|node not match", re.IGNORECASE
)
_STARTS = re.compile(r"not (ready|healthy)", re.IGNORECASE)
_SPACE = re.compile(r"no space left|disk limit|disk quota|memory limit|quota exceeded", re.IGNORECASE)

_lite_lock = ProcessLock()
_lite_users: Counter[str] = Counter()


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """What answers: a server by major and minor version, or Milvus Lite."""

    major: int
    minor: int
    lite: bool = False

    @classmethod
    def parse(cls, text: str) -> Version:
        numbers = [int(one) for one in re.findall(r"\d+", text)[:2]]
        major, minor = [*numbers, 0, 0][:2]
        return cls(major, minor, text.startswith("milvus_lite"))

    def has(self, major: int, minor: int) -> bool:
        """Whether it is Lite, which has the current interface, or a server of at least this version."""
        return self.lite or (self.major, self.minor) >= (major, minor)


class Link:
    """One client, made at first use and again in a forked child; safe for threads."""

    def __init__(self, place: StoreUrl) -> None:
        self.path: str | None = None
        self._token = self._database = self._authority = ""
        self._secrets: tuple[str, ...] = ()
        self._tls = False
        self._host, self._port = "", 0
        if place.host is None:
            if not place.path or place.raw.partition(":")[2].startswith("//"):
                raise ConfigError(
                    f"{place} names no host. Write milvus://127.0.0.1:{PORT}, or for a file milvus:./index.db"
                )
            _check_file_options(place)
            self.path = os.path.abspath(place.path)
            self.address = f"milvus:{place.path}"
            self.timeout = _connect.positive(place, "timeout", _connect.DEFAULT_TIMEOUT)
        else:
            server = _connect.server(place, port=PORT, options=frozenset({"db", "ca"}), users=True)
            self.address, self.timeout, self._tls = server.address, server.timeout, server.tls
            self._host, self._port = server.host, server.port
            key = server.api_key or ""
            self._token = f"{place.username}:{key}" if place.username else key
            self._secrets = tuple(one for one in (self._token, key) if one)
            self._database = server.options.get("db", "")
            self._authority = server.options.get("ca", "")
        self._lock = ProcessLock()
        self._client: Client = None
        self._threads: ThreadPoolExecutor | None = None
        self._process = 0
        self._version = Version(0, 0)

    @property
    def version(self) -> Version:
        self._reachable()
        return self._version

    def _reachable(self) -> None:
        """There is a client, whose opening is tried again as every other call is."""
        _connect.retried(self.client, f"Opening Milvus at {self.address}")

    def client(self) -> Client:
        with self._lock:
            if self._client is None or self._process != os.getpid():
                self._client, self._threads = self._open(), ThreadPoolExecutor(_IN_FLIGHT, "milvus")
                self._process = os.getpid()
            return self._client

    @property
    def threads(self) -> ThreadPoolExecutor:
        """For requests that go out at once, a few at a time."""
        self._reachable()
        assert self._threads is not None
        return self._threads

    def ask(self, what: str, call: Callable[[Client], T]) -> T:
        """What `call` gets from the client; StoreError with address, reason and next step for what it raises."""
        client = self.client()
        try:
            return call(client)
        except StoreError:
            raise
        except Exception as error:
            raise self.error(what, error) from error

    def insist(self, what: str, call: Callable[[Client], T]) -> T:
        """`ask` for what may be asked again: while the server is not ready, it is. One that takes too long is not."""
        try:
            return self.ask(what, call)
        except StoreUnavailable:
            return _connect.retried(lambda: self.ask(what, call), f"Milvus at {self.address}: {what}")

    def persist(self, what: str, call: Callable[[Client, float], object]) -> None:
        """`insist` for what may take long, by requests of some seconds each, for as long as the server answers besides."""
        seconds, began = max(self.timeout, _SLICE), time.monotonic()
        while True:
            try:
                self.insist(what, lambda client: call(client, seconds))
                return
            except StoreTimeout:
                if time.monotonic() - began > PATIENCE:
                    raise
                self.insist(f"version, during {what}", lambda client: client.get_server_version(timeout=self.timeout))

    def wait(self, what: str, left: Callable[[], object], pause: float = _POLL) -> None:
        """Until nothing is left, which is None, however long it takes; StoreTimeout once it has long stayed the same."""
        last, since = None, time.monotonic()
        while (now := left()) is not None:
            if now is UNDER_WAY or now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > PATIENCE:
                raise StoreTimeout(
                    f"Milvus at {self.address}: {what}: nothing of it was done for {PATIENCE:g} s. Look at the log of the "
                    "server."
                )
            time.sleep(pause)

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
            threads, self._threads = self._threads, None
            if client is None or self._process != os.getpid():
                return
            if threads is not None:
                threads.shutdown()
            client.close()
            if self.path is not None:
                _close_lite(self.path)

    def _open(self) -> Client:
        # Without it the child of a fork cannot connect. Read when gRPC is first imported.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")
        try:
            from pymilvus import MilvusClient
        except ImportError:
            raise MissingDependency.for_extra("pymilvus", "milvus", "The Milvus store") from None
        # It prints a traceback for every error that it raises as well: ours says what happened, once.
        for name in ("pymilvus.decorators", "pymilvus.client.connection_manager"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        uri = self._reached() if self.path is None else _open_lite(self.path, self.address)
        seconds = min(self.timeout, _LONGEST_CONNECT)
        options: dict[str, Any] = {"server_pem_path": self._authority} if self._authority else {}
        try:
            client = MilvusClient(
                uri=uri, token=self._token, db_name=self._database, timeout=seconds, dedicated=True, **options
            )
        except Exception as error:
            if self.path is not None:
                _close_lite(self.path)
            raise self._unopened(error) from error
        try:
            told = str(client.get_server_version(timeout=seconds))
        except Exception as error:
            client.close()
            raise self._unopened(error) from error
        self._version = Version.parse(told)
        if not self._version.has(*OLDEST):
            client.close()
            raise StoreError(
                f"Milvus at {self.address} is version {told}; {OLDEST[0]}.{OLDEST[1]} is the oldest supported. Upgrade it."
            )
        return client

    def _reached(self) -> str:
        """The server's URI. Asked by a plain socket first: gRPC tries a closed port again until the time is up."""
        try:
            socket.create_connection((self._host, self._port), min(self.timeout, _LONGEST_CONNECT)).close()
        except OSError as error:
            raise StoreUnavailable(
                f"Milvus at {self.address} cannot be reached: {error.strerror or error}. Is the server running, and is "
                "this its gRPC port?"
            ) from error
        host = in_brackets(self._host)
        return f"{'https' if self._tls else 'http'}://{host}:{self._port}"

    def _unopened(self, error: Exception) -> StoreError:
        """The error of a connection; one that does not pass where the port answers, and speaks otherwise."""
        ours = self.error("connect", error)
        if not isinstance(ours, StoreUnavailable) or self.path is not None:
            return ours
        seconds = min(self.timeout, _LONGEST_PROBE)
        if self._tls and "CERTIFICATE_VERIFY_FAILED" in f"{error} {error.__cause__}":
            wrong: str | bool = "nobody vouches for its certificate. Name the file of its authority by ca= of the URL"
        elif self._tls:
            wrong = _answers_in_the_clear(self._host, self._port, seconds) and "it does not speak TLS. Leave out tls=1"
        else:
            wrong = _speaks_tls(self._host, self._port, seconds) and "it speaks TLS. Add tls=1 to the URL"
        if wrong:
            return StoreError(f"{ours.args[0].partition(': connect')[0]} cannot be spoken to so: {wrong}.")
        return ours

    def error(self, what: str, error: Exception) -> StoreError:
        """The client's error as ours."""
        code, text = getattr(error, "code", None), getattr(error, "message", "") or str(error)
        for one in (error, error.__cause__):
            told: Any = one
            if callable(getattr(told, "code", None)):  # gRPC's own, which says more than what was made of it
                code, text = told.code(), str(told.details())
        status = getattr(code, "name", "")
        for secret in self._secrets:  # the password too, which a server may name without its user
            text = text.replace(secret, "***")
        reason = " ".join(text.split())[:300].rstrip(". ")
        at = f"Milvus at {self.address}: {what}: {reason}."
        if status == "UNAUTHENTICATED" or "auth check failure" in text or code in _DENIED:
            return StoreDenied(f"{at} Check user and password, or the API key, of the URL.")
        if status == "PERMISSION_DENIED":
            return StoreDenied(f"{at} The user may not do this: ask for the right, or take another user.")
        if what == "connect" and status in ("DEADLINE_EXCEEDED", "UNAVAILABLE", "UNIMPLEMENTED", "INTERNAL", "UNKNOWN"):
            return StoreUnavailable(f"{at} Is it a Milvus server, is this its gRPC port, and is tls= of the URL right?")
        if status == "DEADLINE_EXCEEDED" or "deadline exceeded" in text.lower() or "timeout" in text.lower():
            if _UNREACHED.search(text) or "UNAVAILABLE" in text:
                return StoreUnavailable(f"{at} Is the server running, and is tls= of the URL right?")
            return StoreTimeout(f"{at} Try again, or raise timeout= of the URL ({self.timeout:g} s).")
        if code in _FULL or _SPACE.search(text):
            return StoreFull(f"{at} Give the server more disk or memory, then run the same command again.")
        if code == _NOT_FOUND:
            return StoreMismatch(
                f"{at} Somebody dropped it, or the database is another one: check db= of the URL, then: shelflist repair"
            )
        if status == "UNAVAILABLE" or _UNREACHED.search(text):
            return StoreUnavailable(f"{at} Is the server running, and is tls= of the URL right?")
        starts = code == _UNSET and type(error).__name__ == "MilvusException" and _STARTS.search(text)
        if starts or code in _NOT_YET or "nodes not enough" in text or getattr(error, "retriable", False):
            return StoreUnavailable(f"{at} The server is not ready for it: try again in a moment.")
        return StoreError(f"{at} See the log of the server.")


def _speaks_tls(host: str, port: int, seconds: float) -> bool:
    """Asked without the client: gRPC's errors do not tell a server that speaks otherwise from one that is not up yet."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), seconds) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return True
    except OSError:
        return False


def _answers_in_the_clear(host: str, port: int, seconds: float) -> bool:
    try:
        with socket.create_connection((host, port), seconds) as plain:
            plain.sendall(_GREETING)
            answer = plain.recv(9)
    except OSError:
        return False
    return answer.startswith(b"HTTP/") or answer[3:4] == b"\x04"  # HTTP/1, or the settings of HTTP/2


def _check_file_options(place: StoreUrl) -> None:
    unknown = sorted(set(place.query) - {"timeout"})
    if unknown:
        raise ConfigError(f"{place.bare} has an option {unknown[0]!r} that a file does not take. Known: timeout")


def _open_lite(path: str, address: str) -> str:
    """The URI of the Milvus Lite of this file, which all handles of the process share."""
    try:
        from milvus_lite.server_manager import server_manager_instance
    except ImportError:
        raise MissingDependency.for_extra("milvus-lite", "milvus-lite", "Milvus Lite") from None
    if not os.path.isdir(os.path.dirname(path)):
        raise StoreUnavailable(f"Milvus Lite at {address}: the folder {os.path.dirname(path)} does not exist. Make it.")
    logging.getLogger("milvus_lite.server_manager").setLevel(logging.CRITICAL)
    with _lite_lock:
        uri = server_manager_instance.start_and_get_uri(path)
        if uri is None:
            raise StoreUnavailable(
                f"Milvus Lite at {address} cannot be opened: another process has it open, or it cannot be written. "
                "Close the other process, or run a Milvus server for several."
            )
        _lite_users[path] += 1
    return str(uri)


def _close_lite(path: str) -> None:
    from milvus_lite.server_manager import server_manager_instance

    with _lite_lock:
        _lite_users[path] -= 1
        if _lite_users[path] <= 0:
            del _lite_users[path]
            server_manager_instance.release_server(path)
