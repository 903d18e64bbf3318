"""The client of a Qdrant server: opened at first use, once a process; its errors as Shelflist's."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from shelflist.config import StoreUrl
from shelflist.core.errors import (
    ConfigError,
    MissingDependency,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreTimeout,
    StoreUnavailable,
)
from shelflist.core.locks import ProcessLock
from shelflist.core.log import log
from shelflist.stores._connect import Server, retried

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

OLDEST, NEWEST = (1, 13), (1, 18)
"""Servers that this is made for. 1.13 is the first with strict mode, which we loosen for our own collections; the Query
API, the IDF modifier and `is_tenant` are older. Of newer servers it uses ACORN (1.16) and `insert_only` (1.17)."""

_FULL = ("no space left", "insufficient storage", "not enough disk", "out of disk", "available disk space")
_STRICT = " Help: "
"""In what strict mode refuses, which 1.13 calls forbidden and later servers a bad request."""
_ACCESS = ("access", "api key", "api-key", "token", "jwt", "unauthorized")
"""In what the server forbids because of the key, and not to everybody."""
_LOCKED = "Storage locked"
_LARGE = "message larger than max"
"""How gRPC says it of its own accord; the server says OUT_OF_RANGE."""
_TLS = ("ssl", "wrong_version_number", "certificate", "tls")


class Refusal(StoreError):
    """The server is there and says no."""


class NoSuchCollection(Refusal):
    """The generation has no place in the store."""


class RequestRefused(Refusal):
    """The server does not take what is in this request; it may take a part of it."""


@dataclass(frozen=True, slots=True)
class Connected:
    client: QdrantClient
    version: tuple[int, int]


class Connection:
    """A client a process. Thread-safe; `close` may come twice, and a later use opens again."""

    def __init__(self, server: Server, open_client: Callable[[], QdrantClient] | None = None) -> None:
        self.server = server
        self._open_client = open_client or self._open_remote
        self._lock = ProcessLock()
        self._current: tuple[int, Connected] | None = None

    def __call__(self) -> Connected:
        """The client of this process, connected and its server's version known."""
        current = self._current
        if current is not None and current[0] == os.getpid():
            return current[1]
        return retried(self._connected, f"Connecting to {self.server.address}")

    def _connected(self) -> Connected:
        with self._lock:
            if self._current is None or self._current[0] != os.getpid():
                client = self._open_client()
                try:
                    version = self._checked_version(client)
                except BaseException:
                    with suppress(Exception):
                        client.close()
                    raise
                self._current = (os.getpid(), Connected(client, version))
            return self._current[1]

    def _checked_version(self, client: QdrantClient) -> tuple[int, int]:
        try:
            with self.errors_named():
                told = client.info().version
                version = _version(told)
        except Refusal as error:  # Qdrant tells it to everybody
            cause = error.__cause__
            status = getattr(cause, "status_code", None)
            raise self._stranger(type(cause).__name__ if status is None else f"HTTP {status}") from error
        if version < OLDEST:
            raise StoreError(
                f"Qdrant at {self.server.address} is version {told}; Shelflist needs {shown(OLDEST)} or newer. Upgrade "
                "it, one minor version at a time."
            )
        return version

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the client, its errors turned into ours; again while they are transient.

        All that is asked may be repeated: points are written by id, and what is made or removed is looked for.
        """
        client = self().client

        def once() -> Any:
            with self.errors_named():
                answer = getattr(client, method)(*arguments, **options)
            if "wait" in options and _is_late(answer):
                raise self._timeout()
            return answer

        return retried(once, f"{method} at {self.server.address}")

    def close(self) -> None:
        with self._lock:
            current, self._current = self._current, None
            if current is not None and current[0] == os.getpid():
                current[1].client.close()

    def _open_remote(self) -> QdrantClient:
        try:
            from qdrant_client import QdrantClient
        except ImportError as error:
            raise MissingDependency.for_extra("qdrant-client", "qdrant", "The Qdrant store") from error
        server = self.server
        grpc_port = server.options.get("grpc_port")
        if server.api_key and not server.tls and server.host not in ("localhost", "127.0.0.1", "::1"):
            log.warning("%s: the API key goes over the network in the clear. Use ?tls=1.", server.address)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Api key is used with an insecure connection", category=UserWarning
            )
            return QdrantClient(
                host=f"[{server.host}]" if ":" in server.host else server.host,  # it makes a URL of it as it is
                port=server.port,
                grpc_port=int(grpc_port or 6334),
                prefer_grpc=grpc_port is not None,
                https=server.tls,
                api_key=server.api_key,
                timeout=math.ceil(server.timeout),
                check_compatibility=False,  # it asks in a thread and only warns; the version is checked above
            )

    @contextmanager
    def errors_named(self) -> Iterator[None]:
        """Turn the errors of the client, of HTTP and of gRPC into ours."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            named = self._named(error)
            if named is None:
                raise
            raise named from error

    def _named(self, error: Exception) -> StoreError | None:
        import grpc
        import httpx
        from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
        from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

        if isinstance(error, ResourceExhaustedResponse):
            return self._of_status(429, error.message)
        if isinstance(error, UnexpectedResponse):
            return self._of_status(error.status_code or 500, _answer(error))
        if isinstance(error, ResponseHandlingException):
            cause = error.source
            if isinstance(cause, httpx.TimeoutException):
                return self._timeout()
            if isinstance(cause, httpx.HTTPError):
                return self._unreachable(f"{type(cause).__name__}: {cause}")
            return self._stranger(type(cause).__name__)
        if isinstance(error, grpc.RpcError):
            return self._of_grpc(error)
        if isinstance(error, JSONDecodeError):
            return self._stranger(type(error).__name__)
        if isinstance(error, (ApiException, QdrantException, ValueError)):
            # The client checks some requests itself, and raises ValueError.
            if "not found" in str(error).lower():
                return self._missing(str(error))
            return RequestRefused(self._refused(str(error)))
        return None

    def _of_grpc(self, error: Exception) -> StoreError:
        from grpc import StatusCode

        code = error.code() if hasattr(error, "code") else StatusCode.UNKNOWN
        text = str(error.details() or code.name) if hasattr(error, "details") else str(error)
        match code:
            case StatusCode.UNAVAILABLE:
                return self._unreachable(text)
            case StatusCode.DEADLINE_EXCEEDED | StatusCode.CANCELLED:
                return self._timeout()
            case StatusCode.UNAUTHENTICATED:
                return self._of_status(401, text)
            case StatusCode.PERMISSION_DENIED:
                return self._of_status(403, text)
            case StatusCode.RESOURCE_EXHAUSTED:
                status = 507 if _says(text, _FULL) else 413 if _LARGE in text else 429
                return self._of_status(status, text)
            case StatusCode.INVALID_ARGUMENT:
                return self._of_status(400, text)
            case StatusCode.ALREADY_EXISTS | StatusCode.UNIMPLEMENTED:
                return self._of_status(409, text)
            case StatusCode.FAILED_PRECONDITION if _LOCKED in text:
                return self._of_status(403, text)
            case StatusCode.NOT_FOUND:
                return self._of_status(404, text)
            case StatusCode.OUT_OF_RANGE:
                return self._of_status(413, text)
        return self._of_status(500, text)

    def _of_status(self, status: int, text: str) -> StoreError:
        text = self.server.hidden(text)
        at = f"Qdrant at {self.server.address}"
        if status == 507 or (status >= 500 and _says(text, _FULL)):
            return StoreFull(f"{at} has no space left: {text}. Free some, then run the same command again.")
        match status:
            case 403 if _LOCKED in text or not (_STRICT in text or _says(text, _ACCESS)):
                return StoreDenied(
                    f"{at} forbids this: {text}. Look whether writes are locked there, or what stands between lets through."
                )
            case 401 | 403 if _STRICT not in text:
                return StoreDenied(
                    f"{at} refuses the API key ({text}). Give it as api_key= of the URL or in "
                    "SHELFLIST_QDRANT_API_KEY or SHELFLIST_API_KEY; it must allow reading and writing."
                )
            case 404:
                return self._missing(text)
            case 408 | 504:
                return self._timeout()
            case 413:
                return RequestRefused(f"{at} takes no request of this size: {text}")
            case 400 | 403 | 422:
                return RequestRefused(self._refused(text))
            case 429:
                return StoreUnavailable(f"{at} asks to wait, as its rate limit is reached: {text}. Try again later.")
            case 502 | 503:
                return self._unreachable(text)
        if status >= 500:
            # A cluster that chooses a leader, or whose replica is away, answers so.
            return StoreUnavailable(f"{at} failed: {text}. Look at its log, then run the same command again.")
        return Refusal(self._refused(text))

    def unhealthy(self, name: str, reason: object) -> StoreError:
        """What the server itself calls the failure of a collection."""
        text = self.server.hidden(f"{name} is not healthy, {reason}")
        if _says(text, _FULL):
            return self._of_status(507, text)
        return StoreError(f"Qdrant at {self.server.address}: {text}. Look at its log, then run the same command again.")

    def _timeout(self) -> StoreTimeout:
        return StoreTimeout(
            f"Qdrant at {self.server.address} did not answer within {self.server.timeout:g} s. Look whether it is "
            "overloaded, or give more time: timeout= in the URL."
        )

    def _unreachable(self, reason: str) -> StoreError:
        reason, at = self.server.hidden(reason), f"Qdrant at {self.server.address}"
        if _says(reason, _TLS):
            other = "leave tls=1 out" if self.server.tls else "add tls=1 to the URL"
            return StoreError(
                f"{at} does not agree on TLS: {reason}. If the server speaks {'plain HTTP' if self.server.tls else 'TLS'}, "
                f"{other}; for a certificate of your own set SSL_CERT_FILE."
            )
        hint = "" if self.server.tls else " If it speaks TLS, add tls=1 to the URL."
        return StoreUnavailable(f"{at} cannot be reached: {reason}. Start it, or check host and port.{hint}")

    def _missing(self, text: str) -> NoSuchCollection:
        return NoSuchCollection(
            f"Qdrant at {self.server.address}: {self.server.hidden(text)}. Somebody deleted it, or the URL names another server. "
            "To restore it from the ledger, run: shelflist repair"
        )

    def _stranger(self, reason: str) -> StoreError:
        hint = "" if self.server.tls else " If it speaks TLS, add tls=1 to the URL."
        return StoreError(
            f"What answers at {self.server.address} is not Qdrant, or not a version that this client understands "
            f"({reason}). Check host and port; servers {shown(OLDEST)} to {shown(NEWEST)} are supported.{hint}"
        )

    def _refused(self, text: str) -> str:
        return f"Qdrant at {self.server.address} refused: {self.server.hidden(text)}"


def check_options(place: StoreUrl, names: Iterable[str]) -> None:
    """ConfigError unless each of these options of the URL, if it is there, is a positive whole number."""
    for name in sorted(names):
        text = place.query.get(name)
        if text is not None and not (text.isascii() and text.isdecimal() and 0 < int(text) < 65_536):
            raise ConfigError(f"{place}: {name}={text!r} is not a whole number from 1 to 65535.")


def _answer(error: object) -> str:
    """What the server said, without the frame around it."""
    try:
        said = error.structured()["status"]["error"]  # type: ignore[attr-defined]
    except Exception:
        content = getattr(error, "content", b"")
        said = content.decode(errors="replace") if isinstance(content, bytes) else str(content)
    return str(said).strip()[:400] or str(getattr(error, "reason_phrase", ""))


def _is_late(answer: Any) -> bool:
    """Whether a write was taken and not carried out in time, which since 1.17 the server does not call an error."""
    answers = answer if isinstance(answer, list) else [answer]
    return any(one.status == "wait_timeout" for one in answers)


def _says(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text.lower() for word in words)


def _version(text: str) -> tuple[int, int]:
    major, minor, *_ = text.lstrip("v").split(".")
    return int(major), int(minor)


def shown(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
