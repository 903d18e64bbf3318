"""Embeddings over HTTP from any endpoint that speaks OpenAI's `/embeddings`: OpenAI, TEI, infinity, vLLM, Ollama."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from shelflist.core.errors import ConfigError, EmbedderError, EmbedderUnavailable, MissingDependency
from shelflist.core.log import log
from shelflist.core.types import Vector
from shelflist.embedders.defaults import checked_vectors, estimated_tokens
from shelflist.embedders.prompts import Prompts, known_prompts

if TYPE_CHECKING:
    import httpx

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"

_TOO_MANY_TEXTS = frozenset({413, 422})
_LONGEST_WAIT = 60.0
_BYTES_A_REQUEST = 400_000
_LIMITS = {"text-embedding-3-small": 8191, "text-embedding-3-large": 8191, "text-embedding-ada-002": 8191}


class _TooManyTexts(Exception):
    """The endpoint takes fewer texts in one request."""


class OpenAIEmbedder:
    """`openai:MODEL?base_url=…&dimensions=…&api_key_env=NAME`.

    `dimensions` is sent to the endpoint (models that can shorten their vectors obey) and checked; without it one
    request learns it. `api_key_env` names the environment variable that holds the key: the key is read at each
    request and kept nowhere. `OPENAI_API_KEY` is sent to OpenAI only: another endpoint gets a key if one is named.
    `fingerprint` does not hold the endpoint: a model that moves to another host keeps its vector space.
    `sleep` and `jitter` (0 to 1) are called between tries.
    """

    fusion_alpha = 0.7

    def __init__(
        self,
        model: str,
        *,
        base_url: str = OPENAI_URL,
        dimensions: int | None = None,
        api_key_env: str | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        max_tokens: int | None = None,
        batch_size: int = 128,
        timeout: float = 60.0,
        attempts: int = 6,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if importlib.util.find_spec("httpx") is None:
            raise MissingDependency.for_extra("httpx", "openai", f"The embedder 'openai:{model}'")
        place = urlsplit(base_url)
        if place.scheme not in ("http", "https") or not place.hostname:
            raise ConfigError("The option base_url of an openai embedder must look like http://HOST:PORT/v1.")
        if place.username or place.password or place.query:
            raise ConfigError(
                f"The option base_url ({place.scheme}://{place.hostname}…) holds a user, password or query. It is "
                "stored with the collection, so it may hold no secret: put the key in an environment variable and name "
                "it with api_key_env=NAME."
            )
        for name, number in (("dimensions", dimensions), ("batch_size", batch_size), ("attempts", attempts)):
            if number is not None and number < 1:
                raise ConfigError(f"The option {name} of openai:{model} must be 1 or more, not {number}.")
        self.model = model
        self.base_url = base_url.rstrip("/")
        self.batch_size = batch_size
        known = known_prompts(model) or Prompts()
        self.prompts = Prompts(
            query=known.query if query_prefix is None else query_prefix,
            document=known.document if document_prefix is None else document_prefix,
        )
        self.max_tokens = _LIMITS.get(model) if max_tokens is None else max_tokens
        self._key_env = api_key_env or (OPENAI_KEY if self.base_url == OPENAI_URL else None)
        self._asked = dimensions
        self._learned = dimensions
        self._timeout = timeout
        self._attempts = attempts
        self._sleep = sleep
        self._jitter = jitter
        self._client: tuple[int, httpx.Client] | None = None
        given: dict[str, Any] = {
            "base_url": None if self.base_url == OPENAI_URL else self.base_url,
            "dimensions": dimensions,
            "api_key_env": api_key_env,
            "query_prefix": query_prefix,
            "document_prefix": document_prefix,
            "max_tokens": max_tokens,
            "batch_size": None if batch_size == 128 else batch_size,
        }
        self._options = {name: str(value) for name, value in given.items() if value is not None}

    @property
    def spec(self) -> str:
        query = f"?{urlencode(self._options, quote_via=quote, safe=':/')}" if self._options else ""
        return f"openai:{self.model}{query}"

    @property
    def fingerprint(self) -> str:
        return f"openai:{self.model};dimensions={self.dimensions};normalised=as-sent;{self.prompts.fingerprint()}"

    @property
    def dimensions(self) -> int:
        """As given, or learned by one request."""
        if self._learned is None:
            self._vectors(["dimensions"])
        if self._learned is None:
            raise EmbedderError(f"{self._who} sent an empty vector.")
        return self._learned

    def embed_documents(self, texts: Sequence[str]) -> Vector:
        """float32, shape (len(texts), dimensions). Raises EmbedderError, or EmbedderUnavailable after every retry."""
        return self._vectors([self.prompts.document + text for text in texts])

    def embed_query(self, text: str) -> Vector:
        """float32, shape (dimensions,)."""
        vector: Vector = self._vectors([self.prompts.query + text])[0]
        return vector

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """An estimate: the tokenizer is at the other end."""
        return [estimated_tokens(text) for text in texts]

    def close(self) -> None:
        """Close the connections. The embedder opens new ones if it is used again."""
        if self._client is not None and self._client[0] == os.getpid():
            self._client[1].close()
        self._client = None

    def __repr__(self) -> str:
        return f"OpenAIEmbedder({self.spec!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    @property
    def _who(self) -> str:
        return f"The embedder endpoint {self.base_url}/embeddings (model {self.model!r})"

    def _vectors(self, texts: list[str]) -> Vector:
        rows: list[list[float]] = []
        for batch in self._batches(texts):
            rows += self._halved(batch)
        vectors = checked_vectors(rows, len(texts), self._learned, self._who)
        if len(texts) and vectors.shape[1]:
            self._learned = int(vectors.shape[1])
        return vectors

    def _batches(self, texts: list[str]) -> Iterator[list[str]]:
        start = 0
        while start < len(texts):
            end, size = start, 0
            # Read each time: an endpoint may have shown that it takes fewer.
            while end < len(texts) and end - start < self.batch_size:
                size += len(texts[end].encode("utf-8", "surrogatepass"))
                if size > _BYTES_A_REQUEST and end > start:
                    break
                end += 1
            yield texts[start:end]
            start = end

    def _halved(self, texts: list[str]) -> list[list[float]]:
        try:
            return self._request(texts)
        except _TooManyTexts:
            half = len(texts) // 2
            self.batch_size = max(1, min(self.batch_size, half))
            return self._halved(texts[:half]) + self._halved(texts[half:])

    def _request(self, texts: list[str]) -> list[list[float]]:
        import httpx

        body: dict[str, Any] = {"model": self.model, "input": texts}
        if self._asked is not None:
            body["dimensions"] = self._asked
        headers, key = self._headers()
        reason = ""
        for attempt in range(1, self._attempts + 1):
            wait = min(_LONGEST_WAIT, 0.5 * 2.0 ** (attempt - 1)) * (0.5 + 0.5 * self._jitter())
            try:
                answer = self._http().post(f"{self.base_url}/embeddings", json=body, headers=headers)
            except httpx.TimeoutException:
                reason = f"no answer within {self._timeout:g} s"
            except httpx.TransportError as error:
                reason = _redacted(str(error) or type(error).__name__, key)
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
                raise EmbedderError(f"{self._who} cannot be asked: {_redacted(str(error), key)}") from None
            else:
                if answer.status_code == 200:
                    return self._rows(answer, len(texts))
                reason = f"HTTP {answer.status_code}: {_redacted(_said(answer), key)}"
                if answer.status_code in _TOO_MANY_TEXTS and len(texts) > 1:
                    raise _TooManyTexts
                if not _may_pass(answer.status_code) or "insufficient_quota" in answer.text[:2000]:
                    raise EmbedderError(f"{self._who} refused {len(texts)} texts. {reason}. {self._advice(answer)}")
                asked = _retry_after(answer.headers.get("retry-after"))
                if asked is not None:
                    if asked > _LONGEST_WAIT:
                        raise EmbedderUnavailable(f"{self._who} asks to wait {asked:.0f} s. {reason}. Try again then.")
                    wait = max(wait, asked)
            if attempt < self._attempts:
                log.info("%s: %s; try %d of %d in %.1f s", self._who, reason, attempt + 1, self._attempts, wait)
                self._sleep(wait)
        raise EmbedderUnavailable(
            f"{self._who} gave no vectors in {self._attempts} tries. The last: {reason}. "
            "Check that the server runs and is not overloaded, then run the same command again."
        )

    def _rows(self, answer: httpx.Response, count: int) -> list[list[float]]:
        try:
            data = answer.json()["data"]
            found = {int(item["index"]): item["embedding"] for item in data}
        except (ValueError, KeyError, TypeError) as error:
            raise EmbedderError(
                f"{self._who} answered with something that is not OpenAI's format ({type(error).__name__}: {error}). "
                "Does base_url end where /embeddings follows, for example in /v1?"
            ) from error
        missing = [i for i in range(count) if i not in found]
        if missing or len(data) != count:
            raise EmbedderError(
                f"{self._who} sent {len(data)} vectors for {count} texts"
                + (f"; the first missing one is number {missing[0]}." if missing else ".")
                + " Nothing of this answer was used. Try a smaller batch_size, and look at the server's log."
            )
        return [found[i] for i in range(count)]

    def _headers(self) -> tuple[dict[str, str], str | None]:
        if self._key_env is None:
            return {}, None
        key = os.environ.get(self._key_env, "").strip()
        if not key:
            raise ConfigError(
                f"The embedder openai:{self.model} reads its key from the environment variable {self._key_env}, "
                f"which is not set. Set it: export {self._key_env}=…"
            )
        return {"Authorization": f"Bearer {key}"}, key

    def _http(self) -> httpx.Client:
        # A connection that two processes use mixes their answers.
        if self._client is None or self._client[0] != os.getpid():
            import httpx

            self._client = (os.getpid(), httpx.Client(timeout=self._timeout))
        return self._client[1]

    def _advice(self, answer: httpx.Response) -> str:
        status, text = answer.status_code, answer.text[:2000].lower()
        if status in (401, 403):
            if self._key_env is None:
                return "No key was sent: name its environment variable with api_key_env=NAME in the embedder's options."
            return f"Check the key in the environment variable {self._key_env}."
        if status == 404:
            return "Check the model's name, and that base_url ends where /embeddings follows, for example in /v1."
        if "insufficient_quota" in text:
            return "The account has no quota left: raise it, then run the same command again."
        if status == 400 and self._asked is not None and "dimension" in text:
            return f"The model may not make vectors of {self._asked} dimensions: leave the option dimensions out."
        return "Check that no text is longer than the model takes, then the model's name and options."


def _may_pass(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in (408, 429) or (status >= 500 and status != 501)


def _said(answer: httpx.Response) -> str:
    """The error's own words, cut to a line."""
    try:
        body = answer.json()
        error = body.get("error", body.get("message", body.get("detail", body))) if isinstance(body, dict) else body
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except ValueError:
        text = answer.text
    return " ".join(text.split())[:300].rstrip(".") or "no explanation"


def _redacted(text: str, key: str | None) -> str:
    """Without the key, whole or as far as servers quote it."""
    if key:
        text = text.replace(key, "***")
    return re.sub(r"\b(sk|pk|hf)[-_][A-Za-z0-9_*.-]{4,}", "***", text)


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait: the header holds a number or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
