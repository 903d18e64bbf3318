"""`stores`, `copy` and the index options: the command line in this process."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from fake_collection import FakeCollection, FakeShelf, Shell

import shelflist
from shelflist import Chunk, Hnsw
from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import MissingDependency
from shelflist.stores.matrix import MEANINGS, described
from shelflist.stores.registry import STORES


def test_every_capability_has_a_row_and_a_meaning() -> None:
    ours = {"url", "extra", "ledger"}
    assert set(MEANINGS) - ours == {one.name for one in fields(Capabilities)} - {"store"}
    assert all(meaning and len(meaning) < 85 for title, meaning in MEANINGS.values())


def test_the_table_fits_a_terminal_and_names_every_store(shell: Shell) -> None:
    result = shell("stores")
    assert result.code == 0 and not result.err
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert [one.capabilities.store for one in described()] == lines[0].split()
    assert all(any(line.startswith(title) for line in lines) for title, _ in MEANINGS.values())


def test_one_store_and_json(shell: Shell) -> None:
    (memory,) = shell("stores", "memory", "--json").json["stores"]
    assert memory["url"] == "memory:" and memory["extra"] is None and memory["durable"] is False
    assert "starts with" in memory["filter_operators"] and memory["index_kinds"] == ["flat"]
    both = shell("stores", "file", "memory", "embedded", "--json").json["stores"]
    assert [one["store"] for one in both] == ["embedded", "memory"]
    assert len(shell("stores", "--json").json["stores"]) == len(STORES)
    unknown = shell("stores", "oracle")
    assert unknown.code == 1 and "'oracle'" in unknown.err and "memory" in unknown.err


@pytest.mark.parametrize("store", described(), ids=lambda one: one.scheme)
def test_the_ledger_row_is_true(store: object, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store with its ledger apart refuses to be opened without one, before anything is sent anywhere."""
    assert store.ledger in ("inside", "apart")  # type: ignore[attr-defined]
    if store.ledger == "apart":  # type: ignore[attr-defined]
        monkeypatch.setattr("shelflist.opening.require_client", lambda place: None)
        refused = shell("init", "--url", f"{store.scheme}://127.0.0.1:1")  # type: ignore[attr-defined]
        assert refused.code == 1 and "--ledger" in refused.err


# A store whose client is not installed.

MISSING = [
    ("pgvector://127.0.0.1:1/x", "psycopg", "pgvector"),
    ("qdrant://127.0.0.1:1", "qdrant_client", "qdrant"),
    ("weaviate://127.0.0.1:1", "weaviate", "weaviate"),
    ("chroma://127.0.0.1:1", "chromadb", "chroma"),
    ("chroma:./chroma", "chromadb", "chroma"),
    ("milvus://127.0.0.1:1", "pymilvus", "milvus"),
    ("milvus:./index.db", "milvus_lite", "milvus-lite"),
]


@pytest.mark.parametrize(("url", "module", "extra"), MISSING, ids=[one[0] for one in MISSING])
def test_a_client_that_is_missing_is_said_first(
    url: str, module: str, extra: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    install = f"pip install 'shelflist[{extra}]'"
    for command in (("search", "keys"), ("status",), ("sync", "."), ("verify",), ("init",)):
        for ledger in (("--ledger", "sqlite:./ledger.db"), ()):
            refused = shell(*command, "--url", url, *ledger)
            assert refused.code == 1 and install in refused.err, (command, ledger, refused.err)
            assert "No collection" not in refused.err
    refused = shell("copy", url, "file:./b", "--ledger", "sqlite:./ledger.db")
    assert refused.code == 1 and install in refused.err
    with pytest.raises(MissingDependency):
        shelflist.collections(url, "sqlite:./ledger.db")
    assert not list(tmp_path.iterdir())


def test_a_client_that_is_missing_for_a_copy(library: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    refused = shell("copy", "file:./a", "qdrant://127.0.0.1:1")
    assert refused.code == 1 and "pip install 'shelflist[qdrant]'" in refused.err


# The index of a new collection.


def test_init_takes_an_index_and_writes_it_down(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    made = shell("init", "--url", "qdrant://db:6333", "--ledger", "sqlite:./ledger.db", "--index", "HNSW( m=32 )")
    assert made.code == 0, made.err
    ((url, _, options),) = shelf.opened
    assert (url, options["ledger"]) == ("qdrant://db:6333", f"sqlite:{tmp_path}/ledger.db")
    assert options["index"] == Hnsw(m=32)
    said = tomllib.loads((tmp_path / "shelflist.toml").read_text())
    assert said == {
        "url": "qdrant://db:6333",
        "collection": "docs",
        "ledger": "sqlite:./ledger.db",
        "index": "hnsw(m=32, ef_construction=128)",
    }
    assert shell("init", "--index", "hnsw(m=32)").code == 0  # the same in other words
    other = shell("init", "--index", "hnsw(m=8)")
    assert other.code == 1 and "index is hnsw(m=32, ef_construction=128) there" in other.err


def test_a_wrong_index_is_wrong_usage(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    wrong = shell("init", "--url", "file:./index", "--index", "hnsw(ef=3)")
    assert wrong.code == 2 and "no option 'ef'" in wrong.err and not shelf.opened
    (tmp_path / "shelflist.toml").write_text('url = "file:./index"\nindex = "hnws"\n')
    wrong = shell("init")
    assert wrong.code == 1 and "shelflist.toml" in wrong.err and "Did you mean 'hnsw'" in wrong.err


def test_an_index_that_the_store_lacks(shell: Shell) -> None:
    refused = shell("init", "--url", "file:./index", "--index", "ivf(quantization=half)")
    assert refused.code == 1 and "no half quantization" in refused.err


def test_a_secret_in_a_server_url_is_not_written(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    made = shell("init", "--url", "qdrant://db:6333?api_key=hidden", "--ledger", "sqlite:./ledger.db")
    assert made.code == 0 and "SHELFLIST_URL" in made.err and "hidden" not in made.err + made.out
    assert "url" not in tomllib.loads((tmp_path / "shelflist.toml").read_text())


def test_the_fusion_of_the_store(shell: Shell, fake: FakeCollection) -> None:
    assert shell("search", "keys", "--fusion", "native").code == 0
    assert fake.options_of("search")["fusion"] == "native"


# A copy.


@pytest.fixture
def library(tmp_path: Path) -> Path:
    with shelflist.open(f"file:{tmp_path / 'a'}", "docs", fields={"n": int}) as collection:
        for number in range(3):
            collection.sync(f"page-{number}", [Chunk(f"Page {number} is about keys.", metadata={"n": number})])
    return tmp_path


def test_copy_and_go_on_with_the_copy(library: Path, shell: Shell) -> None:
    done = shell("copy", "file:./a", "file:./b", "--to-ledger", "sqlite:./b.db", "--json").json
    assert (done["documents"], done["chunks"], done["added"], done["vectors_checked"]) == (3, 3, 3, 3)
    assert (done["collection"], done["to"], done["warnings"]) == ("docs", "docs", [])
    again = shell("copy", "file:./a", "file:./b", "--to-ledger", "sqlite:./b.db")
    assert "3 there already" in again.out and "equal" in again.out and "file:" in again.out
    found = shell("search", "keys", "--url", "file:./b", "--ledger", "sqlite:./b.db", "--where", "n == 1", "--json")
    assert [hit["document_id"] for hit in found.json["hits"]] == ["page-1"]
    for command in (("status",), ("verify",), ("repair",), ("fields", "add", "title", "str"), ("drop", "--yes")):
        result = shell(*command, "--url", "file:./b", "--ledger", "sqlite:./b.db", "--json")
        assert result.code == 0, result.err
    assert shell("verify", "--url", "file:./a", "--json").json["ok"] is True


def test_the_ledger_of_the_settings_belongs_to_their_own_store(library: Path, shell: Shell) -> None:
    assert shell("copy", "file:./a", "file:./b", "--to-ledger", "sqlite:./b.db").code == 0
    (library / "shelflist.toml").write_text('url = "file:./b"\nledger = "sqlite:./b.db"\n')
    assert shell("copy", "file:./a", "file:./b", "--json").json["documents_unchanged"] == 3
    assert shell("copy", "file:./b", "file:./c", "--json").json["documents_added"] == 3
    assert (library / "c" / "shelflist.db").exists()


def test_a_copy_without_its_ledger_names_the_option_of_the_copy(library: Path, shell: Shell) -> None:
    refused = shell("copy", "file:./a", "late://copy-without-ledger")
    assert refused.code == 1 and "to_ledger='sqlite:FILE'" in refused.err and "(--to-ledger)" in refused.err
    assert "--ledger" not in refused.err and "SHELFLIST_LEDGER" not in refused.err
    refused = shell("copy", "late://copy-without-ledger", "file:./b")
    assert refused.code == 1 and "(--ledger, SHELFLIST_LEDGER)" in refused.err


def test_what_is_in_the_way_is_said_in_a_sentence(library: Path, shell: Shell) -> None:
    for arguments, said in (
        (("file:./a", "file:./a"), "--to-ledger"),
        (("file:./a", "memory:"), "ends with the process"),
        (("file:./nowhere", "file:./b"), "There is no index at file:"),
        (("file:./a", "file:./b", "--collection", "pages"), "no collection 'pages' to copy"),
        (("file:./a", "file:./b", "--index", "hnsw(quantization=half)"), "no half quantization"),
        (("file:./a", "redis://b"), "redis"),
    ):
        refused = shell("copy", *arguments)
        assert refused.code == 1 and said in refused.err, (arguments, refused.err)
        assert "Traceback" not in refused.err and "shelflist init" not in refused.err
    assert shell("copy", "file:./a", "file:./b", "--to", "second", "--json").json["to"] == "second"


def test_a_file_where_the_index_is_to_be(library: Path, shell: Shell) -> None:
    (library / "index").write_text("a list of words")
    (library / "folder").mkdir()
    apart = ("--url", "file:./apart", "--ledger")
    for arguments, said in (
        (("init", "--url", "file:./index"), f"The index is to be in a directory, and {library / 'index'} is a file"),
        (("init", "--url", "file:./index/deep"), f"so {library / 'index' / 'deep'} cannot be in it"),
        (("search", "keys", "--url", "file:./index"), f"{library / 'index'} is a file"),
        (("copy", "file:./index", "file:./b"), f"{library / 'index'} is a file"),
        (("copy", "file:./a", "file:./index"), "index is a file"),
        (("init", *apart, "sqlite:./index/ledger.db"), f"The ledger is to be in a directory, and {library / 'index'}"),
        (("init", *apart, "sqlite:./folder"), f"{library / 'folder'} is a directory. Name a file in it: sqlite:"),
    ):
        refused = shell(*arguments)
        assert refused.code == 1 and said in refused.err, (arguments, refused.err)
        assert "Traceback" not in refused.err
    assert (library / "index").read_text() == "a list of words"
    assert shell("search", "keys", "--url", "file:./a").code == 0
    assert shell("copy", "file:./a", "file:./folder/deep").code == 0
