"""Bad input on an index that holds something: the error names the thing and the next step, and nothing is lost.

Beside each bad case stands a good one that differs only in what is wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from counting import CountingEmbedder, contents, document

import shelflist
from shelflist import Chunk, Document, F
from shelflist.cli.main import run
from shelflist.core.errors import (
    CollectionMismatch,
    DimensionMismatch,
    EmbedderMismatch,
    InvalidFilter,
    InvalidInput,
    InvalidVector,
    LedgerTooNew,
    ShelflistError,
    UnknownField,
    UnreadableSource,
)
from shelflist.core.types import SyncReport

if TYPE_CHECKING:
    from places import Place

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")

EARLIER = "the lantern hangs by the harbour gate"
NAN, INFINITY = float("nan"), float("inf")


def filled(place: Place, **options: Any) -> shelflist.Collection:
    """A collection in which one document was acknowledged before anything goes wrong."""
    collection = place.open(fields={"page_number": int, "tags": list[str]}, **options)
    report = collection.sync("earlier", [Chunk(EARLIER, metadata={"page_number": 3})])
    assert report.added == 1 and not report.failures
    return collection


def given(place: Place) -> shelflist.Collection:
    collection = place.given()
    assert collection.sync("earlier", [Chunk(EARLIER, embedding=[1, 0, 0, 0])]).added == 1
    return collection


def assert_kept(collection: shelflist.Collection) -> None:
    """What was acknowledged is found by words and by vector, and the index is whole."""
    assert "earlier" in [hit.document_id for hit in collection.search("lantern harbour", mode="keyword")]
    query = EARLIER if collection.embedder else np.array([1, 0, 0, 0], np.float32)
    assert collection.search(query, mode="dense", limit=1)[0].content == EARLIER
    verified = collection.verify()
    assert verified["ok"], verified


def the_failure(report: SyncReport, document_id: str, *said: str) -> None:
    """The report names the document and says each of these; nothing of the document was taken."""
    (failure,) = report.failures
    assert failure.document_id == document_id
    for text in said:
        assert text in failure.error, failure.error
    assert report.documents_failed == 1


@pytest.mark.parametrize(
    ("vector", "kind", "said"),
    [
        ([1, 2, 3], DimensionMismatch, ("(3,)", "'model-x'", "4 dimensions")),
        ([1, 2, 3, 4, 5], DimensionMismatch, ("(5,)", "'model-x'", "4 dimensions")),
        ([[1, 2, 3, 4]], DimensionMismatch, ("(1, 4)", "4 dimensions")),
        ([], DimensionMismatch, ("(0,)", "4 dimensions")),
        ([0, NAN, 0, 0], InvalidVector, ("NaN or infinity", "Check the embedder")),
        ([INFINITY, 0, 0, 0], InvalidVector, ("NaN or infinity", "Check the embedder")),
        ([-INFINITY, INFINITY, 0, 0], InvalidVector, ("NaN or infinity", "Check the embedder")),
        ([0, 0, 0, 0], InvalidVector, ("all zeros", "Check the embedder")),
    ],
    ids=["short", "long", "two rows", "empty", "nan", "infinity", "both infinities", "zeros"],
)
def test_an_unusable_vector(
    alone: Place, vector: list[float], kind: type[ShelflistError], said: tuple[str, ...]
) -> None:
    collection = given(alone)
    report = collection.sync_all(
        [
            Document("bad", [Chunk("a bad vector", embedding=vector)]),
            Document("good", [Chunk("a good vector", embedding=[0, 1, 0, 0])]),
        ]
    )
    the_failure(report, "bad", *said)
    assert report.failures[0].position == 0
    assert [one["document_id"] for one in collection.documents()] == ["earlier", "good"]
    with pytest.raises(kind) as refused:
        collection.search(np.array(vector, np.float32))
    assert all(text in str(refused.value) for text in said)
    assert collection.search(np.array([0, 1, 0, 0], np.float32), limit=1)[0].document_id == "good"
    assert_kept(collection)


def test_a_missing_vector_and_one_that_is_not_numbers(alone: Place) -> None:
    collection = given(alone)
    the_failure(collection.sync("bad", [Chunk("no vector")]), "bad", "no embedder", "4 dimensions", "model-x")
    text: Any = "0.1 0.2"
    the_failure(collection.sync("bad", [Chunk("text", embedding=text)]), "bad", "not a row of numbers")
    assert collection.sync("bad", [Chunk("a vector", embedding=(0, 0, 1, 0))]).added == 1
    assert_kept(collection)


@pytest.mark.parametrize(
    ("text", "said", "good"),
    [
        ("", ("no text", "check the chunker"), "x"),
        (" \n\t", ("no text", "check the chunker"), " \n\tx"),
        ("caf\udce9", ("lone surrogate at character 3", "errors='replace'"), "café"),
        ("word " * 2_000_000, ("10,000,000 bytes", "1,000,000", "shelflist.Chunker"), "word " * 20_000),
        (5, ("is int, not text",), "5"),
    ],
    ids=["empty", "whitespace", "surrogate", "10 MB", "number"],
)
def test_an_unusable_text(alone: Place, text: Any, said: tuple[str, ...], good: str) -> None:
    collection = filled(alone)
    the_failure(collection.sync("page", [Chunk("begins well"), Chunk(text)]), "page", *said)
    assert [one["document_id"] for one in collection.documents()] == ["earlier"]
    report = collection.sync("page", [Chunk("begins well"), Chunk(good)])
    assert report.added == 2 and not report.failures
    the_failure(collection.sync("page", [Chunk("begins badly"), Chunk(text)]), "page", *said)
    assert contents(chunk for chunk in collection.search("begins well", mode="keyword")) == ["begins well"]
    assert_kept(collection)


REFUSED: dict[str, tuple[Any, str]] = {
    "blank": (Chunk(" "), "no text"),
    "surrogate": (Chunk("caf\udce9"), "lone surrogate at character 3"),
    "no text": (Chunk(b"bytes"), "bytes, not text"),  # type: ignore[arg-type]
    "no chunk": ("text", "A chunk is str"),
    "section": (Chunk("x", section=3), "section is int 3"),  # type: ignore[arg-type]
    "strategy": (Chunk("x", chunk_strategy="\udce9"), "chunk_strategy"),
    "mixed set": (Chunk("x", {"seen": {1, "a"}}), "'seen' is a set"),
    "long int": (Chunk("x", {"seen": 2**64}), "'seen' is an int beyond 64 bits"),
    "long int of a field": (Chunk("x", {"page_number": 2**64}), "'page_number' is int"),
    "surrogate in metadata": (Chunk("x", {"seen": "\udce9"}), "'seen'"),
    "surrogate in a key": (Chunk("x", {"\udce9": 1}), "not valid Unicode"),
    "metadata": (Chunk("x", [1]), "metadata of a chunk is list"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_chunk_may_be_left_out_on_request(alone: Place, case: str) -> None:
    collection = filled(alone)
    bad, said = REFUSED[case]
    both = [Chunk("begins well"), bad]
    report = collection.sync("page", both)
    the_failure(report, "page", said)
    assert (report.failures[0].position, report.added, collection.count()) == (1, 0, 1)
    for added in (1, 0):  # what failed is never a no-op
        report = collection.sync("page", both, on_failed="switch_without")
        (failure,) = report.failures
        assert (failure.position, failure.document_id, report.added) == (1, "page", added)
        assert said in failure.error
    assert collection.search("begins well", mode="keyword")[0].document_id == "page"
    assert collection.sync("page", [Chunk("begins well"), Chunk("ends well")], on_failed="switch_without").failed == 0
    assert_kept(collection)


@pytest.mark.parametrize(
    "embedding",
    ["abc", [[1.0], [1.0, 2.0]], [10**400] * 4, object()],
    ids=["text", "ragged", "beyond every float", "object"],
)
def test_a_bad_vector_may_be_left_out_on_request(alone: Place, embedding: Any) -> None:
    collection = given(alone)
    both = [Chunk("begins well", embedding=[0, 1, 0, 0]), Chunk("ends badly", embedding=embedding)]
    report = collection.sync("page", both)
    the_failure(report, "page", "not a row of numbers")
    assert (report.failures[0].position, report.added) == (1, 0)
    report = collection.sync("page", both, on_failed="switch_without")
    assert ([failure.position for failure in report.failures], report.added) == ([1], 1)
    both = [both[0], Chunk("ends well", embedding=[0, 0, 1, 0])]
    assert collection.sync("page", both, on_failed="switch_without").failed == 0
    assert_kept(collection)


def test_what_is_no_chunk_does_not_end_a_pass_of_given_vectors(alone: Place) -> None:
    collection = given(alone)
    odd: Any = ["text", Chunk("well", embedding=[0, 1, 0, 0])]
    report = collection.sync_all([Document("odd", odd), Document("good", odd[1:])], on_failed="switch_without")
    assert [(one.document_id, one.position) for one in report.failures] == [("odd", 0)]
    assert (report.added, report.documents_added) == (2, 2)


def test_the_same_document_twice_in_one_pass(alone: Place) -> None:
    collection = filled(alone)
    report = collection.sync_all(
        [document("page", "first text"), document("other", "other text"), document("page", "second")]
    )
    the_failure(report, "page", "twice in one pass", "Give each document_id once")
    assert (report.documents_added, report.added) == (2, 2)
    assert [chunk["content"] for chunk in collection.show("page")["chunks"]] == ["first text"]
    assert_kept(collection)


def test_the_same_text_twice_in_one_document_is_two_chunks(alone: Place) -> None:
    collection = filled(alone)
    report = collection.sync("page", [Chunk("echo"), Chunk("echo")])
    assert report.added == 2 and not report.failures
    assert len({hit.chunk_id for hit in collection.search("echo", mode="keyword")}) == 2
    assert_kept(collection)


@pytest.mark.parametrize("where", ["page_numbr < 10", {"page_numbr": {"$lt": 10}}, F("page_numbr") < 10])
def test_an_unknown_field_is_answered_with_the_nearest(alone: Place, where: Any) -> None:
    collection = filled(alone)
    for ask in (lambda: collection.search("lantern", where=where), lambda: collection.count(where)):
        with pytest.raises(UnknownField) as refused:
            ask()
        assert "Did you mean 'page_number'?" in str(refused.value)
        assert "shelflist fields add page_numbr" in str(refused.value)
    assert collection.search("lantern", where="page_number < 10")[0].document_id == "earlier"
    assert_kept(collection)


@pytest.mark.parametrize(
    ("metadata", "said", "good"),
    [
        ({"page_number": "7"}, ("'page_number' is int", "str '7'. Give a whole number"), {"page_number": 7}),
        ({"page_number": True}, ("'page_number' is int", "bool True"), {"page_number": 1}),
        ({"page_number": 2**60}, ("'page_number' is int", "2^53", "str"), {"page_number": 2**50}),
        ({"tags": "api"}, ("'tags' is list[str]",), {"tags": ["api"]}),
        ({"tags": ["api", 5]}, ("'tags' is list[str]",), {"tags": []}),
        ({"other": NAN}, ("'other'", "JSON"), {"other": None}),
        ({"other": object()}, ("'other'", "Convert it to text"), {"other": "x"}),
    ],
    ids=["text", "bool", "large", "no list", "mixed list", "nan", "object"],
)
def test_metadata_of_the_wrong_type(
    alone: Place, metadata: dict[str, Any], said: tuple[str, ...], good: dict[str, Any]
) -> None:
    collection = filled(alone)
    the_failure(collection.sync("page", [Chunk("a page", metadata=metadata)]), "page", *said)
    assert collection.count() == 1
    assert collection.sync("page", [Chunk("a page", metadata=good)]).added == 1
    assert collection.search("page", mode="keyword")[0].metadata == good
    assert_kept(collection)


def test_a_filter_value_of_the_wrong_type(alone: Place) -> None:
    collection = filled(alone)
    with pytest.raises(InvalidFilter, match=r"'page_number' is int, got str '3'\. Compare it with a whole number"):
        collection.search("lantern", where="page_number == '3'")
    assert collection.search("lantern", where="page_number == 3")[0].document_id == "earlier"
    assert_kept(collection)


@pytest.mark.parametrize("document_id", ["", 5, None, b"page", "caf\udce9"])
def test_an_unusable_document_id(alone: Place, document_id: Any) -> None:
    collection = filled(alone)
    with pytest.raises(InvalidInput, match="document_id"):
        collection.sync(document_id, [Chunk("a page")])
    assert collection.sync("café", [Chunk("a page")]).added == 1
    assert_kept(collection)


def test_a_given_vector_where_texts_are_embedded(alone: Place) -> None:
    collection = filled(alone)
    report = collection.sync("page", [Chunk("a page", embedding=[0.25] * 16)])
    the_failure(report, "page", "'docs' embeds its texts itself", "counting", "embedder=None")
    assert collection.sync("page", [Chunk("a page")]).added == 1
    assert_kept(collection)


def test_another_embedder_on_an_existing_collection(alone: Place) -> None:
    filled(alone).close()
    for options, said in (
        (
            {"embedder": "static"},
            ("stored counting", "static-minilm-256", "Vector spaces never mix", "leave embedder= out"),
        ),
        ({"embedder": CountingEmbedder("renamed")}, ("stored counting", "renamed", "make a new collection")),
        (
            {"embedder": None, "fingerprint": "renamed", "dimensions": 5},
            ("stored counting", "asked for renamed", "stored 16, asked for 5"),
        ),
    ):
        with pytest.raises(CollectionMismatch) as refused:
            alone.open(**options)
        assert all(text in str(refused.value) for text in ("'docs'", *said)), refused.value
    assert_kept(alone.open())


def test_an_embedder_that_changed_under_its_name(alone: Place) -> None:
    """What opens again by the same spec may still be another model: its first vector tells."""
    filled(alone).close()
    changed = CountingEmbedder()
    collection = alone.open(embedder=changed)
    changed.fingerprint = "counting-2"
    for ask in (lambda: collection.search("lantern"), lambda: collection.sync("page", [Chunk("a page")])):
        with pytest.raises(EmbedderMismatch, match=r"built with counting; this embedder is counting-2\..*own embedder"):
            ask()
    changed.fingerprint = "counting"
    assert collection.sync("page", [Chunk("a page")]).added == 1
    assert_kept(collection)


def test_an_index_of_a_newer_version(directory: Place) -> None:
    filled(directory).close()
    ((before,),) = directory.sql("SELECT value FROM sl_meta WHERE key = 'version'", ledger=True)
    directory.sql("UPDATE sl_meta SET value = '999' WHERE key = 'version'", ledger=True)
    with pytest.raises(
        LedgerTooNew, match=r"version 999.*knows up to \d+.*pip install -U shelflist.*Nothing was changed"
    ):
        directory.open()
    assert directory.sql("SELECT value FROM sl_meta WHERE key = 'version'", ledger=True) == [("999",)]
    directory.sql("UPDATE sl_meta SET value = ? WHERE key = 'version'", before, ledger=True)
    assert_kept(directory.open())


# Files.


def test_a_folder_with_files_that_are_not_text(alone: Place, tmp_path: Path) -> None:
    collection = filled(alone)
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "good.md").write_text("# Good\n\nThe anchor is weighed at noon.\n", encoding="utf-8")
    (pages / "latin.md").write_text("# Latin\n\nUne page en fran\u00e7ais.\n", encoding="utf-8")
    assert collection.sync_all(shelflist.Folder(pages), delete="missing").documents_added == 2
    (pages / "latin.md").write_bytes("# Latin\n\nUne autre page en fran\u00e7ais.\n".encode("latin-1"))
    (pages / "good.md").write_text("# Good\n\nThe anchor is weighed at dawn.\n", encoding="utf-8")
    report = collection.sync_all(shelflist.Folder(pages), delete="missing")
    the_failure(report, "latin.md", "UTF-8")
    assert (report.documents_changed, report.documents_removed) == (1, 0)
    assert "dawn" in collection.search("anchor weighed", mode="keyword")[0].content
    assert collection.search("page", mode="keyword")[0].document_id == "latin.md"  # as it was when it could be read
    assert_kept(collection)


def test_a_truncated_parquet_file(alone: Place, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    collection = filled(alone)
    file = tmp_path / "rows.parquet"
    columns = {
        "document_id": [f"row-{i}" for i in range(200)],
        "content": [f"the row numbered {i}" for i in range(200)],
    }
    parquet.write_table(arrow.table(columns), file, row_group_size=50)
    whole = file.read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(UnreadableSource) as refused:
            collection.sync_all(shelflist.Parquet(file), delete="missing", allow_removal=True)
        assert str(file) in str(refused.value) and len(str(refused.value)) > len(str(file)) + 10
        assert collection.count() == 1
    file.write_bytes(whole)
    assert collection.sync_all(shelflist.Parquet(file)).documents_added == 200
    assert_kept(collection)


def test_a_parquet_file_with_a_damaged_page(alone: Place, tmp_path: Path) -> None:
    """The footer is sound, so documents may come before the damage is met: what came stays, nothing is removed."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    collection = filled(alone)
    file = tmp_path / "rows.parquet"
    columns = {
        "document_id": [f"row-{i:04}" for i in range(400)],
        "content": [f"row {i} " + "x" * 90 for i in range(400)],
    }
    parquet.write_table(arrow.table(columns), file, row_group_size=100, compression="zstd", use_dictionary=False)
    whole = file.read_bytes()
    assert collection.sync_all(shelflist.Parquet(file), delete="missing").documents_added == 400
    cut = len(whole) // 3
    file.write_bytes(whole[:cut] + bytes(400) + whole[cut + 400 :])
    with pytest.raises(UnreadableSource) as refused:
        collection.sync_all(shelflist.Parquet(file), delete="missing", allow_removal=True)
    assert str(file) in str(refused.value)
    assert collection.count() == 401
    assert_kept(collection)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_one_row_without_text_among_thousands(alone: Place, tmp_path: Path, kind: str) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    collection = filled(alone)
    file = tmp_path / f"rows.{kind}"
    ids = [f"row-{i:04}" for i in range(3_000)]

    def write(odd: str | None) -> None:
        texts = [odd if i == 2_500 else "short" for i in range(len(ids))]
        if kind == "parquet":
            parquet.write_table(arrow.table({"document_id": ids, "content": texts}), file)
        else:
            rows = ({"document_id": one, "content": text} for one, text in zip(ids, texts, strict=True))
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(None)
    with pytest.raises(UnreadableSource, match=r"(row|line) 2501: content must be text, got NoneType"):
        collection.sync_all(shelflist.open_source(file))
    assert [one["document_id"] for one in collection.documents()] == ["earlier"]
    write("")  # is text, and fails by itself
    report = collection.sync_all(shelflist.open_source(file))
    the_failure(report, "row-2500", "no text")
    assert report.documents_added == 2_999
    assert_kept(collection)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"document_id": "b", "content": "cut o', "line 2"),
        (b'{"document_id": "b", "content": "caf\xe9"}', "line 2"),
        (b'{"document_id": 5, "content": "x"}', "Write ids as text"),
        (b'{"document_id": "b"}', "'content'"),
        (b'["b", "x"]', "line 2"),
    ],
    ids=["cut", "latin-1", "number", "no text", "list"],
)
def test_a_broken_line_of_jsonl(alone: Place, tmp_path: Path, line: bytes, said: str) -> None:
    collection = filled(alone)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"document_id": "a", "content": "fine"}\n' + line + b"\n")
    with pytest.raises(UnreadableSource) as refused:
        collection.sync_all(shelflist.Jsonl(file), delete="missing", allow_removal=True)
    assert str(file) in str(refused.value) and "line 2" in str(refused.value) and said in str(refused.value)
    file.write_bytes(b'{"document_id": "a", "content": "fine"}\n{"document_id": "b", "content": "good"}\n')
    assert collection.sync_all(shelflist.Jsonl(file)).documents_added == 2
    assert_kept(collection)


# As another user, because root may read everything.


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users reach: pytest's own are private."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o777)
    yield root
    shutil.rmtree(root)


def as_nobody(work: Callable[[], None]) -> None:
    """Run it in a forked child that file permissions apply to, also when the tests run as root."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child failed; its traceback is on stderr"


def test_an_unreadable_file_through_the_command_line(public: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pages = public / "pages"
    pages.mkdir()
    (pages / "open.md").write_text("# Open\n\nThe anchor is weighed at noon.\n")
    (pages / "shut.md").write_text("# Shut\n\nThe lantern is lit at dusk.\n")
    url = f"file:{public / 'index'}"
    shelflist.open(url, "docs", embedder="static").close()
    for path in [public / "index", *(public / "index").rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    answers = public / "answers"

    def work() -> None:
        os.chdir(public)
        with answers.open("w") as lines:
            for arguments in (
                ["sync", str(pages), "--url", url],
                ["search", "lantern lit", "--mode", "keyword", "--url", url],
                ["verify", "--url", url],
            ):
                lines.write(f"{run(arguments)}\n")

    as_nobody(work)
    assert answers.read_text().split() == ["0", "0", "0"]
    (pages / "shut.md").chmod(0)
    (pages / "open.md").write_text("# Open\n\nThe anchor is weighed at dawn.\n")
    capfd.readouterr()
    as_nobody(work)
    told = capfd.readouterr()
    assert answers.read_text().split() == ["1", "0", "0"]
    assert "Failed: shut.md: " in told.err and "Permission denied" in told.err and "Traceback" not in told.err
    assert "The lantern is lit at dusk." in told.out
    with shelflist.open(url, "docs") as collection:
        assert "dawn" in collection.search("anchor weighed", mode="keyword")[0].content


def test_input_on_the_command_line_that_is_not_unicode(alone: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A shell passes bytes; Python hands on those that are not UTF-8 as lone surrogates."""
    filled(alone, embedder="static").close()
    assert run(["search", "lantern \udce9", "--url", alone.url]) == 1
    told = capsys.readouterr().err
    assert told.startswith("Error: ") and "Unicode" in told
    assert run(["search", "lantern é", "--url", alone.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["hits"][0]["document_id"] == "earlier"
