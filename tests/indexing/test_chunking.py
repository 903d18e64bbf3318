"""Chunks are bounded in tokens, overlap inside a section only, carry their headings, and are the same every time."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from shelflist.core.errors import InvalidInput
from shelflist.indexing import chunking
from shelflist.indexing.chunking import Chunker

_BUNDLED = Path(chunking.__file__).parents[1] / "embedders/models/static-minilm-256/tokenizer.json"


_TOKENIZER = Tokenizer.from_file(str(_BUNDLED))
_CHUNKER = Chunker()


@pytest.fixture
def tokenizer() -> Tokenizer:
    return _TOKENIZER


def _tokens(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def _prose(sentences: int, *, start: int = 0) -> str:
    return " ".join(
        f"Sentence number {i} says that item {i * 7} was kept on shelf {i % 13}." for i in range(start, sentences)
    )


def test_content_is_path_blank_line_text() -> None:
    chunks = Chunker().chunks("# Guide\n\nintro\n\n## Keys\n\nrotate them\n")
    assert [(chunk.content, chunk.section) for chunk in chunks] == [
        ("Guide\n\nintro", "Guide"),
        ("Guide > Keys\n\nrotate them", "Guide > Keys"),
    ]
    assert {chunk.chunk_strategy for chunk in chunks} == {"recursive_512_50"}
    assert chunks[0].metadata == {"title": "Guide"}


def test_a_title_of_its_own_leads_the_path_and_a_repeated_one_does_not() -> None:
    apart = Chunker().chunks("---\ntitle: Handbook\n---\n## Keys\n\nrotate\n")
    assert (apart[0].content, apart[0].section) == ("Handbook > Keys\n\nrotate", "Keys")
    same = Chunker().chunks("<title>Keys - Site</title><h1>Keys</h1><p>rotate", "html")
    assert same[0].content == "Keys\n\nrotate"
    assert same[0].metadata == {"title": "Keys - Site"}


def test_metadata_of_the_caller_wins_over_front_matter() -> None:
    chunks = Chunker().chunks("---\na: 1\nb: 2\n---\ntext", metadata={"b": 3, "source_path": "x.md"})
    assert chunks[0].metadata == {"a": 1, "b": 3, "source_path": "x.md"}
    assert (chunks[0].content, chunks[0].section) == ("text", None)


def test_bare_headings_are_found_by_their_words() -> None:
    assert [chunk.content for chunk in Chunker().chunks("# A\n\n## B\n")] == ["A > B"]


@pytest.mark.parametrize("format", ["markdown", "text", "html", "rst", "code"])
@pytest.mark.parametrize("empty", ["", " \n\n\t ", "\u200b", "\ufeff"])
def test_nothing_gives_no_chunk(format: str, empty: str) -> None:
    assert Chunker().chunks(empty, format) == []


@pytest.mark.parametrize("format", ["markdown", "text", "html", "rst", "code"])
@pytest.mark.parametrize(("size", "overlap"), [(512, 50), (64, 16), (32, 0)])
def test_no_chunk_is_larger_than_size_and_none_is_lost(
    tokenizer: Tokenizer, format: str, size: int, overlap: int
) -> None:
    text = "\n\n".join(_prose(40, start=i) for i in range(0, 40, 4))
    chunks = Chunker(size, overlap).chunks(text, format)
    sizes = [_tokens(tokenizer, chunk.content) for chunk in chunks]
    assert len(chunks) > 5
    assert max(sizes) <= size
    assert sorted(sizes)[len(sizes) // 2] > size // 2
    joined = " ".join(chunk.content for chunk in chunks)
    assert all(f"shelf {i % 13}" in joined and f"item {i * 7} " in joined for i in range(40))


def test_the_path_counts_towards_size_and_a_long_one_loses_its_outer_names(tokenizer: Tokenizer) -> None:
    long = "a very long heading that never ends " * 3
    text = f"# {long}\n\n## {long}\n\n### Short\n\n{_prose(60)}\n"
    chunks = [chunk for chunk in Chunker(64, 8).chunks(text) if "Sentence" in chunk.content]
    assert all(_tokens(tokenizer, chunk.content) <= 64 for chunk in chunks)
    assert all(chunk.content.startswith("Short\n\n") for chunk in chunks)
    assert chunks[0].section is not None and chunks[0].section.startswith("a very long heading")


def test_a_heading_too_long_for_the_path_is_cut_with_its_text(tokenizer: Tokenizer) -> None:
    heading = " ".join(f"word{i}" for i in range(200))
    chunks = Chunker(64, 8).chunks(f"# {heading}\n\nbody\n")
    assert all(_tokens(tokenizer, chunk.content) <= 64 for chunk in chunks)
    joined = " ".join(chunk.content for chunk in chunks)
    assert "word0 " in joined and "word199" in joined and "body" in joined


def _shared(before: str, after: str) -> int:
    return max((n for n in range(1, min(len(before), len(after))) if before[-n:] == after[:n]), default=0)


def test_overlap_repeats_the_end_of_the_chunk_before(tokenizer: Tokenizer) -> None:
    chunks = [chunk.content for chunk in Chunker(64, 20).chunks(_prose(60), "text")]
    repeated = [before[-n:] for before, after in itertools.pairwise(chunks) if (n := _shared(before, after))]
    assert len(repeated) == len(chunks) - 1
    assert all(1 <= _tokens(tokenizer, text) <= 20 for text in repeated)


def test_no_overlap_when_none_is_asked_for_and_none_across_headings() -> None:
    chunks = [chunk.content for chunk in Chunker(64, 0).chunks(_prose(60), "text")]
    assert sum(len(chunk.split()) for chunk in chunks) == len(_prose(60).split())
    across = Chunker(64, 20).chunks("# A\n\nThe words of the first.\n\n# B\n\nThe words of the second.\n")
    assert [chunk.content for chunk in across] == ["A\n\nThe words of the first.", "B\n\nThe words of the second."]


def test_remembered_word_counts_cut_as_the_tokenizer_does(tokenizer: Tokenizer) -> None:
    from semantic_text_splitter import MarkdownSplitter

    text = "\n\n".join(
        [_prose(30), "Größe naïve “quoted” x_y foo.bar(1) 漢字 かな, e\u0301te\u0301", "- a\n- b\n" * 40, _prose(50)]
    )
    reference = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, 64, 16).chunks(text)
    assert [chunk.content for chunk in Chunker(64, 16).chunks(text)] == reference


@settings(max_examples=200, deadline=None)
@example("¢02")
@example("“€5”²3–½ a_b[1]")
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=200))
def test_token_counts_are_never_too_low(text: str) -> None:
    assert _CHUNKER.token_count(text) >= _tokens(_TOKENIZER, text)


@pytest.mark.parametrize(
    "text",
    ["aGVsbG8" * 20_000, "aGV+/bG8" * 8_000, "漢字かな交じり文。" * 3_000, "กขค" * 20_000, "x y z. " * 12_000],
    ids=["base64", "base64 with signs", "japanese", "no spaces", "one line"],
)
def test_unbroken_text_is_cut_too(text: str, tokenizer: Tokenizer) -> None:
    chunks = Chunker().chunks(text, "text")
    assert len(chunks) > 5
    assert all(len(chunk.content) <= 512 * 16 for chunk in chunks)
    assert all(_tokens(tokenizer, chunk.content) <= 512 for chunk in chunks)


def test_another_tokenizer_is_used_as_it_is() -> None:
    vocabulary = {"[UNK]": 0, "a": 1}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.enable_truncation(4)
    chunks = Chunker(16, 0, tokenizer=words).chunks("a " * 100, "text")
    assert [len(chunk.content.split()) for chunk in chunks] == [16] * 6 + [4]
    blob = Chunker(16, 0, tokenizer=words).chunks("b" * 10_000, "text")
    assert len(blob) > 10 and sum(len(chunk.content) for chunk in blob) == 10_000
    assert words.truncation is not None  # the caller's own is left alone


def test_the_same_text_gives_the_same_chunks() -> None:
    text = f"# A\n\n{_prose(80)}\n\n## B\n\n{_prose(30)}\n"
    chunker = Chunker(64, 16)
    first = chunker.chunks(text)
    chunker.chunks("# Other\n\nwords in between " * 50)
    assert chunker.chunks(text) == first == Chunker(64, 16).chunks(text)


def test_the_digest_tells_chunkers_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    digests = {Chunker().digest, Chunker(256).digest, Chunker(512, 10).digest, Chunker(tokenizer=words).digest}
    assert len(digests) == 4
    assert Chunker().digest == Chunker().digest and len(Chunker().digest) == 32
    before = Chunker().digest
    monkeypatch.setattr(chunking, "PARSER_VERSION", -1)
    assert Chunker().digest != before


@pytest.mark.parametrize(("size", "overlap"), [(8, 0), (64, 33), (64, -1)])
def test_sizes_that_cannot_work_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(InvalidInput, match="Use "):
        Chunker(size, overlap)


def test_odd_front_matter_warns_with_the_document_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="shelflist"):
        Chunker().chunks("---\na: 1\n---\ntext", metadata={"source_path": "good.md"})
        assert caplog.messages == []
        Chunker().chunks("---\na: b: c\n---\ntext", metadata={"source_path": "odd.md"})
    assert len(caplog.messages) == 1 and "odd.md" in caplog.messages[0]
