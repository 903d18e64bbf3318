"""The installed command, driven as a user drives it: separate processes in a folder of their own.

A process costs about .4 s, so each test tells a story instead of starting over.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import shelflist

PAGES = {
    "keys.md": "---\npage_number: 3\ntags: [api]\n---\n# Keys\n\nKeys are rotated every ninety days by an officer.\n",
    "backup.md": "---\npage_number: 12\n---\n# Backup\n\nThe archive is copied to tape each night at two.\n",
    "guests.md": "---\npage_number: 4\n---\n# Guests\n\nGuests sign the red book at the front desk.\n",
    "lifts.md": "---\npage_number: 5\n---\n# Lifts\n\nThe goods lift carries four hundred kilograms.\n",
}


def test_the_embedder_none_is_not_passed_over(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    line = {"document_id": "p", "content": "Keys", "metadata": {"year": 2024}}
    (tmp_path / "texts.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "vectors.jsonl").write_text(json.dumps({**line, "embedding": [1.0, 0.0]}) + "\n")
    folder.run("init", "--url", "file:./texts")
    said = folder.run("sync", "texts.jsonl", "--url", "file:./texts", "--embedder", "none", code=1)
    assert "embedder" in said.stderr and "Traceback" not in said.stderr
    folder.run("sync", "texts.jsonl", "--url", "file:./texts")
    assert "year 2024" in folder.run("search", "keys", "--url", "file:./texts", "--explain").stdout
    shown = folder.run("show", "p", "--url", "file:./texts").stdout
    assert "2024" in shown and "2,024" not in shown
    (tmp_path / "shelflist.toml").unlink()
    place = ("--url", "file:./vectors", "--embedder", "none")
    folder.run("init", *place, "--fingerprint", "model", "--dimensions", "2")
    folder.run("sync", "vectors.jsonl", *place)
    assert folder.run("count", *place).stdout.split()[0] == "1"
    assert "number 1 with --mode keyword" in folder.run("why", "p", "keys", *place).stdout


class Folder:
    """A project folder with pages, and the command in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pages = path / "docs"
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("SHELFLIST_")}
        self.environment["PYTHONPATH"] = os.pathsep.join(sys.path)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "shelflist", *arguments]

    def run(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            self.command(*arguments),
            cwd=self.path,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert result.returncode == code, f"{arguments} ended with {result.returncode}: {result.stdout}{result.stderr}"
        assert "Traceback" not in result.stderr
        return result

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The object on the last line, and nothing else on stdout."""
        (line,) = self.run(*arguments, "--json", code=code).stdout.splitlines()
        value = json.loads(line)
        assert isinstance(value, dict)
        return value

    def found(self, query: str, *options: str) -> list[str]:
        return [hit["document_id"] for hit in self.json("search", query, *options)["hits"]]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.pages.mkdir()
    for name, text in PAGES.items():
        (folder.pages / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def indexed(folder: Folder) -> Folder:
    fields = {"page_number": "int", "tags": "list[str]"}
    (folder.path / "shelflist.toml").write_text(
        'url = "file:./index"\n[fields]\n' + "".join(f'{name} = "{kind}"\n' for name, kind in fields.items())
    )
    with shelflist.open(f"file:{folder.path / 'index'}", "docs", fields=fields) as collection:
        report = collection.sync_all(shelflist.Folder(folder.pages, name="folder:docs"), delete="missing")
    assert report.documents_added == len(PAGES)
    return folder


def test_from_nothing_to_answers_and_back_to_nothing_to_do(folder: Folder) -> None:
    assert "shelflist init --url" in folder.run("search", "keys", code=1).stderr
    made = folder.run("init", "--url", "file:./index", "--field", "page_number=int", "--field", "tags=list[str]")
    assert "shelflist sync" in made.stdout

    planned = folder.json("plan", "docs")
    synced = folder.json("sync", "docs")
    again = folder.json("sync", "docs")
    counts = ("added", "embedded", "tokens", "documents_added", "removed", "unchanged")
    assert {name: planned[name] for name in counts} == {name: synced[name] for name in counts}
    assert synced["tokens"] > 0
    assert synced["documents_added"] == synced["embedded"] == len(PAGES)
    assert (again["documents_unchanged"], again["unchanged"]) == (len(PAGES), len(PAGES))
    assert all(again[name] == 0 for name in ("added", "removed", "moved", "embedded", "documents_parsed", "failed"))

    best = folder.json("search", "how often are keys rotated?")
    first = best["hits"][0]
    assert first["document_id"] == "keys.md" and "ninety days" in first["content"]
    assert first["metadata"]["page_number"] == 3 and first["rank"] == 1 and best["exact"] is True
    assert [hit["score"] for hit in best["hits"]] == sorted((hit["score"] for hit in best["hits"]), reverse=True)
    assert folder.found("how often are keys rotated?", "--where", "page_number > 10") == ["backup.md"]
    assert folder.found("keys", "--where", '"api" in tags', "--mode", "keyword") == ["keys.md"]


def test_an_edited_and_a_deleted_page(indexed: Folder) -> None:
    (indexed.pages / "keys.md").write_text(PAGES["keys.md"].replace("ninety days", "eleven weeks"), encoding="utf-8")
    (indexed.pages / "lifts.md").unlink()
    planned = indexed.json("plan", "docs")
    assert (planned["documents_changed"], planned["documents_removed"], planned["embedded"]) == (1, 1, 1)
    synced = indexed.json("sync", "docs")
    assert (synced["added"], synced["removed"], synced["embedded"], synced["documents_parsed"]) == (1, 2, 1, 1)
    hits = indexed.json("search", "how often are keys rotated?", "--limit", "100")["hits"]
    texts = [hit["content"] for hit in hits]
    assert any("eleven weeks" in text for text in texts) and not any("ninety days" in text for text in texts)
    assert "lifts.md" not in [hit["document_id"] for hit in hits]
    listed = [one["document_id"] for one in indexed.json("documents")["documents"]]
    assert listed == ["backup.md", "guests.md", "keys.md"]


def test_why_a_page_is_found_or_not(indexed: Folder) -> None:
    (chunk,) = indexed.json("why", "keys.md", "how often are keys rotated?")["chunks"]
    assert chunk["filter_matches"] and chunk["index_status"] == "indexed"
    assert chunk["dense_rank"] == chunk["keyword_rank"] == chunk["exact_rank"] == chunk["hybrid_rank"] == 1
    filtered = indexed.run("why", "keys.md", "keys", "--where", "page_number > 10").stdout
    assert "filter keeps every chunk" in filtered
    unknown = indexed.run("why", "kees.md", "keys", code=1)
    assert "'kees.md'" in unknown.stderr and "shelflist documents" in unknown.stderr


def test_verify_finds_what_is_missing_and_repair_restores_it(indexed: Folder) -> None:
    assert indexed.json("verify")["ok"] is True
    with shelflist.open(f"file:{indexed.path / 'index'}", "docs") as collection:
        parts = collection._parts
        point = next(iter(parts.store.scan(parts.spec)))[0]
        parts.store.delete(parts.spec, [point])
    found = indexed.json("verify", code=3)
    assert found["ok"] is False and len(found["missing"]) == 1
    assert indexed.json("repair")["restored"] == 1
    assert indexed.json("verify")["ok"] is True


def test_fields_and_drop(indexed: Folder) -> None:
    assert "shelflist fields add title" in indexed.run("count", "--where", 'title == "Keys"', code=1).stderr
    indexed.run("fields", "add", "title", "str")
    assert 'title = "str"' in (indexed.path / "shelflist.toml").read_text()
    assert indexed.json("count", "--where", 'title == "Keys"')["count"] == 1
    assert indexed.json("drop", "--yes")["dropped"] is True
    assert "shelflist init" in indexed.run("count", code=1).stderr


def test_what_init_says_to_type_can_be_pasted(folder: Folder) -> None:
    place = ("--url", "file:./index", "--collection", "my pages")
    folder.run("init", *place, "--field", "page_number=int")
    (folder.path / "shelflist.toml").unlink()
    wanted = ("--field", "page_number=int", "--field", "tags=list[str]", "--field", "year=int")
    error = folder.run("init", *place, *wanted, "--embedder", "none", "--fingerprint", "m", "--dimensions", "3", code=1)
    (line,) = [line for line in error.stderr.splitlines() if "shelflist fields add" in line]
    commands = line.partition("To add what is new: ")[2].split(" && ")
    assert [shlex.split(command)[3] for command in commands] == ["tags", "year"]
    for command in commands:
        folder.run(*shlex.split(command)[1:])
    assert list(folder.json("fields", "list", *place)["fields"]) == ["page_number", "tags", "year"]
    folder.run("init", *place, *wanted)
    (folder.path / "shelflist.toml").unlink()
    taken = folder.run("init", *place, "--embedder", "static", "--field", "year=str", code=1).stderr
    assert "fields add" not in taken and "Leave fields= (--field) out." in taken and "--embedder" not in taken


def test_another_embedder_is_offered_a_collection_of_its_own(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    place = ("--url", "file:./index")
    folder.run("init", *place, "--embedder", "none", "--fingerprint", "model", "--dimensions", "2")
    (folder.path / "shelflist.toml").unlink()
    error = folder.run("init", *place, "--embedder", "static", code=1).stderr
    made = folder.json(*shlex.split(error.partition("make a new collection: shelflist ")[2].splitlines()[0]))
    assert (made["collection"], made["dimensions"]) == ("docs-2", 256)


def test_bad_input_is_a_sentence_and_nothing_is_lost(indexed: Folder) -> None:
    for arguments, said in (
        (("sync", "nowhere"), ("nowhere does not exist",)),
        (("search", "keys", "--where", "page_numbr < 10"), ("'page_numbr'", "Did you mean 'page_number'")),
        (("search", "keys", "--where", "page_number <"), ("page_number <",)),
        (("count", "--collection", "pages"), ("'pages'", "shelflist init")),
        (("count", "--url", "index"), ("file:index",)),
        (("count", "--url", "redis://ada:hidden@host"), ("redis",)),
        (("init", "--url", "file:/proc/none/index"), ("/proc/none",)),
    ):
        error = indexed.run(*arguments, code=1).stderr
        assert error.startswith("Error: ") and "hidden" not in error
        for text in said:
            assert text in error, f"{arguments}: {error}"
    (indexed.path / "docs" / "latin.md").write_bytes(b"# Caf\xe9\n\nA page in Latin-1.\n")
    (indexed.path / "docs" / "new.md").write_text("# New\n\nThe new page stands beside a broken one.\n")
    report = indexed.json("sync", "docs", code=1)
    assert report["documents_added"] == 1 and report["documents_unchanged"] == len(PAGES)
    (failure,) = report["failures"]
    assert failure["document_id"] == "latin.md" and "UTF-8" in failure["error"]
    assert indexed.found("page beside a broken one", "--limit", "1") == ["new.md"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_index_can_be_searched_and_says_that_it_cannot_be_written(indexed: Folder) -> None:
    index = indexed.path / "index"
    (indexed.pages / "new.md").write_text("# New\n\nA page.\n")
    for file in (*index.rglob("*"), index):
        file.chmod(0o555 if file.is_dir() else 0o444)
    try:
        assert "keys.md" in indexed.found("keys")
        assert str(index) in indexed.run("sync", "docs", code=1).stderr
    finally:
        index.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to one process")
def test_ctrl_c_keeps_what_was_acknowledged_and_the_same_command_goes_on(folder: Folder) -> None:
    documents, chunks_each = 3_800, 5  # more than three batches: one is written while the next is planned
    with (folder.path / "notes.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(documents):
            for part in range(chunks_each):
                text = f"Note {number}, part {part} of the series."
                lines.write(json.dumps({"document_id": f"note-{number}", "content": text}) + "\n")
    url = f"file:{folder.path / 'index'}"
    with shelflist.open(url, "docs") as collection:
        arguments = ("sync", "notes.jsonl", "--url", url)
        process = subprocess.Popen(
            folder.command(*arguments),
            cwd=folder.path,
            env=folder.environment,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background has them ignore Ctrl-C, and a child inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and not collection.documents(limit=1) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
        assert process.returncode == 130, error
        assert "acknowledged is kept" in error and "Traceback" not in error
        kept = len(collection.documents())
        assert 0 < kept < documents and collection.count() == kept * chunks_each
        assert len(collection.search("Note 7 of the series", limit=3)) == 3
        rest = folder.json(*arguments)
        assert (rest["documents_unchanged"], rest["documents_added"]) == (kept, documents - kept)
        assert rest["embedded"] <= (documents - kept) * chunks_each
        assert collection.count() == documents * chunks_each
        assert collection.verify()["ok"]


def test_search_is_light(indexed: Folder) -> None:
    """What a search loads is what decides its process time: no tables, no parsers, no Arrow, no client library."""
    code = (
        "import sys\n"
        "from shelflist.cli.main import run\n"
        "assert run(['search', 'keys']) == 0\n"
        "heavy = 'rich pyarrow yaml docutils selectolax markdown_it semantic_text_splitter httpx'.split()\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=indexed.path,
        env=indexed.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_demo_tells_its_story(folder: Folder) -> None:
    told = folder.json("demo", "--keep", "demo")
    assert told["ok"] is True and told["pages"] >= 15
    first, edit = told["first_sync"], told["edit"]
    assert first["documents_added"] == first["documents_parsed"] == told["pages"]
    assert {question["mode"] for question in told["questions"]} == {"keyword", "dense", "hybrid"}
    assert all(question["hits"] for question in told["questions"])
    assert any(question["where"] for question in told["questions"])
    assert edit["old_text_found_before"] and edit["new_text_found"] and not edit["old_text_found"]
    assert edit["sync"]["embedded"] == edit["sync"]["documents_parsed"] == edit["sync"]["documents_changed"] == 1
    assert edit["sync"]["unchanged"] == first["added"] - 1
    assert "brass key" in (folder.path / "demo" / "handbook" / edit["page"]).read_text(encoding="utf-8")
    shown = folder.run("demo").stdout
    assert [line.strip().split()[1] for line in shown.splitlines()[-3:]] == ["init", "sync", "search"]
