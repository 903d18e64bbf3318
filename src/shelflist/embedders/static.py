"""The bundled embedder: one stored vector for each token, a text is their weighted sum. Offline, no torch.

The files are in the format of the `model2vec` library, which is the oracle of this module's tests.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache, cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from shelflist.core.types import Vector

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODEL = "static-minilm-256"
DIMENSIONS = 256
WEIGHTS_SHA256 = "ae21132273361b13b09a67bd4fe78a8a7affcec137872b44d293fefb151e7a19"
TOKENIZER_SHA256 = "9114256b104cca80e04367526f03f46aa3c443c2ed174904142a73bbf13b9fbb"

# Hashing the files at each start would cost more than loading them: a test holds these constants to the files.
_FINGERPRINT = (
    f"{MODEL};dimensions={DIMENSIONS};normalised=l2;weights={WEIGHTS_SHA256[:16]};tokens={TOKENIZER_SHA256[:8]}"
)

# The model's pre-tokenizer cuts at white space and puts every punctuation mark alone, so pieces can be tokenised apart
# and remembered. A character outside ASCII stays inside its piece: what becomes of it is left to the tokenizer.
# Special tokens come first because the tokenizer looks for them in the raw text.
_PIECE = re.compile(r"\[(?:PAD|UNK|CLS|SEP|MASK)\]|[^\t\n\r !-/:-@\[-`{-~]+|[!-/:-@\[-`{-~]")
_LONGEST_WORD = 100
_REMEMBERED_PIECES = 65_536
_TOKENS_AT_ONCE = 4_096


class _Pieces(dict[str, tuple[int, ...]]):
    """Token ids of each piece of text, made when first asked for.

    Natural text repeats its words: looking a piece up is several times faster than tokenising it again.
    `encode` is called piece by piece and never in a batch: batches start a pool of threads inside the tokenizer, and a
    process forked afterwards would wait for threads that it does not have.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, piece: str) -> tuple[int, ...]:
        if len(piece) > _LONGEST_WORD:
            return self._tokenised(piece)
        ids = self._tokenised(piece)
        if len(self) >= _REMEMBERED_PIECES:
            self.clear()
        self[piece] = ids
        return ids

    def _tokenised(self, piece: str) -> tuple[int, ...]:
        if len(piece) <= _LONGEST_WORD and piece.isascii() and piece.isalnum():
            # The longest match wins in WordPiece, so a word that is a token is that token.
            whole = self._tokenizer.token_to_id(piece.lower())
            if whole is not None:
                return (whole,)
        # Halves of surrogate pairs, as broken JSON escapes give, are dropped: the tokenizer takes no such text.
        valid = piece.encode("utf-8", "ignore").decode("utf-8")
        return tuple(self._tokenizer.encode(valid, add_special_tokens=False).ids)


class _Model:
    def __init__(self) -> None:
        from importlib import resources

        from safetensors.numpy import load
        from tokenizers import Tokenizer

        folder = resources.files("shelflist.embedders").joinpath("models", MODEL)
        tensors = load(folder.joinpath("model.safetensors").read_bytes())
        tokenizer = Tokenizer.from_buffer(folder.joinpath("tokenizer.json").read_bytes())
        self.rows: npt.NDArray[np.int8] = tensors["embeddings"]
        self.weights: npt.NDArray[np.float32] = np.array(tensors["weights"], dtype=np.float32)
        # An unknown token says nothing about the text.
        self.weights[tokenizer.token_to_id("[UNK]")] = 0.0
        self.pieces = _Pieces(tokenizer)

    def token_ids(self, text: str) -> npt.NDArray[np.intp]:
        pieces = map(self.pieces.__getitem__, _PIECE.findall(text))
        return np.fromiter(chain.from_iterable(pieces), dtype=np.intp)


@cache
def _bundled() -> _Model:
    return _Model()


class StaticEmbedder:
    """Unit vectors of the bundled model. Its files are read at the first text, once a process.

    A text of unknown tokens only (or of none) gets a vector derived from a hash of its words: never zero or NaN, the
    same at every time and place, about as far from every other text as two random vectors are.
    Instances are safe to share between threads, and to use after `os.fork`.
    """

    spec = "static"
    fingerprint = _FINGERPRINT
    dimensions = DIMENSIONS
    max_tokens: int | None = None
    fusion_alpha = 0.45

    @cached_property
    def _model(self) -> _Model:
        return _bundled()

    def embed_documents(self, texts: Sequence[str]) -> Vector:
        """float32, shape (len(texts), 256), rows of length 1. A text's vector does not depend on its neighbours."""
        model = self._model
        vectors = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        # Buffers that are used again: fresh memory for every text would cost as much as the sums.
        gathered = np.empty((_TOKENS_AT_ONCE, DIMENSIONS), dtype=np.int8)
        widened = np.empty((_TOKENS_AT_ONCE, DIMENSIONS), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            ids = model.token_ids(text)
            row[:] = 0.0
            for start in range(0, len(ids), _TOKENS_AT_ONCE):
                part = ids[start : start + _TOKENS_AT_ONCE]
                n = len(part)
                model.rows.take(part, axis=0, out=gathered[:n], mode="clip")
                np.copyto(widened[:n], gathered[:n])
                row += model.weights.take(part) @ widened[:n]
        # The mean and the sum have the same direction.
        lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        for i in map(int, np.flatnonzero(lengths < 1e-12)):
            vectors[i] = _vector_of_hash(texts[i])
            lengths[i] = 1.0
        vectors /= lengths[:, None]
        return vectors

    def embed_query(self, text: str) -> Vector:
        """float32, shape (256,), length 1."""
        vector: Vector = self.embed_documents([text])[0]
        return vector

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Number of WordPiece tokens of each text, unknown ones included."""
        pieces = self._model.pieces
        return [sum(len(pieces[piece]) for piece in _PIECE.findall(text)) for text in texts]

    def __repr__(self) -> str:
        return "StaticEmbedder()"


def _vector_of_hash(text: str) -> Vector:
    words = " ".join(text.split())
    digest = hashlib.shake_256(words.encode("utf-8", "surrogatepass")).digest(DIMENSIONS)
    vector = np.frombuffer(digest, dtype=np.uint8).astype(np.float32) - np.float32(127.5)
    unit: Vector = vector / np.float32(np.sqrt(vector @ vector))
    return unit
