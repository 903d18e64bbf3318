"""Models run by the `sentence-transformers` package (torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shelflist.embedders.local import LocalModelEmbedder
from shelflist.embedders.prompts import Prompts


class SentenceTransformersEmbedder(LocalModelEmbedder):
    """`sentence-transformers:MODEL_OR_PATH`.

    `query_prefix` and `document_prefix` replace the prompts that the model or its configuration names.
    `device` is torch's word, for example `cpu` or `cuda`.
    """

    scheme = "sentence-transformers"
    package = "sentence-transformers"
    module = "sentence_transformers"

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
    ) -> None:
        options = {"device": device, "query_prefix": query_prefix, "document_prefix": document_prefix}
        super().__init__(model, folder=model if Path(model).is_dir() else None, options=options)
        self._device = device

    def _load(self) -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(self.model, device=self._device)

    def _own_prompts(self, loaded: Any) -> Prompts:
        own = dict(getattr(loaded, "prompts", None) or {})
        return Prompts(query=own.get("query") or "", document=own.get("document") or own.get("passage") or "")

    def _encode(self, loaded: Any, texts: list[str]) -> Any:
        # An empty `prompt` keeps the model's default prompt away: ours is in the texts already.
        return loaded.encode(
            texts, prompt="", normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )

    def _dimensions(self, loaded: Any) -> int:
        measure = getattr(loaded, "get_embedding_dimension", None) or loaded.get_sentence_embedding_dimension
        return int(measure())

    def _max_tokens(self, loaded: Any) -> int | None:
        limit = loaded.max_seq_length
        return None if limit is None else int(limit)

    def _token_count(self, loaded: Any, text: str) -> int:
        return len(loaded.tokenizer(text, truncation=False, verbose=False)["input_ids"])
