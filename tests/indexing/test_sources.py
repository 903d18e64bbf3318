"""Folders: which files are documents, what is parsed, and what counts as present although it cannot be read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from shelflist.core.errors import InvalidInput, UnreadableSource
from shelflist.core.types import Document
from shelflist.indexing import sources
from shelflist.indexing.chunking import Chunker
from shelflist.indexing.protocol import FileSource
from shelflist.indexing.sources import File, Folder, Source, Unchanged, Unreadable, open_source
from shelflist.indexing.tabular import Jsonl, Parquet


def _put(path: Path, content: str | bytes = "words") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _ids(source: Source, known: Mapping[str, bytes] | None = None) -> list[str]:
    return [item.document_id for item in source.documents(known or {})]


def _digests(source: Source) -> dict[str, bytes]:
    items = source.documents({})
    return {item.document_id: item.source_digest for item in items if isinstance(item, Document) and item.source_digest}


def test_documents_come_sorted_with_ids_below_the_folder(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.txt", "a/b/c.rst", "index.HTML", "code/x.py", "picture.png", "notes", "data.json"):
        _put(tmp_path / name)
    folder = Folder(tmp_path, prefix="site/")
    assert _ids(folder) == ["site/a/b/c.rst", "site/a/z.txt", "site/b.md", "site/code/x.py", "site/index.HTML"]
    assert folder.total() == 5
    assert isinstance(folder, Source)


def test_hidden_files_and_other_peoples_folders_are_skipped(tmp_path: Path) -> None:
    for name in (
        ".git/a.md",
        ".hidden.md",
        "node_modules/a.md",
        "__pycache__/a.md",
        "x/.venv/a.md",
        "env/a.md",
        "ok/a.md",
    ):
        _put(tmp_path / name)
    _put(tmp_path / "env/pyvenv.cfg", "home = somewhere")
    assert _ids(Folder(tmp_path)) == ["ok/a.md"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": ["*.md"]}, ["a.md", "docs/b.md", "docs/deep/c.md"]),
        ({"include": "docs/*.md"}, ["docs/b.md"]),
        ({"include": "docs/**/*.md"}, ["docs/b.md", "docs/deep/c.md"]),
        ({"include": "docs/"}, ["docs/b.md", "docs/d.txt", "docs/deep/c.md"]),
        ({"include": ["*.adoc", "a.*"]}, ["a.md", "docs/e.adoc"]),
        ({"exclude": "docs"}, ["a.md"]),
        ({"exclude": ["deep/", "?.txt"]}, ["a.md", "docs/b.md"]),
        ({"exclude": "/docs/deep"}, ["a.md", "docs/b.md", "docs/d.txt"]),
        ({"exclude": "[!a].md"}, ["a.md", "docs/d.txt"]),
        ({"include": "*.md", "exclude": "**/c.md"}, ["a.md", "docs/b.md"]),
    ],
)
def test_globs(tmp_path: Path, options: dict[str, Any], expected: list[str]) -> None:
    for name in ("a.md", "docs/b.md", "docs/deep/c.md", "docs/d.txt", "docs/e.adoc"):
        _put(tmp_path / name)
    assert _ids(Folder(tmp_path, **options)) == expected


def test_a_pattern_that_is_no_glob_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="z-a"):
        Folder(tmp_path, include="[z-a]")


def test_chunks_carry_path_title_and_front_matter(tmp_path: Path) -> None:
    _put(tmp_path / "guide/keys.md", "---\ntags: [api]\n---\n# Keys\n\nrotate\n")
    (document,) = Folder(tmp_path, prefix="p/").documents({})
    assert isinstance(document, Document) and document.document_id == "p/guide/keys.md"
    (chunk,) = document.chunks
    assert chunk.metadata == {"tags": ["api"], "title": "Keys", "source_path": "guide/keys.md"}


def test_each_suffix_is_read_in_its_format(tmp_path: Path) -> None:
    _put(tmp_path / "a.md", "# H\n\nwords")
    _put(tmp_path / "b.html", "<h1>H</h1><p>words")
    _put(tmp_path / "c.rst", "H\n=\n\nwords")
    _put(tmp_path / "d.txt", "# H\n\nwords")
    _put(tmp_path / "e.py", "# H\n\nwords")
    sections = [
        document.chunks[0].section for document in Folder(tmp_path).documents({}) if isinstance(document, Document)
    ]
    assert sections == ["H", "H", "H", None, None]


def test_only_changed_files_are_parsed(tmp_path: Path) -> None:
    for name in ("a.md", "b.md", "c.md"):
        _put(tmp_path / name, f"# {name}\n\nwords")
    folder = Folder(tmp_path)
    known = _digests(folder)
    assert isinstance(folder, FileSource) and isinstance(File(tmp_path / "a.md"), FileSource)
    assert not isinstance(Jsonl(tmp_path / "rows.jsonl"), FileSource)
    assert folder.parsed == 3
    assert list(folder.documents(known)) == [Unchanged("a.md"), Unchanged("b.md"), Unchanged("c.md")]
    assert folder.parsed == 0
    _put(tmp_path / "b.md", "# b.md\n\nother words")
    _put(tmp_path / "d.md")
    items = list(folder.documents(known))
    assert [type(item).__name__ for item in items] == ["Unchanged", "Document", "Unchanged", "Document"]
    assert folder.parsed == 2


def test_files_of_a_kind_that_is_not_read_are_named(tmp_path: Path) -> None:
    for name in ("a.md", "README", "sub/b.pdf", ".hidden", "left.out", "node_modules/x.bin"):
        _put(tmp_path / name)
    folder = Folder(tmp_path, exclude="left.out")
    assert [item.document_id for item in folder.documents({})] == ["a.md"] and folder.skipped == ["README", "sub/b.pdf"]
    assert len(list(folder.documents({}))) == 1 and folder.skipped == ["README", "sub/b.pdf"]
    chosen = Folder(tmp_path, include="*.md")
    assert len(list(chosen.documents({}))) == 1 and chosen.skipped == []


def test_another_chunker_parses_again(tmp_path: Path) -> None:
    _put(tmp_path / "a.md")
    known = _digests(Folder(tmp_path))
    same, other = Folder(tmp_path, chunker=Chunker()), Folder(tmp_path, chunker=Chunker(256))
    assert list(same.documents(known)) == [Unchanged("a.md")]
    assert isinstance(next(other.documents(known)), Document) and other.parsed == 1


def test_a_touched_file_is_unchanged(tmp_path: Path) -> None:
    _put(tmp_path / "a.md")
    known = _digests(Folder(tmp_path))
    os.utime(tmp_path / "a.md", (1, 1))
    assert list(Folder(tmp_path).documents(known)) == [Unchanged("a.md")]


def test_an_empty_file_is_a_document_without_chunks(tmp_path: Path) -> None:
    _put(tmp_path / "a.md", "")
    (document,) = Folder(tmp_path).documents({})
    assert isinstance(document, Document) and list(document.chunks) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"good \xff bad", r"not valid UTF-8 at byte 5 \(0xff\)"),
        ("caf\u00e9".encode("latin-1"), "not valid UTF-8 at byte 3"),
        ("words".encode("utf-16"), "not valid UTF-8 at byte 0"),
        (b"words\0", "zero byte at byte 5"),
    ],
)
def test_what_is_not_text_is_reported_and_the_pass_goes_on(tmp_path: Path, content: bytes, reason: str) -> None:
    _put(tmp_path / "a.md", content)
    _put(tmp_path / "b.md")
    bad, good = Folder(tmp_path).documents({})
    assert isinstance(bad, Unreadable) and (bad.document_id, bad.prefix) == ("a.md", False)
    assert re.search(reason, bad.error)
    assert isinstance(good, Document)


def test_a_file_too_large_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 2_000_000)
    _put(tmp_path / "a.md", "x" * 2_000_001)
    _put(tmp_path / "b.md", "x " * 1_000)
    large, small = Folder(tmp_path).documents({})
    assert isinstance(large, Unreadable) and "limit is 2 MB" in large.error
    assert isinstance(small, Document)


def test_a_file_that_goes_away_during_the_pass_counts_as_present(tmp_path: Path) -> None:
    _put(tmp_path / "a.md")
    _put(tmp_path / "b.md")
    items = Folder(tmp_path).documents({})
    assert isinstance(next(items), Document)
    (tmp_path / "b.md").unlink()
    gone = next(items)
    assert isinstance(gone, Unreadable) and gone.document_id == "b.md"


def test_a_failing_parser_does_not_end_the_pass(tmp_path: Path) -> None:
    class Failing(Chunker):
        def chunks(self, text: str, format: str = "markdown", metadata: Mapping[str, Any] | None = None) -> list[Any]:
            if "poison" in text:
                raise RuntimeError("boom")
            return super().chunks(text, format, metadata)

    _put(tmp_path / "a.md", "poison")
    _put(tmp_path / "b.md")
    bad, good = Folder(tmp_path, chunker=Failing()).documents({})
    assert isinstance(bad, Unreadable) and "RuntimeError: boom" in bad.error
    assert isinstance(good, Document)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users reach: pytest's own are private."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    yield root
    for folder in root.rglob("*"):
        if folder.is_dir():
            folder.chmod(0o755)
    shutil.rmtree(root)


def _without_privileges(root: Path, program: str) -> None:
    """Run a program that file permissions apply to, also when the tests run as root."""
    if os.name == "nt":
        pytest.skip("file permissions of POSIX")
    preface = """
        import os, sys
        from pathlib import Path
        from shelflist.core.errors import UnreadableSource
        from shelflist.indexing.chunking import Chunker
        from shelflist.indexing.sources import Folder, Unreadable
        root, chunker = Path(sys.argv[1]), Chunker()
        chunker.digest, chunker.chunks("what is imported late is imported now")
        if os.geteuid() == 0:
            os.seteuid(65534)
    """
    code = textwrap.dedent(preface) + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_an_unreadable_file_is_reported(public: Path) -> None:
    _put(public / "a.md")
    _put(public / "b.md")
    (public / "a.md").chmod(0)
    _without_privileges(
        public,
        """
        bad, good = Folder(root, chunker=chunker).documents({})
        assert isinstance(bad, Unreadable) and bad.document_id == "a.md" and "Permission denied" in bad.error, bad
        assert good.document_id == "b.md" and good.chunks
        """,
    )


def test_everything_below_an_unlistable_folder_counts_as_present(public: Path) -> None:
    _put(public / "closed/a.md")
    _put(public / "open/b.md")
    (public / "closed").chmod(0)
    try:
        _without_privileges(
            public,
            """
            closed, good = Folder(root, prefix="p/", chunker=chunker).documents({})
            assert closed.prefix and closed.document_id == "p/closed/" and "Permission denied" in closed.error, closed
            assert "p/closed/a.md".startswith(closed.document_id) and not "p/closed.md".startswith(closed.document_id)
            assert good.document_id == "p/open/b.md"
            """,
        )
    finally:
        (public / "closed").chmod(0o755)


def test_a_root_that_cannot_be_listed_is_an_error(public: Path) -> None:
    _put(public / "root/a.md")
    (public / "root").chmod(0)
    try:
        _without_privileges(
            public,
            """
            try:
                Folder(root / "root", chunker=chunker).documents({})
            except UnreadableSource as error:
                assert "Permission denied" in str(error)
            else:
                raise AssertionError("no error")
            """,
        )
    finally:
        (public / "root").chmod(0o755)


def test_links_are_followed_and_nothing_is_walked_twice(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    _put(root / "a/a.md")
    _put(root / ".store/v2/hidden.md")
    _put(outside / "o.md")
    (root / "loop").symlink_to(root)
    (root / "a/up").symlink_to(root / "a")
    (root / "above").symlink_to(tmp_path)
    (root / "alias").symlink_to(root / "a")
    (root / "other").symlink_to(outside)
    (root / "other2").symlink_to(outside)
    (outside / "round").symlink_to(outside)
    (root / "current").symlink_to(root / ".store/v2")
    (root / "self").symlink_to(root / "self")
    (root / "file.md").symlink_to(outside / "o.md")
    assert _ids(Folder(root)) == ["a/a.md", "current/hidden.md", "file.md", "other/o.md"]


def test_dangling_links_count_as_present(tmp_path: Path) -> None:
    _put(tmp_path / "a.md")
    (tmp_path / "b.md").symlink_to(tmp_path / "nowhere.md")
    (tmp_path / "mount").symlink_to(tmp_path / "not-mounted")
    (tmp_path / "lib.so").symlink_to(tmp_path / "no-lib.so")
    document, file, folder = Folder(tmp_path).documents({})
    assert isinstance(document, Document)
    assert isinstance(file, Unreadable) and (file.document_id, file.prefix) == ("b.md", False)
    assert isinstance(folder, Unreadable) and (folder.document_id, folder.prefix) == ("mount", True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    _put(tmp_path / "z.md")
    assert _ids(Folder(tmp_path)) == ["z.md"]
    with pytest.raises(UnreadableSource):
        File(tmp_path / "pipe.md").documents({})


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_file_name_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    try:
        _put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.md")))
    except OSError:
        pytest.skip("this file system refuses such names")
    _put(tmp_path / "b.md")
    bad, good = Folder(tmp_path).documents({})
    assert isinstance(bad, Unreadable) and "not valid UTF-8" in bad.error
    bad.document_id.encode(), bad.error.encode()
    assert good.document_id == "b.md"


def test_a_wrong_path_is_an_error_not_an_empty_pass(tmp_path: Path) -> None:
    _put(tmp_path / "file.md")
    (tmp_path / "empty").mkdir()
    _put(tmp_path / "pictures/a.png")
    for path, reason in (
        ("missing", "does not exist"),
        ("file.md", "not a folder"),
        ("empty", "no document"),
        ("pictures", "no document"),
    ):
        with pytest.raises(UnreadableSource, match=reason):
            Folder(tmp_path / path).documents({})
    with pytest.raises(UnreadableSource, match="include and exclude"):
        Folder(tmp_path, exclude="*").documents({})
    with pytest.raises(UnreadableSource, match="does not exist"):
        Folder(tmp_path / "missing").total()


def test_a_folder_of_hidden_files_says_that_they_are_passed_over(tmp_path: Path) -> None:
    for place in (".notes.md", "deep/.draft.md", "node_modules/a.md"):
        _put(tmp_path / "hidden" / place)
    _put(tmp_path / "pictures/a.png")
    _put(tmp_path / "pictures/.hidden.md")
    with pytest.raises(
        UnreadableSource, match=r"passed over: hidden .*\(\.notes\.md, deep/\.draft\.md, node_modules\)"
    ):
        Folder(tmp_path / "hidden").documents({})
    with pytest.raises(UnreadableSource, match="no document") as other:
        Folder(tmp_path / "pictures").documents({})
    assert "passed over" not in str(other.value)
    with pytest.raises(UnreadableSource, match="include and exclude leave none"):
        Folder(tmp_path / "hidden", exclude="*.md").documents({})
    _put(tmp_path / "hidden/.drafts/a.md")
    assert _ids(Folder(tmp_path / "hidden/.drafts")) == ["a.md"]
    _put(tmp_path / "hidden/notes.md")
    assert _ids(Folder(tmp_path / "hidden")) == ["notes.md"]


def test_a_pipe_is_no_document_and_does_exist(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    _put(tmp_path / "page.md")
    for place in (os.devnull, tmp_path / "pipe.md"):
        for documents in (lambda place=place: open_source(place), lambda place=place: File(place).documents({})):
            with pytest.raises(UnreadableSource, match="neither a folder nor a regular file"):
                documents()
    assert _ids(open_source(tmp_path / "page.md")) == ["page.md"]


def test_an_index_below_the_folder_is_passed_over(tmp_path: Path) -> None:
    for place in (
        "index/keywords/g/meta.json",
        "index/vectors/g/codes.npy",
        "index/shelflist.db-wal",
        "index/notes.md",
    ):
        _put(tmp_path / place)
    _put(tmp_path / "words/keywords/meta.json")
    _put(tmp_path / "words/keywords/page.md")
    folder = Folder(tmp_path)
    listed = ["index/keywords/g/meta.json", "index/shelflist.db-wal", "index/vectors/g/codes.npy"]
    assert _ids(folder) == ["index/notes.md", "words/keywords/page.md"]
    assert folder.skipped == [*listed, "words/keywords/meta.json"]
    _put(tmp_path / "index/shelflist.db")
    assert _ids(folder) == ["index/notes.md", "words/keywords/page.md"]
    assert folder.skipped == ["words/keywords/meta.json"]
    assert _ids(Folder(tmp_path, include="*.json")) == ["words/keywords/meta.json"]


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in/docs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "in")
    assert Folder("docs").name == Folder("./docs/").name == Folder(tmp_path / "in/docs").name == "folder:docs"
    assert Folder(".").name == "folder:."
    assert Folder(tmp_path).name == f"folder:{tmp_path.as_posix()}"
    assert Folder("docs", name="mine").name == "mine"


def test_a_folder_stays_where_it_was_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(tmp_path / "docs/a.md")
    monkeypatch.chdir(tmp_path)
    folder = Folder("docs")
    monkeypatch.chdir("/")
    assert _ids(folder) == ["a.md"]


def test_open_source_picks_by_type(tmp_path: Path) -> None:
    for name in ("docs/a.md", "rows.jsonl", "rows.ndjson", "rows.parquet", "one.md", "LICENSE", "x.pdf"):
        _put(tmp_path / name)
    kinds = {
        name: type(open_source(tmp_path / name))
        for name in ("docs", "rows.jsonl", "rows.ndjson", "rows.parquet", "one.md", "LICENSE")
    }
    assert list(kinds.values()) == [Folder, Jsonl, Jsonl, Parquet, File, File]
    with pytest.raises(UnreadableSource, match=r"\.pdf"):
        open_source(tmp_path / "x.pdf")
    with pytest.raises(UnreadableSource, match="does not exist"):
        open_source(tmp_path / "missing.md")
    assert _ids(open_source(str(tmp_path / "docs"), prefix="p/")) == ["p/a.md"]


def test_a_single_file(tmp_path: Path) -> None:
    _put(tmp_path / "one.md", "# One\n\nwords")
    source = File(tmp_path / "one.md", prefix="p/")
    (document,) = source.documents({})
    assert isinstance(document, Document) and document.document_id == "p/one.md" and source.parsed == 1
    assert list(source.documents({"p/one.md": document.source_digest})) == [Unchanged("p/one.md")]
    assert (source.parsed, source.total()) == (0, 1)
