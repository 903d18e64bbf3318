"""One connection to a Weaviate server: opened late, again after a fork, and its errors as ours.

The schema goes over REST by the client. Rows and queries go over gRPC by the client's own messages, but on a channel of
ours: the client's calls wait up to a minute for a server that is away before they say so, and turn vectors into lists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from shelflist.config import in_brackets
from shelflist.core.errors import (
    MissingDependency,
    ShelflistError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreTimeout,
    StoreUnavailable,
)
from shelflist.core.locks import ProcessLock
from shelflist.stores._connect import Server, retried

OLDEST = (1, 33)
_ENOUGH = 104_858_000
"""Bytes of the largest message, where the server does not say."""

Answer = TypeVar("Answer")

_abandoned: list[Any] = []
"""Connections of the process that this one was forked from: theirs to close, and a finaliser would."""


class NoSuchTenant(StoreError):
    """Nothing was ever written for this tenant."""


class NoSuchObject(StoreError):
    """The class or the object that was named is not there."""


@dataclass(frozen=True, slots=True)
class _Open:
    pid: int
    client: Any
    channel: Any
    stub: Any
    headers: tuple[tuple[str, str], ...] = field(repr=False)  # the API key is among them
    largest: int
    proto: Any


class Session:
    """Thread-safe. `call` runs one RPC, `rest` hands the client to a function; both raise our errors only."""

    def __init__(self, server: Server, grpc_host: str, grpc_port: int) -> None:
        self.server = server
        self._http_host, self._grpc_host = in_brackets(server.host), in_brackets(grpc_host)
        self._grpc_port = grpc_port
        self._lock = ProcessLock()
        self._now: _Open | None = None

    @property
    def address(self) -> str:
        return self.server.address

    @property
    def proto(self) -> Any:
        """The module of the server's messages."""
        return self._opened().proto

    @property
    def largest_message(self) -> int:
        """Bytes that one request or answer may have."""
        return self._opened().largest

    def call(self, method: str, request: Any) -> Any:
        """One RPC, or its error as ours; NoSuchTenant where the request names a tenant without points."""
        now = self._opened()
        return self._known(
            now.client,
            lambda: getattr(now.stub, method)(request, metadata=now.headers, timeout=self.server.timeout),
        )

    def rest(self, work: Callable[[Any], Answer]) -> Answer:
        """What `work` returns for the client, whose errors become ours; NoSuchObject for a 404.

        It is asked again while the server is away, so it must be work that may be repeated.
        """
        client = self._opened().client
        return retried(lambda: self._known(client, lambda: work(client)), f"Weaviate at {self.address}")

    def _known(self, client: Any, work: Callable[[], Answer]) -> Answer:
        """`work`, translated; a server that starts answers before it knows its classes again, and is away till then."""
        try:
            return self._translated(work)
        except NoSuchObject:
            if not client.is_ready():
                raise StoreUnavailable(f"Weaviate at {self.address} is starting. Try again in a moment.") from None
            return self._translated(work)  # it may have got ready in between

    def close(self) -> None:
        with self._lock:
            now, self._now = self._now, None
        if now is not None and now.pid == os.getpid():
            now.channel.close()
            now.client.close()

    def _opened(self) -> _Open:
        now = self._now
        if now is not None and now.pid == os.getpid():
            return now
        return retried(self._open, f"Opening Weaviate at {self.address}")

    def _open(self) -> _Open:
        with self._lock:
            if self._now is not None and self._now.pid != os.getpid():
                _abandoned.append(self._now)
                self._now = None
            if self._now is None:
                self._now = self._connected()
            return self._now

    def _connected(self) -> _Open:
        # Read when gRPC is imported. Without it a call after a fork hangs, beyond its own time-out.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")
        try:
            import grpc
            import weaviate
            from weaviate.classes.init import AdditionalConfig, Auth, Timeout
            from weaviate.proto import v1 as proto
        except ImportError as error:
            raise MissingDependency.for_extra("weaviate-client", "weaviate", "A weaviate: store") from error

        server = self.server
        client = weaviate.WeaviateClient(
            connection_params=weaviate.connect.ConnectionParams.from_params(
                http_host=self._http_host,
                http_port=server.port,
                http_secure=server.tls,
                grpc_host=self._grpc_host,
                grpc_port=self._grpc_port,
                grpc_secure=server.tls,
            ),
            auth_client_secret=Auth.api_key(server.api_key) if server.api_key else None,
            additional_config=AdditionalConfig(
                timeout=Timeout(init=server.timeout, query=server.timeout, insert=server.timeout),
                trust_env=_names_authorities(),
            ),
            skip_init_checks=True,  # they ask a package registry whether the client is the newest
        )
        try:
            largest = self._met(client)
        except BaseException:
            client.close()
            raise
        options = [
            ("grpc.max_send_message_length", largest),
            ("grpc.max_receive_message_length", largest),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ]
        target = f"{self._grpc_host}:{self._grpc_port}"
        channel = (
            grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
            if server.tls
            else grpc.insecure_channel(target, options=options)
        )
        headers = (("authorization", f"Bearer {server.api_key}"),) if server.api_key else ()
        stub = proto.weaviate_pb2_grpc.WeaviateStub(channel)
        return _Open(os.getpid(), client, channel, stub, headers, largest, proto)

    def _met(self, client: Any) -> int:
        """Meet the server; bytes of its largest message. What is no Weaviate, or too old a one, is said to be that."""
        try:
            client.connect()
            meta = client.get_meta()
            version = meta["version"]
            major, minor = map(int, re.findall(r"\d+", version)[:2])
            largest = int(meta.get("grpcMaxMessageSize") or _ENOUGH)
        except Exception as error:
            ours = self._unmet(error)
            if ours is None:
                raise
            raise ours from self._shown(error)
        if (major, minor) < OLDEST:
            raise self._too_old(version)
        return largest

    def _unmet(self, error: Exception) -> StoreError | None:
        old = re.search(r"version (\S+) is not supported", str(error))
        if old is not None:  # the client's own limit, which it takes for a server that is away
            return self._too_old(old[1])
        status = getattr(error, "status_code", None)
        if isinstance(status, int) and status not in _MAY_BE_WEAVIATE and (status < 500 or status in (501, 505)):
            return self._no_weaviate(f"HTTP {status}" if status >= 300 else "something else")
        ours = self.translate(error)
        if ours is None and isinstance(error, (AssertionError, AttributeError, LookupError, TypeError, ValueError)):
            return self._no_weaviate("something else")  # the client reads whatever it is told
        return ours

    def _too_old(self, version: str) -> StoreError:
        oldest = ".".join(map(str, OLDEST))
        return StoreError(f"Weaviate at {self.address} is version {version!r}; {oldest} is the oldest supported.")

    def _no_weaviate(self, what: str) -> StoreError:
        return StoreError(
            f"What answers at {self.address} is not Weaviate: /v1/meta gives {what}. Check the address: host and port of "
            "the URL."
        )

    def _translated(self, work: Callable[[], Answer]) -> Answer:
        try:
            return work()
        except ShelflistError:
            raise
        except Exception as error:
            ours = self.translate(error)
            if ours is None:
                raise
            raise ours from self._shown(error)

    def _shown(self, error: Exception) -> Exception | None:
        """The error, unless it repeats the API key: a cause stands in the traceback, with its own text."""
        text = _whole_text(error)
        return error if self.server.hidden(text) == text else None

    def translate(self, error: Exception) -> StoreError | None:
        """Our error for one of the client's, of gRPC's or of its HTTP library's; None for anybody else's."""
        package = type(error).__module__.split(".")[0]
        if package not in ("weaviate", "grpc", "httpx", "httpcore", "ssl"):
            return None
        code = getattr(error, "code", None)
        if package == "grpc" and callable(code):
            status = str(getattr(code(), "name", ""))
            details = getattr(error, "details", None)
            return self.refused(status, str(details() if callable(details) else error))
        status_code = getattr(error, "status_code", None)
        text = _whole_text(error)
        if isinstance(status_code, int):
            return self.refused(_HTTP.get(status_code, "UNAVAILABLE" if status_code >= 500 else "UNKNOWN"), text)
        name = type(error).__name__
        if "Timeout" in name or "timed out" in text:
            return self.refused("DEADLINE_EXCEEDED", text)
        if "Authentication" in name:
            return self.refused("UNAUTHENTICATED", text)
        if package != "weaviate" or "Connection" in name or "StartUp" in name:
            return self.refused("UNAVAILABLE", text)
        return self.refused("UNKNOWN", text)

    def refused(self, status: str, text: str) -> StoreError:
        """Our error for what the server, or the way to it, said: by gRPC status, and by words where that is UNKNOWN."""
        said = self._without_secret(text)
        where = f"Weaviate at {self.address}"
        if "tenant not found" in text:
            return NoSuchTenant(f"{where} has no such tenant ({said}).")
        if "no space left" in text or "resource pressure" in text or "disk usage too high" in text:
            return StoreFull(
                f"{where} takes no writes because its disk or memory is nearly full ({said}). What was acknowledged is "
                "kept. Make room and run it again; if it is still refused then, run: shelflist repair"
            )
        if "read-only" in text:
            return StoreReadOnly(
                f"{where} takes no writes: {said}. Its disk or memory may be nearly full, or somebody wants it so: look "
                "into its log. Then run: shelflist repair"
            )
        if status in ("UNAUTHENTICATED", "PERMISSION_DENIED") or "unauthorized" in text or "forbidden" in text:
            return StoreDenied(
                f"{where} refuses the API key ({said}). Give the right one as api_key= of the URL, or as "
                "SHELFLIST_WEAVIATE_API_KEY or SHELFLIST_API_KEY."
            )
        if _TLS.search(text):
            helps = "Add tls=1 to the URL, or check the certificate."
            if self.server.tls:
                helps = (
                    "Leave out tls=1, or check the certificate. An authority of your own is named in SSL_CERT_FILE and "
                    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH, both."
                )
            return StoreError(f"{where} and this URL do not agree about TLS ({said}). {helps}")
        if status == "DEADLINE_EXCEEDED" or "context deadline exceeded" in text:
            return StoreTimeout(
                f"{where} did not answer within {self.server.timeout:g} s. Raise it with timeout= of the URL, or look "
                "at the server's load."
            )
        if status in ("UNAVAILABLE", "CANCELLED", "ABORTED") or _AWAY.search(text):
            hint = "" if self.server.tls else " If it speaks TLS, add tls=1 to the URL."
            return StoreUnavailable(
                f"{where} (gRPC {self._grpc_host}:{self._grpc_port}) cannot be reached ({said}). Check that it runs, "
                f"its host, port and grpc_port=.{hint}"
            )
        if status == "NOT_FOUND" or "could not find class" in text:
            return NoSuchObject(f"{where} does not have that ({said}). It was dropped, or --url is wrong.")
        return StoreError(f"{where} refuses: {said}")

    def _without_secret(self, text: str) -> str:
        said = " ".join(self.server.hidden(text).split())
        return said if len(said) <= 300 else said[:297] + "..."


def _names_authorities() -> bool:
    """Whether the environment says whose certificates to trust. The client looks there only if it may take the proxies
    from there too, so it is not told to without need."""
    return bool(os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"))


def _whole_text(error: BaseException) -> str:
    """What an error says, with what caused it: the client often says no more than that something failed."""
    said = [str(getattr(error, "message", None) or error)]
    cause = error.__cause__ or error.__context__
    while cause is not None and len(said) < 5:
        text = str(cause)
        if text and not any(text in one for one in said):
            said.append(text)
        cause = cause.__cause__ or cause.__context__
    return "; ".join(said)


_HTTP = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "UNAVAILABLE",
}
_MAY_BE_WEAVIATE = {400, 401, 403, 408, 429}
"""What Weaviate, or a proxy before it, answers to a question for /v1/meta that it refuses; 400 is the way of TLS."""
_TLS = re.compile(r"WRONG_VERSION_NUMBER|SSL|certificate|[Hh]andshake|Meta endpoint! Unexpected status code: 400")
_AWAY = re.compile(
    r"connection refused|Connection refused|not enough memory|leader not found|context canceled|resolve node name"
)
