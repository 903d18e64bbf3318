"""Models run by the `fastembed` package (ONNX, no torch)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from shelflist.embedders.local import LocalModelEmbedder


class FastembedEmbedder(LocalModelEmbedder):
    """`fastembed:MODEL`, for example `fastembed:BAAI/bge-base-en-v1.5`.

    MODEL is one that fastembed lists. Its files are downloaded at first use unless `path` names a folder that has them.
    `query_prefix` and `document_prefix` replace the prompts that are known for the model.
    """

    scheme = "fastembed"
    package = "fastembed"
    module = "fastembed"

    def __init__(
        self,
        model: str,
        *,
        path: str | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
    ) -> None:
        options = {"path": path, "query_prefix": query_prefix, "document_prefix": document_prefix}
        super().__init__(model, folder=path, options=options)
        self._measured: int | None = None

    def _load(self) -> Any:
        from fastembed import TextEmbedding

        # `lazy_load` is left off: a missing or broken file is then named here and not at the first text.
        if self.folder is not None:
            return TextEmbedding(self.model, specific_model_path=self.folder)
        return TextEmbedding(self.model)

    def _encode(self, loaded: Any, texts: list[str]) -> Any:
        return list(loaded.embed(texts, batch_size=64))

    def _dimensions(self, loaded: Any) -> int:
        # Asked of the model itself: a folder may hold another one than its name says.
        if self._measured is None:
            (row,) = loaded.embed(["dimensions"], batch_size=1)
            self._measured = len(row)
        return self._measured

    def _max_tokens(self, loaded: Any) -> int | None:
        tokenizer = getattr(loaded.model, "tokenizer", None)
        truncation = None if tokenizer is None else tokenizer.truncation
        return None if truncation is None else int(truncation["max_length"])

    def _token_count(self, loaded: Any, text: str) -> int:
        return len(_uncut(loaded.model.tokenizer).encode(text).ids)


@lru_cache(maxsize=4)
def _uncut(tokenizer: Any) -> Any:
    """A copy that keeps every token: the model's own cuts, and would hide that a text is too long."""
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
