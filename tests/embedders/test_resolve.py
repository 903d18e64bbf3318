"""From a text or an object to an embedder."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

from shelflist.core.errors import ConfigError, EmbedderError, MissingDependency
from shelflist.embedders import Embedder, EmbedderDefaults, resolve_embedder
from shelflist.embedders.defaults import AdaptedEmbedder, checked_vectors, estimated_tokens
from shelflist.embedders.prompts import Prompts, known_prompts
from shelflist.embedders.static import StaticEmbedder


class Smallest:
    fingerprint = "letters;3"
    dimensions = 3

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float(text.count(letter)) for letter in "abc"] for text in texts]

    def embed_query(self, text: str) -> Any:
        return self.embed_documents([text])[0]


class WithDefaults(EmbedderDefaults):
    fingerprint = "letters;3"
    dimensions = 3

    def embed_documents(self, texts: Any) -> Any:
        return np.ones((len(texts), 3), dtype=np.float32)

    def embed_query(self, text: str) -> Any:
        return np.ones(3, dtype=np.float32)


def test_static_by_name():
    assert isinstance(resolve_embedder("static"), StaticEmbedder)


@pytest.mark.parametrize("spec", ["", "Static", "static:x", "cohere:embed", "bge", "http://host/v1", "static?x=1"])
def test_unknown_specs_list_the_choices(spec):
    with pytest.raises(ConfigError) as caught:
        resolve_embedder(spec)
    for choice in ("static", "fastembed:MODEL", "sentence-transformers:MODEL_OR_PATH", "openai:MODEL?base_url="):
        assert choice in str(caught.value)


@pytest.mark.parametrize("spec", ["fastembed", "fastembed:", "openai:?dimensions=3", "sentence-transformers:"])
def test_a_spec_without_a_model(spec):
    with pytest.raises(ConfigError, match="names no model"):
        resolve_embedder(spec)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("openai:m?dimension=3", "unknown option 'dimension'.*dimensions"),
        ("openai:m?path=/x", "unknown option 'path'"),
        ("fastembed:m?base_url=http://h", "unknown option 'base_url'"),
        ("openai:m?dimensions=many", "whole number"),
        ("openai:m?dimensions=0", "whole number"),
        ("openai:m?dimensions=-3", "whole number"),
        ("openai:m?api_key=sk-hunter2", "api_key_env=NAME"),
    ],
)
def test_options_that_are_not_understood(spec, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        resolve_embedder(spec)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "module", "extra"),
    [
        ("fastembed:BAAI/bge-base-en-v1.5", "fastembed", "fastembed"),
        ("sentence-transformers:all-MiniLM-L6-v2", "sentence_transformers", "sentence-transformers"),
        ("openai:text-embedding-3-small", "httpx", "openai"),
    ],
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, spec, module, extra):
    find = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == module else find(name, *a))
    with pytest.raises(MissingDependency) as caught:
        resolve_embedder(spec)
    assert f"pip install 'shelflist[{extra}]'" in str(caught.value) and spec.partition("?")[0] in str(caught.value)


def test_a_whole_embedder_passes_through():
    for embedder in (StaticEmbedder(), WithDefaults()):
        assert resolve_embedder(embedder) is embedder
        assert isinstance(embedder, Embedder)


def test_the_mix_in_supplies_what_is_not_said():
    embedder = WithDefaults()
    assert (embedder.spec, embedder.max_tokens, embedder.fusion_alpha) == ("custom:letters;3", None, 0.7)
    assert embedder.token_counts(["two words"]) == [2]


def test_the_smallest_object_is_completed():
    embedder = resolve_embedder(Smallest())
    assert isinstance(embedder, AdaptedEmbedder) and isinstance(embedder, Embedder)
    assert (embedder.fingerprint, embedder.dimensions) == ("letters;3", 3)
    assert (embedder.spec, embedder.max_tokens, embedder.fusion_alpha) == ("custom:letters;3", None, 0.7)
    vectors = embedder.embed_documents(["aab", "c"])
    assert vectors.dtype == np.float32 and vectors.tolist() == [[2, 1, 0], [0, 0, 1]]
    assert embedder.embed_query("cab").tolist() == [1, 1, 1]
    assert embedder.embed_query("cab").shape == (3,)
    assert embedder.token_counts(["a b c", ""]) == [3, 0]


def test_what_an_object_does_say_is_kept():
    class More(Smallest):
        fusion_alpha = 0.25
        max_tokens = 12

        def token_counts(self, texts: list[str]) -> list[int]:
            return [99 for _ in texts]

    embedder = resolve_embedder(More())
    assert (embedder.fusion_alpha, embedder.max_tokens, embedder.token_counts(["x"])) == (0.25, 12, [99])


@pytest.mark.parametrize(
    ("rows", "reason"),
    [([[1.0, 2.0]], "2 dimensions, 3 were"), ([[1.0, 2.0, 3.0]] * 2, r"\(2, 3\) for 1 texts"), ([["x"]], "numbers")],
)
def test_wrong_answers_of_an_object_are_refused_by_name(rows, reason):
    class Wrong(Smallest):
        def embed_documents(self, texts: list[str]) -> Any:
            return rows

    with pytest.raises(EmbedderError, match=reason) as caught:
        resolve_embedder(Wrong()).embed_documents(["x"])
    assert "Wrong" in str(caught.value)


def test_objects_that_are_no_embedders():
    with pytest.raises(ConfigError, match=r"the class .*Smallest, not an instance"):
        resolve_embedder(Smallest)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lacks fingerprint, dimensions, embed_documents, embed_query"):
        resolve_embedder(42)  # type: ignore[arg-type]

    class NoQuery:
        fingerprint, dimensions = "f", 3

        def embed_documents(self, texts: list[str]) -> Any: ...

    with pytest.raises(ConfigError, match=r"lacks embed_query\."):
        resolve_embedder(NoQuery())  # type: ignore[arg-type]


def test_resolving_asks_an_object_nothing():
    class Remote(Smallest):
        @property
        def dimensions(self) -> int:  # type: ignore[override]
            raise AssertionError("asked")

    embedder = resolve_embedder(Remote())
    with pytest.raises(AssertionError, match="asked"):
        _ = embedder.dimensions


def test_the_spec_of_an_own_object_asks_for_the_object():
    with pytest.raises(ConfigError, match="pass the same object again"):
        resolve_embedder(resolve_embedder(Smallest()).spec)


def test_checked_vectors():
    assert checked_vectors([], 0, 5, "it").shape == (0, 5)
    assert checked_vectors([[1, 2]], 1, None, "it").dtype == np.float32
    for rows in ([[np.nan, 1.0]], [[1.0, np.inf]]):
        with pytest.raises(EmbedderError, match="NaN or infinity for text 0 of 1"):
            checked_vectors(rows, 1, 2, "it")
    with pytest.raises(EmbedderError, match="it returned an array of shape"):
        checked_vectors([1.0, 2.0], 1, 2, "it")


def test_estimated_tokens():
    assert estimated_tokens("") == 0
    assert estimated_tokens("a b c d") == 4
    assert estimated_tokens("x" * 40) == 10
    assert estimated_tokens("漢字漢字") == 3


@pytest.mark.parametrize(
    ("model", "prompts"),
    [
        ("BAAI/bge-base-en-v1.5", Prompts(query="Represent this sentence for searching relevant passages: ")),
        ("/models/bge-small-en-v1.5/", Prompts(query="Represent this sentence for searching relevant passages: ")),
        ("intfloat/multilingual-e5-large", Prompts("query: ", "passage: ")),
        ("nomic-ai/nomic-embed-text-v1.5", Prompts("search_query: ", "search_document: ")),
        ("BAAI/bge-m3", None),
        ("sentence-transformers/all-MiniLM-L6-v2", None),
        ("my-bge-base-en-v1.5-tuned", None),
    ],
)
def test_known_prompts(model, prompts):
    assert known_prompts(model) == prompts
