"""Stems for stores without an analyser of their own: the very terms that the keyword index makes of a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shelflist.engine import keywords
from shelflist.engine.keywords import Analyzer, KeywordIndex, KeywordRow

ANALYZER = Analyzer()
WORDS = st.sampled_from(
    [
        "Rotating",
        "keys",
        "rotation",
        "İstanbul",
        "STRASSE",
        "ﬁne",
        "naïve",
        "don't",
        "x" * 41,
        "ß",
        "Ǆ",
        "can't",
        "日本語",
    ]
)


def reference(text: str) -> list[str]:
    return list(keywords._analyzer().analyze(text))


@given(st.text(max_size=60) | st.lists(WORDS, max_size=8).map(" ".join))
def test_terms_are_those_of_the_index(text: str) -> None:
    assert ANALYZER.terms(text) == reference(text)


def test_terms_are_stems_in_order_and_repeated() -> None:
    assert ANALYZER.terms("Rotating keys, rotated KEYS") == ["rotat", "key", "rotat", "key"]
    assert ANALYZER.terms("x" * 41 + " ok") == ["ok"]


def test_more_words_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keywords, "_MOST_STEMS", 3)
    text = "rotating keys running houses rotating keys"
    assert Analyzer().terms(text) == reference(text)


def test_a_term_finds_what_the_index_finds() -> None:
    index = KeywordIndex(None, create=True)
    index.write([KeywordRow(1, "rotating the keys", None), KeywordRow(2, "a house", None)])
    (term,) = ANALYZER.terms("rotations")
    assert index.search(term, 5).rows.tolist() == [1]
