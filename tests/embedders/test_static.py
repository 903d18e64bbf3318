"""The bundled embedder against its oracle, the model2vec library."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shelflist.embedders import Embedder, resolve_embedder, static
from shelflist.embedders.static import StaticEmbedder

DATA = Path(__file__).parent / "data"
TEXTS: list[str] = json.loads((DATA / "static_texts.json").read_text("utf-8"))
FOLDER = resources.files("shelflist.embedders").joinpath("models", static.MODEL)


@pytest.fixture(scope="module")
def embedder() -> StaticEmbedder:
    return StaticEmbedder()


@pytest.fixture(scope="module")
def whole_tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_buffer(FOLDER.joinpath("tokenizer.json").read_bytes())


def test_package_data_is_found_with_licence_note_and_the_declared_hashes():
    for name, digest in (("model.safetensors", static.WEIGHTS_SHA256), ("tokenizer.json", static.TOKENIZER_SHA256)):
        assert hashlib.sha256(FOLDER.joinpath(name).read_bytes()).hexdigest() == digest
    readme = FOLDER.joinpath("README.md").read_text("utf-8")
    assert "Apache-2.0" in readme and "sentence-transformers/all-MiniLM-L6-v2" in readme


def test_vectors_are_those_of_the_oracle(embedder):
    expected = np.load(DATA / "static_vectors.npy")
    vectors = embedder.embed_documents(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), 256)
    assert np.abs(vectors - expected).max() <= 1e-5
    # The comparison can fail: two sentences that differ in one word are farther apart than the tolerance.
    assert np.abs(embedder.embed_query(TEXTS[0].replace("rotate", "remove")) - expected[0]).max() > 1e-2


def test_vectors_are_those_of_the_installed_oracle(embedder):
    model2vec = pytest.importorskip("model2vec", reason="the oracle model2vec is not installed")
    with resources.as_file(FOLDER) as folder:
        oracle = model2vec.StaticModel.from_pretrained(folder)
    expected = oracle.encode(TEXTS, use_multiprocessing=False)
    assert np.abs(embedder.embed_documents(TEXTS) - expected).max() <= 1e-5


def test_a_very_long_text_is_summed_without_loss(embedder):
    # The oracle adds row after row in float32 and is off by 1e-5 at this length: float64 is the judge here.
    text = " ".join(f"line {i} of shelf {i * 31 % 977}" for i in range(4000))
    model = embedder._model
    ids = model.token_ids(text)
    assert len(ids) > 4 * static._TOKENS_AT_ONCE
    exact = (model.rows[ids].astype(np.float64) * model.weights[ids].astype(np.float64)[:, None]).sum(axis=0)
    exact /= np.linalg.norm(exact)
    assert np.abs(embedder.embed_query(text) - exact).max() < 1e-6
    assert np.abs(embedder.embed_query(text[: len(text) // 2]) - exact).max() > 1e-6


def test_a_text_has_the_same_vector_in_every_batch(embedder):
    together = embedder.embed_documents(TEXTS)
    assert all(np.array_equal(together[i], embedder.embed_query(text)) for i, text in enumerate(TEXTS))
    assert embedder.embed_documents([]).shape == (0, 256)


def test_case_does_not_matter_and_words_do(embedder):
    a, b, c = embedder.embed_documents(["Rotate KEYS", "rotate keys", "bake bread"])
    assert a @ b == pytest.approx(1.0, abs=1e-6)
    assert a @ c < 0.5


@pytest.mark.parametrize("text", ["", " \n\t", "🙂", "\x00", "y" * 300, "\u200b", "\ud800"])
def test_texts_without_a_known_token_get_a_unit_vector_of_their_own(embedder, text):
    vector = embedder.embed_query(text)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(vector, StaticEmbedder().embed_query(f"  {text} "))
    others = embedder.embed_documents(["🙈", "how do I rotate keys?", "z" * 300])
    assert np.abs(others @ vector).max() < 0.4


def test_the_hash_vector_is_the_same_for_ever(embedder):
    assert embedder.embed_query("🙂")[:4] == pytest.approx([-0.0206123, -0.0391212, 0.1047440, -0.0298668], abs=1e-6)


def test_half_a_surrogate_pair_is_left_out(embedder):
    assert np.array_equal(embedder.embed_query("ke\ud800ys \udfff"), embedder.embed_query("keys"))


nasty = st.text(
    st.sampled_from(
        "aAzé9 \t\n\r\x0b\x0c\x00\x1c\x85\xa0\u0301\u0338\u302e\u200b\u2028\u3000"
        "ßİΣςﬁ漢字한!-[]#'_`~·—”🙂\U0001f468\ufe0f"
    )
)
special = st.sampled_from(["[CLS]", "[UNK]", "[PAD]", "[MASK]", "[SEP]", "##ing", "unbelievable", "x" * 100, "x" * 101])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(nasty, special, st.text(max_size=20)), max_size=8).map("".join))
def test_tokens_found_piece_by_piece_are_those_of_the_whole_text(embedder, whole_tokenizer, text):
    ids = embedder._model.token_ids(text).tolist()
    assert ids == whole_tokenizer.encode(text, add_special_tokens=False).ids
    assert embedder.token_counts([text]) == [len(ids)]


def test_forgetting_pieces_changes_nothing(monkeypatch):
    before = StaticEmbedder().embed_documents(TEXTS)
    monkeypatch.setattr(static, "_REMEMBERED_PIECES", 3)
    pieces = static._bundled().pieces
    pieces.clear()
    assert np.array_equal(StaticEmbedder().embed_documents(TEXTS), before)
    assert 0 < len(pieces) <= 3


def test_long_words_are_not_remembered(embedder):
    pieces = static._bundled().pieces
    embedder.embed_documents(["w" * 5000, "remembered"])
    assert "remembered" in pieces and all(len(piece) <= 100 for piece in pieces)


def test_threads_share_it(embedder):
    expected = embedder.embed_documents(TEXTS)
    static._bundled().pieces.clear()
    wrong: list[int] = []

    def work(i: int) -> None:
        if not np.array_equal(embedder.embed_documents(TEXTS), expected):
            wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.parametrize("parallelism", ["true", None])
def test_a_forked_child_embeds_the_same_and_does_not_hang(parallelism):
    program = textwrap.dedent("""
        import os, sys
        from shelflist.embedders.static import StaticEmbedder
        texts = [f"text {i} about shelf {i % 7} and new word w{i}" for i in range(300)]
        embedder = StaticEmbedder()
        parent = embedder.embed_documents(texts)
        reader, writer = os.pipe()
        if os.fork() == 0:
            import hashlib, signal
            signal.alarm(60)  # a child that hangs does not outlive the test
            child = embedder.embed_documents([*texts, "a word unseen before the fork: quokkas"])[:-1]
            os.write(writer, hashlib.sha256(child.tobytes()).digest())
            os._exit(0)
        import hashlib
        os.close(writer)
        sys.exit(0 if os.read(reader, 32) == hashlib.sha256(parent.tobytes()).digest() else 3)
    """)
    environment = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    if parallelism:
        environment["TOKENIZERS_PARALLELISM"] = parallelism
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=120, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_it_says_of_itself(embedder):
    assert isinstance(embedder, Embedder)
    assert (embedder.spec, embedder.dimensions, embedder.max_tokens, embedder.fusion_alpha) == (
        "static",
        256,
        None,
        0.45,
    )
    for part in (static.MODEL, "256", "l2", static.WEIGHTS_SHA256[:16], static.TOKENIZER_SHA256[:8]):
        assert part in embedder.fingerprint
    assert resolve_embedder("static").fingerprint == embedder.fingerprint


def test_naming_the_vector_space_loads_no_library():
    program = (
        "import sys; from shelflist.embedders import resolve_embedder; e = resolve_embedder('static'); e.fingerprint;"
        "print(*sorted({'tokenizers', 'safetensors', 'httpx', 'model2vec', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    done = subprocess.run(
        [sys.executable, "-c", program.replace("e.fingerprint", "e.embed_query('x')")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "safetensors tokenizers"
