"""What embedders that run a model in this process share: when it is loaded, its prompts, its fingerprint."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from shelflist.core.errors import ConfigError, EmbedderError, MissingDependency
from shelflist.core.types import Vector
from shelflist.embedders.defaults import checked_vectors
from shelflist.embedders.prompts import Prompts, known_prompts

_WEIGHTS = ("*.safetensors", "*.bin", "*.onnx", "*.onnx_data", "*.pt")


class LocalModelEmbedder(ABC):
    """A contextual encoder that is loaded at its first use, and again after a fork: its threads do not survive one.

    `model` is a model's public name, `folder` a place on this machine that holds its files. Prompts are, in this order:
    the prefixes if given, those known for the model, those that its own files name.
    """

    scheme: str
    package: str
    module: str
    fusion_alpha = 0.7

    def __init__(self, model: str, *, folder: str | None, options: dict[str, str | None]) -> None:
        if self.module not in sys.modules and importlib.util.find_spec(self.module) is None:
            raise MissingDependency.for_extra(self.package, self.scheme, f"The embedder '{self.scheme}:{model}'")
        if folder is not None and not Path(folder).is_dir():
            raise ConfigError(f"The embedder '{self.scheme}:{model}' reads its model from {folder}: no such folder.")
        self.model = model
        self.folder = folder
        self._options = {name: value for name, value in options.items() if value is not None}
        self._loaded: tuple[int, Any] | None = None
        self._weights: str | None = None

    @abstractmethod
    def _load(self) -> Any:
        """Open the model. Any exception is turned into an EmbedderError by the caller."""

    @abstractmethod
    def _encode(self, loaded: Any, texts: list[str]) -> Any:
        """Rows of length 1, one for each text."""

    @abstractmethod
    def _dimensions(self, loaded: Any) -> int: ...

    @abstractmethod
    def _max_tokens(self, loaded: Any) -> int | None: ...

    @abstractmethod
    def _token_count(self, loaded: Any, text: str) -> int:
        """Tokens of the text before any are cut off."""

    def _own_prompts(self, loaded: Any) -> Prompts:
        """Prompts that the model's files name."""
        return Prompts()

    @property
    def prompts(self) -> Prompts:
        found = known_prompts(self.model) or self._own_prompts(self._opened())
        return Prompts(
            query=self._options.get("query_prefix", found.query),
            document=self._options.get("document_prefix", found.document),
        )

    @property
    def spec(self) -> str:
        query = f"?{urlencode(self._options, quote_via=quote, safe=':/')}" if self._options else ""
        return f"{self.scheme}:{self.model}{query}"

    @property
    def fingerprint(self) -> str:
        """Names the model. Files of a folder are named by their hash: the path may hold another model tomorrow."""
        name = self.model if self.folder is None else Path(self.folder).resolve().name
        parts = [f"{self.scheme}:{name}", f"dimensions={self.dimensions}", "normalised=l2", self.prompts.fingerprint()]
        if self.folder is not None:
            if self._weights is None:
                self._weights = _hash_of_weights(Path(self.folder))
            parts.append(f"weights={self._weights}")
        return ";".join(parts)

    @property
    def dimensions(self) -> int:
        return self._dimensions(self._opened())

    @property
    def max_tokens(self) -> int | None:
        return self._max_tokens(self._opened())

    def embed_documents(self, texts: Sequence[str]) -> Vector:
        """float32, shape (len(texts), dimensions). Raises EmbedderError when the model fails."""
        prefix = self.prompts.document
        return self._vectors([prefix + text for text in texts])

    def embed_query(self, text: str) -> Vector:
        """float32, shape (dimensions,). The model's query prompt is put in front."""
        vector: Vector = self._vectors([self.prompts.query + text])[0]
        return vector

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Number of the model's own tokens of each text with its prompt, before any are cut off."""
        loaded, prefix = self._opened(), self.prompts.document
        return [self._token_count(loaded, prefix + text) for text in texts]

    def _opened(self) -> Any:
        if self._loaded is None or self._loaded[0] != os.getpid():
            try:
                self._loaded = (os.getpid(), self._load())
            except Exception as error:
                raise EmbedderError(
                    f"{self.package} cannot load the model {self.folder or self.model!r}: {error}. "
                    "Check the name; without a network, put the model's files in a folder and name that."
                ) from error
        return self._loaded[1]

    def _vectors(self, texts: list[str]) -> Vector:
        loaded = self._opened()
        try:
            rows = self._encode(loaded, texts)
        except Exception as error:
            raise EmbedderError(f"{self!r} failed on {len(texts)} texts: {error}") from error
        return checked_vectors(rows, len(texts), self.dimensions, repr(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec!r})"


def _hash_of_weights(folder: Path) -> str:
    files = sorted({path for pattern in _WEIGHTS for path in folder.rglob(pattern)})
    if not files:
        raise EmbedderError(f"{folder} holds no weights ({', '.join(_WEIGHTS)}): it is not a model's folder.")
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
