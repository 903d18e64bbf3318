"""The instructions that models were trained to see in front of a query or a document."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SENTENCE = "Represent this sentence for searching relevant passages: "


@dataclass(frozen=True, slots=True)
class Prompts:
    """Text put in front of each query and each document: part of the vector space, hence of the fingerprint."""

    query: str = ""
    document: str = ""

    def fingerprint(self) -> str:
        return f"query_prefix={self.query!r};document_prefix={self.document!r}"


_KNOWN: tuple[tuple[str, Prompts], ...] = (
    (r"bge-(small|base|large)-en(-v1\.5)?", Prompts(query=_SENTENCE)),
    (r"bge-(small|base|large)-zh(-v1\.5)?", Prompts(query="为这个句子生成表示以用于检索相关文章\uff1a")),
    (r"(multilingual-)?e5-(small|base|large)(-v2)?", Prompts(query="query: ", document="passage: ")),
    (r"mxbai-embed-(large|xsmall)-v1", Prompts(query=_SENTENCE)),
    (r"snowflake-arctic-embed-(xs|s|m|m-long|m-v1\.5|l)", Prompts(query=_SENTENCE)),
    (r"snowflake-arctic-embed-(m|l)-v2\.0", Prompts(query="query: ")),
    (r"nomic-embed-text-v1(\.5)?(-q)?", Prompts(query="search_query: ", document="search_document: ")),
)


def known_prompts(model: str) -> Prompts | None:
    """The prompts of a known model, found by the last part of its name. None: not known."""
    name = re.split(r"[/\\]", model.rstrip("/\\"))[-1].lower()
    return next((prompts for pattern, prompts in _KNOWN if re.fullmatch(pattern, name)), None)
