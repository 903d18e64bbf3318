"""Days on which the machine is against us: full disks, closed doors, other writers, damaged files, Ctrl-C.

Each is answered by an error that names the place and the next step, or heals and says so; nothing indexed is lost.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from counting import CountingEmbedder, contents, document, documents

import shelflist
from shelflist import Chunk, Document, Hnsw
from shelflist.cli.main import run
from shelflist.core.errors import LedgerBusy, StoreDamaged, StoreFull, StoreReadOnly

if TYPE_CHECKING:
    from places import Place

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]

EARLIER = "the lantern hangs by the harbour gate"


def opened(directory: Path, **options: Any) -> shelflist.Collection:
    return shelflist.open(f"file:{directory}", "docs", embedder=CountingEmbedder(), **options)


def fill(directory: Path) -> None:
    with opened(directory) as collection:
        assert collection.sync_all([document("earlier", EARLIER), *documents(30)]).documents_added == 31


def assert_kept(collection: shelflist.Collection) -> None:
    """What was acknowledged is found by words and by vector, and the index is whole."""
    assert collection.search("lantern harbour", mode="keyword")[0].document_id == "earlier"
    assert collection.search(EARLIER, mode="dense", limit=1)[0].content == EARLIER
    verified = collection.verify()
    assert verified["ok"], verified


def in_child(work: Callable[[], None], *, nobody: bool = False) -> None:
    """Run it in a forked child; `nobody`: as a user who owns nothing, so that file permissions apply to root's tests too."""
    child = os.fork()
    if child == 0:
        try:
            if nobody and os.geteuid() == 0:
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


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users reach: pytest's own are private."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    yield root
    for path in root.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(root)


def close_doors(directory: Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        path.chmod(0o555 if path.is_dir() else 0o444)


# A read-only directory.


def test_a_read_only_directory_is_searched_and_not_written(public: Path) -> None:
    index = public / "index"
    fill(index)
    close_doors(index)

    def work() -> None:
        with opened(index) as collection:
            assert_kept(collection)
            assert collection.search("lantern by the harbour", limit=1)[0].document_id == "earlier"
            assert collection.sync_all(documents(30)).documents_unchanged == 30  # a no-op writes nothing
            for write in (
                lambda: collection.sync("new", [Chunk("a new page")]),
                lambda: collection.sync_all([document("new", "a new page")]),
                lambda: collection.delete("earlier"),
                lambda: collection.mark_stale("earlier"),
            ):
                with pytest.raises(StoreReadOnly) as refused:
                    write()
                assert str(index) in str(refused.value) and "Check the permissions" in str(refused.value)
            assert_kept(collection)
        with pytest.raises(StoreReadOnly, match="cannot be written"):
            shelflist.open(f"file:{index}", "another", embedder=CountingEmbedder())
        with pytest.raises(StoreReadOnly, match="cannot be made"):
            opened(index / "below")

    in_child(work, nobody=True)
    for path in [index, *index.rglob("*")]:
        path.chmod(0o755)
    with opened(index) as collection:
        assert collection.sync("new", [Chunk("a new page")]).added == 1
        assert_kept(collection)


def test_a_reader_without_rights_follows_a_writer_with_rights(public: Path) -> None:
    """Its links to the keyword index are made anew when the writer has gone on."""
    if os.geteuid() != 0:
        pytest.skip("needs a second user: run as root")
    index = public / "index"
    fill(index)
    for path in [index, *index.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    written, seen = os.pipe(), os.pipe()
    reader = os.fork()
    if reader == 0:
        try:
            os.setuid(65534)
            with opened(index) as collection:
                assert_kept(collection)
                os.write(seen[1], b"1")
                os.read(written[0], 1)
            with opened(index) as collection:
                assert collection.search("anchor", mode="keyword")[0].document_id == "new"
                assert_kept(collection)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.read(seen[0], 1)
    with opened(index) as collection:
        collection.sync("new", [Chunk("the anchor is weighed")])
    os.write(written[1], b"1")
    assert os.waitpid(reader, 0)[1] == 0
    for end in (*written, *seen):
        os.close(end)


def test_a_read_only_directory_through_the_command_line(public: Path, capfd: pytest.CaptureFixture[str]) -> None:
    index, url = public / "index", f"file:{public / 'index'}"
    page = public / "page.md"
    page.write_text("# Page\n\nThe anchor is weighed at noon.\n")
    with shelflist.open(url, "docs", embedder="static") as collection:
        collection.sync("earlier", [Chunk(EARLIER)])
    close_doors(index)

    def work() -> None:
        os.chdir(public)
        assert run(["search", "where is the lantern", "--url", url, "--json"]) == 0
        assert run(["sync", str(page), "--url", url, "--json"]) == 1
        assert run(["init", "--collection", "other", "--url", url]) == 1

    in_child(work, nobody=True)
    told = capfd.readouterr()
    found, refused = (json.loads(line) for line in told.out.splitlines())
    assert found["hits"][0]["document_id"] == "earlier"
    assert refused["error_type"] == "StoreReadOnly" and str(index) in refused["error"]
    assert "Check the permissions" in told.err and "Traceback" not in told.err


def test_a_damaged_keyword_index_that_may_not_be_rebuilt(public: Path) -> None:
    index = public / "index"
    fill(index)
    next(index.rglob("*.idx")).write_bytes(b"")
    close_doors(index)

    def work() -> None:
        with opened(index) as collection:
            for mode in (None, "keyword"):
                with pytest.raises(
                    StoreReadOnly, match=r"keyword index.*cannot be written.*--mode dense.*shelflist repair"
                ):
                    collection.search("lantern", mode=mode)
            assert collection.search(EARLIER, mode="dense", limit=1)[0].content == EARLIER
            assert collection.verify()["keywords_ok"] is False

    in_child(work, nobody=True)
    for path in [index, *index.rglob("*")]:
        path.chmod(0o755)
    with opened(index) as collection:
        assert collection.repair()["actions"]
        assert_kept(collection)


# A full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        assert os.environ.get("SHELFLIST_REQUIRE_MOUNT") != "1", f"no small file system: {mounted.stderr.strip()}"
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def large(number: int) -> list[Document]:
    """About 4 kB a chunk, all texts different."""
    return [
        document(f"large-{i}", *(f"large {i} {part} " + "lorem " * 650 for part in range(5))) for i in range(number)
    ]


def test_a_full_disk(small_disk: Path) -> None:
    index, filler = small_disk / "index", small_disk / "filler"
    fill(index)
    filler.write_bytes(bytes(3_000_000))
    with opened(index) as collection:
        for _ in range(3):
            with pytest.raises(StoreFull) as refused:
                collection.sync_all(large(200))
            assert str(index) in str(refused.value) and "No space is left" in str(refused.value)
            assert "acknowledged before is kept" in str(refused.value) and "Free some space" in str(refused.value)
            assert len(collection.documents()) == 31
            assert collection.search(EARLIER, mode="dense", limit=1)[0].content == EARLIER
            assert collection.search("lantern harbour", mode="keyword")[0].document_id == "earlier"
        filler.unlink()
        assert collection.sync_all(large(40)).documents_added == 40
        assert_kept(collection)
        with pytest.raises(StoreFull):
            collection.sync_all(large(400))
        assert len(collection.documents()) == 71
        subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
        report = collection.sync_all(large(400))
        assert (report.documents_added, report.documents_unchanged) == (360, 40)
        assert_kept(collection)


def test_a_full_disk_through_the_command_line(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    url, rows = f"file:{small_disk / 'index'}", small_disk.parent / "rows.jsonl"
    with rows.open("w") as lines:
        for one, part in itertools.product(range(400), range(5)):
            row = {"document_id": f"row-{one}", "content": f"row {one} {part} " + "lorem " * 650}
            lines.write(json.dumps(row) + "\n")
    with opened(small_disk / "index") as collection:
        collection.sync("earlier", [Chunk(EARLIER)])
    embedder = CountingEmbedder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shelflist.opening.resolve_embedder", lambda _: embedder)
        assert run(["sync", str(rows), "--url", url]) == 1
        told = capfd.readouterr().err
        assert told.splitlines()[-1].startswith("Error: No space is left") and "Traceback" not in told
        assert run(["search", "lantern", "--url", url, "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["hits"][0]["document_id"] == "earlier"
        assert run(["verify", "--url", url]) == 0
        subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
        assert run(["sync", str(rows), "--url", url]) == 0
        assert run(["verify", "--url", url]) == 0
    assert len(embedder.texts) == len(
        set(embedder.texts)
    )  # what was paid for before the disk was full is not paid twice


def test_a_disk_that_is_full_while_the_vector_index_is_built(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At each of its files: searches go on without it, nothing half is left, and it is there when there is space."""
    index, filler = small_disk / "index", small_disk / "filler"
    pages = documents(200)

    def open_it() -> shelflist.Collection:
        return opened(index, index=Hnsw(indexing_threshold=100, full_scan_threshold=0))

    def snapshots() -> list[Path]:
        return [path for path in (index / "vectors").iterdir() if path.is_dir()]

    with open_it() as collection:
        collection.sync_all(pages)
    (built,) = snapshots()
    size = sum(file.stat().st_blocks * 512 for file in built.iterdir())
    failed = 0
    for free in range(0, 2 * size, 8_192):
        for path in snapshots():
            shutil.rmtree(path)
        caplog.clear()
        with open_it() as collection:
            collection.search("d7 first", mode="dense")
            filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - free))
            collection.sync_all(pages)  # no page has changed: only the index is due
            collection._parts.store._vectors.wait()
            filler.unlink()
        if snapshots():
            break
        (warning,) = (one for one in said(caplog) if "could not be built" in one)
        assert "No space is left" in warning and str(index) in warning and "Free some space" in warning
        failed += 1
        with open_it() as collection:
            assert collection.search("d7 first", mode="dense", limit=1)[0].content == "d7 first"
    assert failed >= 5
    with open_it() as collection:
        collection.sync_all(pages)
    with open_it() as collection:
        assert collection.search("d7 first", mode="dense").plan.startswith("dense: graph of 400 rows")
        assert collection.verify()["ok"]


# Two writers.


def test_a_writer_that_waits_too_long_says_so(directory: Place) -> None:
    collection = directory.open(busy_timeout=0.5)
    collection.sync("earlier", [Chunk(EARLIER)])
    held, done = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        connection = sqlite3.connect(directory.databases()[-1], isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        os.write(held[1], b"1")
        os.read(done[0], 1)
        os._exit(0)
    try:
        os.read(held[0], 1)
        with pytest.raises(LedgerBusy) as refused:
            collection.sync("new", [Chunk("a new page")])
        assert str(directory.databases()[-1]) in str(refused.value) and "0.5 s" in str(refused.value)
        assert "then run this again" in str(refused.value)
        assert_kept(collection)  # readers never wait for a writer
    finally:
        os.write(done[1], b"1")
        assert os.waitpid(holder, 0)[1] == 0
        for end in (*held, *done):
            os.close(end)
    assert collection.sync("new", [Chunk("a new page")]).added == 1
    assert_kept(collection)


def _sync_two_hundred(url: str, ledger: str | None, name: str) -> None:
    with shelflist.open(url, "docs", ledger=ledger, embedder=CountingEmbedder()) as collection:
        mine = documents(200, prefix=name)
        for start in range(0, 200, 20):  # ten writes each, so that the two do meet
            report = collection.sync_all(mine[start : start + 20], source=name)
            assert report.documents_added == 20 and not report.failures, report


def test_two_processes_sync_at_once(directory: Place) -> None:
    collection = directory.open()
    collection.sync("earlier", [Chunk(EARLIER)])
    spawn = get_context("spawn")
    workers = [
        spawn.Process(target=_sync_two_hundred, args=(directory.url, directory.ledger, name))
        for name in ("red", "blue")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(collection.documents()) == 401 and collection.count() == 801
    for name in ("red", "blue"):
        assert contents(collection.search(f"{name}150 first", mode="keyword", limit=1)) == [f"{name}150 first"]
    assert_kept(collection)


# A damaged keyword index.


def _meta_garbage(keywords: Path) -> None:
    (keywords / "meta.json").write_bytes(os.urandom(200))


def _meta_other_json(keywords: Path) -> None:
    (keywords / "meta.json").write_text("[1, 2]")


def _meta_of_an_older_commit(keywords: Path) -> None:
    meta = json.loads((keywords / "meta.json").read_text())
    (keywords / "meta.json").write_text(json.dumps({**meta, "segments": [], "opstamp": 0}))


def _managed_garbage(keywords: Path) -> None:
    (keywords / ".managed.json").write_bytes(b"{")


def _everything_gone(keywords: Path) -> None:
    shutil.rmtree(keywords.parent)


def _only_files_gone(keywords: Path) -> None:
    for file in keywords.iterdir():
        file.unlink()


def _a_file_in_its_place(keywords: Path) -> None:
    shutil.rmtree(keywords)
    keywords.write_text("not a directory")


PARTS = ("term", "idx", "pos", "store", "fast", "fieldnorm")


def _part(part: str, change: Callable[[bytes], bytes | None]) -> Callable[[Path], None]:
    def damage(keywords: Path) -> None:
        for file in keywords.glob(f"*.{part}"):
            changed = change(file.read_bytes())
            if changed is None:
                file.unlink()
            else:
                file.write_bytes(changed)

    return damage


def _flipped(data: bytes) -> bytes:
    """One bit, at a place that differs from file to file: in the body if there is one, which nothing else would notice."""
    changed = bytearray(data)
    changed[random.Random(len(data)).randrange(max(1, len(data) - 110))] ^= 16
    return bytes(changed)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "meta garbage": _meta_garbage,
    "meta other JSON": _meta_other_json,
    "meta older": _meta_of_an_older_commit,
    "all gone": _everything_gone,
    "files gone": _only_files_gone,
    "a file in its place": _a_file_in_its_place,
    **{f"{part} empty": _part(part, lambda _: b"") for part in PARTS},
    **{f"{part} cut": _part(part, lambda data: data[:-20]) for part in PARTS},
    **{f"{part} flipped": _part(part, _flipped) for part in PARTS},
    **{f"{part} gone": _part(part, lambda _: None) for part in PARTS},
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index whose keyword files have several segments and a file of deletions."""
    directory = tmp_path_factory.mktemp("sound") / "index"
    fill(directory)
    with opened(directory) as collection:
        for number in range(3):
            collection.sync(f"more-{number}", [Chunk(f"more {number} of the harbour")])
    return directory


def answers(collection: shelflist.Collection) -> list[list[tuple[str, float]]]:
    queries = ("lantern harbour gate", "d7 first", "more second", "d1 d2 d3 first second")
    return [
        [(hit.content, round(hit.score, 5)) for hit in collection.search(query, mode="keyword", limit=20)]
        for query in queries
    ]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "shelflist" and one.levelno >= logging.WARNING]


def damaged(sound: Path, place: Path, damage: Callable[[Path], None]) -> None:
    shutil.copytree(sound, place)
    (keywords,) = (place / "keywords").iterdir()
    damage(keywords)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_keyword_index_heals_at_the_next_search(
    sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with opened(sound) as collection:
        right = answers(collection)
    assert all(right) and not said(caplog)
    damaged(sound, tmp_path / "index", DAMAGES[name])
    with opened(tmp_path / "index") as collection:
        assert answers(collection) == right
        (warning,) = said(caplog)
        assert "keyword index is damaged" in warning and "Rebuilding it from the rows" in warning
        assert_kept(collection)
    with opened(tmp_path / "index") as collection:
        assert collection.sync("new", [Chunk("the anchor is weighed")]).added == 1
        assert collection.search("anchor", mode="keyword")[0].document_id == "new"
        assert_kept(collection)
    assert len(said(caplog)) == 1


@pytest.mark.parametrize(
    "name",
    [
        "meta garbage",
        "all gone",
        "a file in its place",
        "term empty",
        "store cut",
        "idx flipped",
        "fast gone",
        "managed garbage",
    ],
)
def test_a_damaged_keyword_index_heals_at_the_next_sync(
    sound: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    damaged(sound, tmp_path / "index", {**DAMAGES, "managed garbage": _managed_garbage}[name])
    with opened(tmp_path / "index") as collection:
        report = collection.sync_all([document("new", "the anchor is weighed"), document("earlier", EARLIER)])
        assert (report.documents_added, report.documents_unchanged, report.embedded) == (1, 1, 1)
        assert len(said(caplog)) == 1 and "Rebuilding it from the rows" in said(caplog)[0]
        assert collection.search("anchor", mode="keyword")[0].document_id == "new"
        assert contents(collection.search("d7 first", mode="keyword", limit=1)) == ["d7 first"]
        assert_kept(collection)
    assert len(said(caplog)) == 1


def test_verify_finds_a_flipped_bit_and_repair_mends_it(sound: Path, tmp_path: Path) -> None:
    damaged(sound, tmp_path / "index", DAMAGES["idx flipped"])
    with opened(tmp_path / "index") as collection:
        found = collection.verify()
        assert (found["ok"], found["keywords_ok"], found["missing"]) == (False, False, [])
        assert any("keyword index rebuilt" in action for action in collection.repair()["actions"])
        assert_kept(collection)


def test_verify_finds_damage_below_an_open_index(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "index")
    with opened(tmp_path / "index") as collection:
        assert_kept(collection)
        (file,) = (one for one in (tmp_path / "index" / "keywords").rglob("*.term") if one.stat().st_size > 500)
        file.write_bytes(_flipped(file.read_bytes()))
        assert collection.verify()["keywords_ok"] is False
        collection.repair()
        assert_kept(collection)


def test_a_damaged_keyword_index_through_the_command_line(alone: Place, capfd: pytest.CaptureFixture[str]) -> None:
    alone.open(embedder="static").sync("earlier", [Chunk(EARLIER)])
    alone.close()
    assert alone.directory is not None
    (keywords,) = (alone.directory / "keywords").iterdir()
    DAMAGES["term flipped"](keywords)
    assert run(["verify", "--url", alone.url]) == 3
    assert run(["search", "lantern", "--url", alone.url, "--json"]) == 0
    told = capfd.readouterr()
    assert json.loads(told.out.splitlines()[-1])["hits"][0]["document_id"] == "earlier"
    assert "Rebuilding it from the rows" in told.err and "Traceback" not in told.err and "panicked" not in told.err
    assert run(["verify", "--url", alone.url]) == 0


# A damaged database.


def _header(data: bytearray) -> None:
    data[:100] = random.Random(1).randbytes(100)


def _pages(data: bytearray) -> None:
    data[4096:] = random.Random(2).randbytes(len(data) - 4096)


def _cut(data: bytearray) -> None:
    del data[5000:]


@pytest.mark.parametrize("damage", [_header, _pages, _cut])
def test_a_damaged_database(
    sound: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: Callable[[bytearray], None]
) -> None:
    file = tmp_path / "index" / "shelflist.db"
    shutil.copytree(sound, tmp_path / "index")
    kept = file.read_bytes()
    data = bytearray(kept)
    damage(data)
    file.write_bytes(data)
    with pytest.raises(StoreDamaged) as refused, opened(tmp_path / "index") as collection:
        collection.search("lantern")
    assert str(file) in str(refused.value) and "Restore it from a backup" in str(refused.value)
    for arguments in (["search", "lantern"], ["status"], ["verify"], ["documents"]):
        assert run([*arguments, "--url", f"file:{tmp_path / 'index'}"]) == 1
        told = capfd.readouterr().err
        assert told.startswith("Error: ") and str(file) in told and "Traceback" not in told
    file.write_bytes(kept)
    with opened(tmp_path / "index") as collection:
        assert_kept(collection)


# Ctrl-C. (In a separate process: test_cli.py; kill -9: test_kill.py.)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_ctrl_c_in_the_middle_of_a_sync(directory: Place, call: int) -> None:
    """The interrupt comes while texts are embedded: at the first write, between two, at the last."""

    class Interrupted(CountingEmbedder):
        def embed_documents(self, texts: Sequence[str]) -> Any:
            if self.calls + 1 == call:
                raise KeyboardInterrupt
            return super().embed_documents(texts)

    collection = directory.open()
    collection.sync("earlier", [Chunk(EARLIER)])
    directory.close()
    pages = [document(f"page-{i:04}", f"page {i}") for i in range(2_500)]
    interrupted = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        directory.open(embedder=interrupted).sync_all(pages)
    directory.close()
    embedder = CountingEmbedder()
    collection = directory.open(embedder=embedder)
    kept = len(collection.documents()) - 1
    assert_kept(collection)
    report = collection.sync_all(pages)
    assert (report.documents_unchanged, report.documents_added) == (kept, len(pages) - kept)
    assert bool(interrupted.texts) == (call > 1) and len(interrupted.texts) < len(pages)
    assert report.embedded == len(pages) - len(interrupted.texts)  # what was paid for is not paid again
    assert sorted(interrupted.texts + embedder.texts) == sorted(page.chunks[0].content for page in pages)
    assert collection.count() == len(pages) + 1
    assert_kept(collection)
