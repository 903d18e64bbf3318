"""Files of rows: what becomes of each column, errors that name file and row, and memory that does not grow."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import os
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shelflist.core.errors import InvalidInput, MissingDependency, UnreadableSource
from shelflist.core.types import Chunk, Document
from shelflist.indexing.protocol import Source
from shelflist.indexing.rows import Key
from shelflist.indexing.tabular import Jsonl, Parquet


def _jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def _documents(source: Source) -> list[Document]:
    documents = list(source.documents({}))
    assert all(isinstance(document, Document) for document in documents)
    return documents  # type: ignore[return-value]


def _chunks(source: Source) -> list[Chunk]:
    return [chunk for document in _documents(source) for chunk in document.chunks]


ROWS: list[dict[str, Any]] = [
    {"document_id": "a", "content": "one", "section": "S", "page": 1, "embedding": [1, 0.5]},
    {"document_id": "a", "content": "two", "metadata": {"tags": ["x"], "page": 7}, "page": 2, "embedding": [0.25, 2]},
    {"document_id": "b", "content": "three", "metadata": '{"k": null}', "embedding": None},
]


def test_jsonl_rows_become_documents(tmp_path: Path) -> None:
    source = Jsonl(_jsonl(tmp_path / "c.jsonl", ROWS), prefix="p/")
    first, second = _documents(source)
    assert (first.document_id, second.document_id, source.total()) == ("p/a", "p/b", 2)
    assert [chunk.content for chunk in first.chunks] == ["one", "two"]
    assert [chunk.section for chunk in first.chunks] == ["S", None]
    assert [dict(chunk.metadata) for chunk in first.chunks] == [{"page": 1}, {"page": 7, "tags": ["x"]}]
    assert dict(second.chunks[0].metadata) == {"k": None}
    vector = first.chunks[0].embedding
    assert isinstance(vector, np.ndarray) and vector.dtype == np.float32 and vector.tolist() == [1.0, 0.5]
    assert second.chunks[0].embedding is None
    assert isinstance(source, Source)


def test_jsonl_other_names_tenants_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    rows = [
        {"document_id": "a", "text": "one", "vector": [1], "tenant_id": "t1", "chunk_strategy": "mine"},
        {"document_id": "a", "text": "two", "vector": [1], "tenant_id": "t2"},
    ]
    path.write_text("\ufeff" + "\n\n  \n".join(json.dumps(row) for row in rows), "utf-8")
    documents = _documents(Jsonl(path))
    assert [(document.tenant, document.document_id) for document in documents] == [("t1", "a"), ("t2", "a")]
    assert documents[0].chunks[0].chunk_strategy == "mine" and documents[0].chunks[0].embedding is not None


def test_columns_can_be_named_left_out_and_chosen(tmp_path: Path) -> None:
    rows = [{"id": "a", "body": "one", "tenant": "t", "n": 1, "m": 2}]
    path = _jsonl(tmp_path / "c.jsonl", rows)
    (document,) = _documents(Jsonl(path, columns={"document_id": "id", "content": "body", "tenant": None}))
    assert document.tenant is None
    assert dict(document.chunks[0].metadata) == {"tenant": "t", "n": 1, "m": 2}
    chosen = Jsonl(path, columns={"document_id": "id", "content": "body"}, metadata_columns=["m"])
    assert dict(_chunks(chosen)[0].metadata) == {"m": 2}
    with pytest.raises(InvalidInput, match=r"'contents'.*content"):
        Jsonl(path, columns={"contents": "body"})


GOOD = '{"document_id": "a", "content": "x"}\n'


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"document_id": "a", \n', r"line 2 is not valid JSON"),
        (b'{"document_id": "b", "content": NaN}\n', r"line 2 holds NaN or Infinity.*Write null"),
        (b'{"document_id": "b", "content": "\xff"}\n', r"line 2 is not valid UTF-8 at byte 33"),
        (b'["b", "x"]\n', r"line 2 is not a JSON object but list"),
        (b'{"content": "x"}\n', r"line 2: no column 'document_id' \(there are: content\)"),
        (b'{"document_id": "b", "contents": "x"}\n', r"line 2: no column 'content' or 'text'.*'contents'"),
        (b'{"document_id": 7, "content": "x"}\n', r"line 2: document_id must be text.*int 7"),
        (b'{"document_id": "", "content": "x"}\n', r"line 2: document_id must be text that is not empty"),
        (b'{"document_id": "b", "content": null}\n', r"line 2: content must be text, got NoneType"),
        (b'{"document_id": "b", "content": ["x"]}\n', r"line 2: content must be text, got list"),
        (b'{"document_id": "b", "content": "x", "tenant": 3}\n', r"line 2: tenant must be text, got int 3"),
    ],
)
def test_jsonl_errors_name_file_and_line_before_any_document(tmp_path: Path, bad: bytes, reason: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD.encode() + bad)
    with pytest.raises(UnreadableSource, match=r"bad\.jsonl, " + reason):
        Jsonl(path).documents({})
    path.write_bytes(GOOD.encode())
    assert len(_chunks(Jsonl(path))) == 1


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ('"embedding": "1,2"', "embedding must be a list of numbers, got str"),
        ('"embedding": ["1"]', "embedding must be a list of numbers"),
        ('"embedding": [1, null]', "embedding must be a list of numbers"),
        ('"embedding": [[1], [2]]', "embedding must be a list of numbers"),
        ('"embedding": [[1], [2, 3]]', "embedding must be a list of numbers"),
        ('"embedding": [true]', "embedding must be a list of numbers"),
        ('"embedding": []', "embedding must be a list of numbers"),
        ('"metadata": [1]', "metadata must be an object, got list"),
        ('"metadata": "{"', "metadata is text that is not valid JSON"),
        ('"metadata": "[1]"', "metadata must be an object"),
        ('"section": 3', "section must be text, got int 3"),
    ],
)
def test_jsonl_values_of_the_wrong_type_name_line_and_column(tmp_path: Path, extra: str, reason: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(GOOD + f'{{"document_id": "b", "content": "x", {extra}}}\n', "utf-8")
    with pytest.raises(UnreadableSource, match=r"bad\.jsonl, line 2: " + reason):
        _documents(Jsonl(path))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_documents_whose_rows_are_apart_are_refused_first(tmp_path: Path, kind: str) -> None:
    def source(ids: str) -> Source:
        if kind == "jsonl":
            return Jsonl(_jsonl(tmp_path / "c.jsonl", [{"document_id": i, "content": "x"} for i in ids]))
        return Parquet(_parquet(tmp_path / "c.parquet", {"document_id": list(ids), "content": ["x"] * len(ids)}))

    with pytest.raises(
        UnreadableSource, match=r"c\.\w+, (line|row) 4: document 'a'.*began at (line|row) 1.*sort the file by"
    ):
        source("aaba").documents({})
    assert [document.document_id for document in _documents(source("aaabcc"))] == ["a", "b", "c"]
    assert source("aaabcc").total() == 3


@pytest.mark.parametrize("kind", [Jsonl, Parquet])
def test_missing_and_empty_files(tmp_path: Path, kind: type[Jsonl] | type[Parquet]) -> None:
    with pytest.raises(UnreadableSource, match="cannot be read: No such file"):
        kind(tmp_path / "missing").documents({})
    if kind is Jsonl:
        (tmp_path / "empty").write_text("\n\n", "utf-8")
    else:
        _parquet(tmp_path / "empty", {"document_id": pa.array([], pa.string()), "content": pa.array([], pa.string())})
    with pytest.raises(UnreadableSource, match=r"holds no (line|row)s"):
        kind(tmp_path / "empty").documents({})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("kind", [Jsonl, Parquet])
def test_a_pipe_is_not_waited_for(tmp_path: Path, kind: type[Jsonl] | type[Parquet]) -> None:
    os.mkfifo(tmp_path / "rows")
    for ask in (kind(tmp_path / "rows").total, kind(tmp_path / "rows").documents):
        with pytest.raises(UnreadableSource, match=r"rows is not a regular file.*Save what comes out of it as a file"):
            ask()
    os.remove(tmp_path / "rows")
    if kind is Jsonl:
        (tmp_path / "rows").write_text(GOOD, "utf-8")
    else:
        _parquet(tmp_path / "rows", {"document_id": ["a"], "content": ["x"]})
    assert kind(tmp_path / "rows").total() == 1


def test_a_file_that_changes_while_it_is_read_is_not_a_complete_pass(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "c.jsonl", [{"document_id": str(i), "content": "x"} for i in range(10)])
    items = Jsonl(path).documents({})
    next(items)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(GOOD)
    with pytest.raises(UnreadableSource, match="changed while"):
        list(items)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Jsonl("x/c.jsonl").name == "jsonl:x/c.jsonl"
    assert Parquet("/else/c.parquet").name == "parquet:/else/c.parquet"
    assert Parquet("c.parquet", name="mine").name == "mine"


def test_parquet_columns_become_plain_values(tmp_path: Path) -> None:
    utc = dt.UTC
    noon = dt.datetime(2024, 5, 6, 12, 0, 0, 7)
    columns = {
        "document_id": pa.array(["a", "a", "b"]).dictionary_encode(),
        "text": pa.array(["one", "two", "three"], pa.large_string()),
        "section": ["S", None, None],
        "vector": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float64(), 2)),
        "metadata": pa.array([{"k": 1, "l": None}, None, {"k": None, "l": "x"}]),
        "naive": pa.array([noon, None, noon], pa.timestamp("ns")),
        "zoned": pa.array([noon.replace(tzinfo=utc)] * 3, pa.timestamp("ms", tz="Europe/Berlin")),
        "day": pa.array([noon.date()] * 3),
        "amount": pa.array([decimal.Decimal("1.50")] * 3),
        "count": pa.array([1, 2, None], pa.int16()),
        "share": pa.array([0.5, float("nan"), 1.0], pa.float32()),
        "raw": pa.array([b"bytes"] * 3),
        "tags": pa.array([["x", "y"], [], None]),
        "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
        "dotted.name": [True, False, None],
    }
    first, second = _documents(Parquet(_parquet(tmp_path / "c.parquet", columns)))
    one, two = first.chunks
    assert (one.content, one.section, two.section) == ("one", "S", None)
    assert isinstance(one.embedding, np.ndarray) and one.embedding.dtype == np.float32
    assert one.embedding.tolist() == [1, 2] and two.embedding is None
    assert np.asarray(second.chunks[0].embedding).tolist() == [3, 4]
    assert dict(one.metadata) == {
        "k": 1,
        "naive": noon,
        "zoned": noon.replace(tzinfo=utc, microsecond=0),
        "day": dt.datetime(2024, 5, 6, tzinfo=utc),
        "amount": 1.5,
        "count": 1,
        "share": 0.5,
        "raw": "bytes",
        "tags": ["x", "y"],
        "map": {"k": 1},
        "dotted.name": True,
    }
    assert one.metadata["zoned"].utcoffset() == dt.timedelta(0)
    assert "naive" not in two.metadata and "share" not in two.metadata and "k" not in two.metadata
    assert two.metadata["tags"] == [] and two.metadata["dotted.name"] is False
    assert {type(value) for value in one.metadata.values()} <= {int, float, str, bool, list, dict, dt.datetime}


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.large_list(pa.float16()), pa.list_(pa.int8(), 3), pa.list_(pa.float64())],
    ids=str,
)
def test_parquet_embeddings_of_any_list_type(tmp_path: Path, kind: pa.DataType) -> None:
    values = [[1, 2, 3], [4, 5, 6]] * 2000
    array = pa.array([np.array(row, kind.value_type.to_pandas_dtype()) for row in values], kind)
    ids = [f"{i:05}" for i in range(len(values))]
    path = _parquet(tmp_path / "c.parquet", {"document_id": ids, "content": ids, "embedding": array})
    chunks = _chunks(Parquet(path))
    assert [np.asarray(chunk.embedding).tolist() for chunk in chunks] == values
    assert all(np.asarray(chunk.embedding).dtype == np.float32 for chunk in chunks)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"document_id": ["a"]}, r"no column 'content' or 'text' \(there are: document_id\)"),
        ({"doc_id": ["a"], "content": ["x"]}, r"no column 'document_id'.*'doc_id'"),
        ({"document_id": [1], "content": ["x"]}, r"row 1: document_id must be text.*int 1"),
        ({"document_id": ["a", "b"], "content": ["x", None]}, r"row 2: content must be text"),
        ({"document_id": ["a"], "content": [1]}, r"row 1: content must be text, got int 1"),
        (
            {"document_id": ["a"], "content": ["x"], "embedding": ["1,2"]},
            r"column 'embedding' must hold lists of numbers",
        ),
        ({"document_id": ["a"], "content": ["x"], "blob": [b"\xff"]}, r"rows 1 to 1, column 'blob' holds bytes"),
        (
            {"document_id": ["a"], "content": ["x"], "metadata": ["{"]},
            r"row 1: metadata is text that is not valid JSON",
        ),
    ],
)
def test_parquet_errors_name_file_and_place(tmp_path: Path, columns: dict[str, Any], reason: str) -> None:
    path = _parquet(tmp_path / "bad.parquet", columns)
    with pytest.raises(UnreadableSource, match=r"bad\.parquet.*" + reason):
        _documents(Parquet(path))


def _texts(number: int, odd: bytes | None) -> pa.Array:
    """As many texts, of which one is not as the others; Arrow itself does not look what bytes it is given."""
    texts = [odd if i == 4321 else b"x" for i in range(number)]
    return pa.StringArray.from_buffers(number, *(pa.array(texts, pa.binary()).buffers()[i] for i in (1, 2, 0)))


ODD_TEXTS = {
    "null": (lambda: _texts(5000, None), "must be text, got NoneType"),
    "null of a dictionary": (lambda: _texts(5000, None).dictionary_encode(), "must be text, got NoneType"),
    "null of a large text": (lambda: _texts(5000, None).cast(pa.large_string()), "must be text, got NoneType"),
    "no UTF-8": (lambda: _texts(5000, b"\xff"), "is not valid UTF-8 .*Write it again as UTF-8"),
}


@pytest.mark.parametrize("case", ODD_TEXTS)
def test_a_parquet_row_without_text_is_named_before_any_document(tmp_path: Path, case: str) -> None:
    make, reason = ODD_TEXTS[case]
    ids = [f"{i:05}" for i in range(5000)]
    path = _parquet(tmp_path / "bad.parquet", {"document_id": ids, "content": make()}, row_group_size=700)
    with pytest.raises(UnreadableSource, match=r"bad\.parquet, row 4322: content " + reason):
        Parquet(path).documents({})
    sound = _texts(5000, b"y")
    good = sound.dictionary_encode() if "dictionary" in case else sound
    path = _parquet(tmp_path / "good.parquet", {"document_id": ids, "content": good}, row_group_size=700)
    assert [chunk.content for chunk in _chunks(Parquet(path))[4320:4323]] == ["x", "y", "x"]


def test_a_chosen_metadata_column_must_exist(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "c.parquet", {"document_id": ["a"], "content": ["x"], "n": [1], "m": [2]})
    assert dict(_chunks(Parquet(path, metadata_columns=["n"]))[0].metadata) == {"n": 1}
    with pytest.raises(UnreadableSource, match="no column 'o'"):
        Parquet(path, metadata_columns=["o"]).total()


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.98])
def test_truncated_parquet_is_an_error_of_ours(tmp_path: Path, keep: float) -> None:
    ids = [f"{i:05}" for i in range(2000)]
    whole = _parquet(tmp_path / "whole.parquet", {"document_id": ids, "content": ids}).read_bytes()
    path = tmp_path / "cut.parquet"
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(UnreadableSource, match=r"cut\.parquet is not a readable Parquet file"):
        Parquet(path).documents({})
    path.write_bytes(whole)
    assert len(_documents(Parquet(path))) == 2000


def test_damaged_parquet_pages_are_an_error_of_ours(tmp_path: Path) -> None:
    ids = [f"document number {i:05}" for i in range(2000)]
    path = _parquet(
        tmp_path / "c.parquet", {"document_id": ids, "content": ids}, compression="gzip", use_dictionary=False
    )
    raw = bytearray(path.read_bytes())
    raw[200 : len(raw) // 2] = bytes(len(raw) // 2 - 200)
    path.write_bytes(raw)
    with pytest.raises(UnreadableSource, match=r"c\.parquet"):
        _documents(Parquet(path))


def test_without_pyarrow_the_message_is_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _parquet(tmp_path / "c.parquet", {"document_id": ["a"], "content": ["x"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match=r"pip install 'shelflist\[parquet\]'"):
        Parquet(path).documents({})


def test_a_hundred_thousand_lines_stream_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    lines, chunks_a_document = 100_000, 20
    filler = "some words that fill the line " * 6
    with path.open("w", encoding="utf-8") as stream:
        for i in range(lines):
            stream.write(f'{{"document_id": "d{i // chunks_a_document}", "content": "{i} {filler}", "n": {i}}}\n')
    source = Jsonl(path)
    tracemalloc.start()
    try:
        seen = sum(len(item.chunks) for item in source.documents({}) if isinstance(item, Document))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == lines
    assert path.stat().st_size > 20_000_000
    assert peak < 4_000_000


def test_ids_of_a_hundred_thousand_documents_are_not_held(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    lines = [f'{{"document_id": "a document of its own, number {i}", "content": "x"}}\n' for i in range(100_000)]
    path.write_text("".join(lines), "utf-8")
    tracemalloc.start()
    try:
        assert Jsonl(path).total() == len(lines)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000
    path.write_text("".join([*lines, lines[70_000]]), "utf-8")
    with pytest.raises(UnreadableSource, match=r"line 100001: document '.* 70000'.*began at line 70001"):
        Jsonl(path).total()


def test_two_documents_of_one_hash_are_two_documents(tmp_path: Path) -> None:
    class Clashing(str):
        def __hash__(self) -> int:
            return 7

    class Source(Jsonl):
        def keys(self) -> Iterator[tuple[int, Key]]:
            found = super().keys()
            return ((row, (None, Clashing(name))) for row, (_, name) in found)

    def source(ids: str) -> Source:
        return Source(_jsonl(tmp_path / "c.jsonl", [{"document_id": i, "content": "x"} for i in ids]))

    assert source("aabc").total() == 3
    with pytest.raises(UnreadableSource, match="line 4: document 'a'"):
        source("aaba").total()


def test_parquet_streams_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    rows, dimensions = 80_000, 64
    ids = [f"{i:06}" for i in range(rows)]
    vectors = np.random.default_rng(0).standard_normal(rows * dimensions, np.float32)
    table = {
        "document_id": ids,
        "content": ids,
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors), dimensions),
    }
    _parquet(path, table, row_group_size=rows, use_dictionary=False)
    del table
    before = pa.total_allocated_bytes()
    peak = 0
    for count, _ in enumerate(Parquet(path).documents({})):
        if count % 500 == 0:
            peak = max(peak, pa.total_allocated_bytes() - before)
    assert count == rows - 1
    assert 0 < peak < vectors.nbytes / 2


@pytest.mark.parametrize(
    ("ids", "bad", "kept"),
    [("aabbc", 4, "ab"), ("aabbc", 3, "a"), ("aabbc", 2, "a"), ("aabbc", 1, ""), ("abcd", 0, "")],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_complete_document_before_a_bad_row_comes(
    tmp_path: Path, kind: str, ids: str, bad: int, kept: str
) -> None:
    metadata = ['{"n": 1}' if row != bad else "{" for row in range(len(ids))]
    columns = {"document_id": list(ids), "content": list(ids), "metadata": metadata}
    source: Source
    if kind == "jsonl":
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        source = Jsonl(_jsonl(tmp_path / "c.jsonl", rows))
    else:
        source = Parquet(_parquet(tmp_path / "c.parquet", columns))
    came: list[tuple[str, int]] = []
    with pytest.raises(UnreadableSource, match=rf"(row|line) {bad + 1}: metadata"):
        for document in source.documents({}):
            assert isinstance(document, Document)
            came.append((document.document_id, len(document.chunks)))
    assert came == [(one, ids.count(one)) for one in kept]


@pytest.mark.parametrize(("chunks", "kept"), [(1, 4096), (3, 1365)], ids=["complete", "cut in the middle"])
def test_every_complete_document_before_a_damaged_page_comes(tmp_path: Path, chunks: int, kept: int) -> None:
    ids = [f"{row // chunks:05}" for row in range(5120)]
    # Ids and texts are looked through before the first document comes; the damage is in what is not.
    columns = {"document_id": ids, "content": ["text"] * 5120, "note": [f"{row:0100}" for row in range(5120)]}
    path = _parquet(tmp_path / "c.parquet", columns, row_group_size=1024, compression="zstd", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(4).column(2)
    with path.open("r+b") as file:
        file.seek(column.data_page_offset + column.total_compressed_size // 2)
        file.write(bytes(200))
    came: list[str] = []
    with pytest.raises(UnreadableSource, match="not a readable Parquet file"):
        for document in Parquet(path).documents({}):
            assert isinstance(document, Document) and len(document.chunks) == chunks
            came.append(document.document_id)
    assert len(came) == kept
