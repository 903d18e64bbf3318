"""What each command asks of the collection, what it prints for people and for programs, and how it ends."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_collection import DOCUMENT, HIT, FakeCollection, FakeShelf, Shell, why_chunk

from shelflist.cli.commands_search import explain_why
from shelflist.core.errors import RemovalRefused, UnknownField
from shelflist.core.types import Failure, Hit, Hits, Progress, SyncReport

ALL = [
    ("search", "keys"),
    ("why", "keys.md", "keys"),
    ("count",),
    ("status",),
    ("documents",),
    ("show", "keys.md"),
    ("verify",),
    ("repair",),
    ("purge",),
    ("fields", "list"),
    ("fields", "add", "language", "str"),
    ("drop", "--yes"),
    ("sync", "."),
    ("plan", "."),
]
METHOD = {"sync": "sync_all", "fields": "add_field"}


@pytest.mark.parametrize("arguments", ALL, ids=" ".join)
def test_json_is_one_object_and_nothing_else(shell: Shell, fake: FakeCollection, arguments: tuple[str, ...]) -> None:
    result = shell(*arguments, "--json")
    assert result.code == 0 and result.json
    assert result.err == ""
    assert fake.was_asked("close")


@pytest.mark.parametrize("arguments", ALL, ids=" ".join)
def test_people_get_words_on_stdout(shell: Shell, fake: FakeCollection, arguments: tuple[str, ...]) -> None:
    result = shell(*arguments)
    assert result.code == 0 and result.out.strip() and result.err == ""
    assert not result.out.lstrip().startswith("{")


@pytest.mark.parametrize("arguments", [a for a in ALL if a != ("fields", "list")], ids=" ".join)
def test_an_expected_error_is_a_line_and_code_1(shell: Shell, fake: FakeCollection, arguments: tuple[str, ...]) -> None:
    fake.answers[METHOD.get(arguments[0], arguments[0])] = UnknownField.named("pagenumber", ["page_number"])
    result = shell(*arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: Unknown field 'pagenumber'. Did you mean 'page_number'?")
    assert "Traceback" not in result.err
    as_json = shell(*arguments, "--json")
    assert as_json.code == 1
    assert as_json.json["error_type"] == "UnknownField" and "page_number" in as_json.json["error"]


@pytest.mark.parametrize("arguments", [a for a in ALL if a[0] != "drop"], ids=" ".join)
def test_a_missing_collection_names_the_command_that_makes_it(
    shell: Shell, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    where = ("--url", "file:./no where", "--ledger", "sqlite:./ledger.db", "--collection", "pages")
    result = shell(*arguments, *where)
    assert result.code == 1 and not list(tmp_path.iterdir())
    init = result.err.partition("Make it with: ")[2]
    assert init.startswith("shelflist init --url 'file:") and "--collection pages" in init
    assert shell(*shlex.split(init)[1:]).code == 0
    assert "No collection" not in shell(*arguments, *where).err


def test_a_command_that_makes_a_collection_shows_no_secret(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("nothing is opened where the ledger is not even there")

    monkeypatch.setattr("shelflist.opening.require_client", lambda place: None)
    monkeypatch.setattr("shelflist.opening.open_store", refuse)
    result = shell("status", "--url", "qdrant://:s3cret@nowhere", "--ledger", "sqlite:./ledger.db")
    assert result.code == 1 and "s3cret" not in result.err and "***" not in result.err.partition("Make it with:")[2]
    assert "with the secret URL in SHELFLIST_URL" in result.err and "--ledger sqlite:" in result.err


def test_without_any_url_the_way_to_start_is_named(shell: Shell, shelf: FakeShelf) -> None:
    result = shell("search", "keys")
    assert result.code == 1 and "shelflist init --url file:./index" in result.err


def test_interrupted_is_130_and_says_that_work_is_kept(shell: Shell, fake: FakeCollection) -> None:
    fake.answers["sync_all"] = KeyboardInterrupt()
    result = shell("sync", ".")
    assert result.code == 130
    assert "acknowledged is kept" in result.err and "same command again" in result.err
    assert "Traceback" not in result.err
    assert fake.was_asked("close")
    as_json = shell("sync", ".", "--json")
    assert as_json.code == 130 and as_json.json["error_type"] == "Interrupted"


@pytest.mark.parametrize(
    "arguments",
    [
        ("search",),
        ("sync", ""),
        ("plan", ""),
        ("sync", ".", ""),
        ("sync", ".", "--source", ""),
        ("search", "keys", "--vector", "keys.npy"),
        ("search", "keys", "--limit", "0"),
        ("search", "keys", "--mode", "fuzzy"),
        ("search", "keys", "--limit", "many"),
        ("sync",),
        ("sync", ".", "--nonsense"),
        ("serch", "keys"),
        ("init", "--field", "page"),
        ("init", "--field", "a=int", "--field", "a=str"),
        ("sync", ".", "..", "--source", "one"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_code_2(shell: Shell, fake: FakeCollection, arguments: tuple[str, ...]) -> None:
    result = shell(*arguments)
    assert result.code == 2 and "Error" in result.err and result.out == ""
    assert not fake.asked or fake.asked == [("close", (), {})]


def test_a_mistyped_command_gets_the_nearest_name(shell: Shell) -> None:
    assert "Did you mean 'search'?" in shell("serch").err


# search


def test_search_options_reach_the_collection(shell: Shell, fake: FakeCollection) -> None:
    options = ("--limit", "3", "--where", "page_number < 10", "--mode", "keyword", "--fusion", "rrf")
    assert (
        shell(
            "search", "keys", *options, "--min-score", "0.5", "--group-by", "document_id", "--exact", "--alpha", "0.2"
        ).code
        == 0
    )
    asked = fake.options_of("search")
    assert asked.pop("params").exact is True
    assert asked == {
        "limit": 3,
        "where": "page_number < 10",
        "mode": "keyword",
        "fusion": "rrf",
        "min_score": 0.5,
        "group_by": "document_id",
        "alpha": 0.2,
    }


def test_plain_search_leaves_the_defaults_to_the_collection(shell: Shell, fake: FakeCollection) -> None:
    shell("search", "keys")
    asked = fake.options_of("search")
    assert "params" not in asked
    assert (asked["limit"], asked["where"], asked["mode"], asked["group_by"]) == (10, None, None, None)


def test_a_hit_is_shown_with_score_place_and_text(shell: Shell, fake: FakeCollection) -> None:
    plain, explained = shell("search", "keys").out, shell("search", "keys", "--explain").out
    for text in ("0.912", "keys.md > Keys > Rotation", "Keys are rotated every 90 days."):
        assert text in plain
    assert "distance" not in plain
    for text in ("dense 1 (0.750)", "keyword -", "distance 0.250", "page_number 3", "exact scan"):
        assert text in explained


def test_the_headings_of_a_chunk_are_said_once(shell: Shell, fake: FakeCollection) -> None:
    hit = Hit(1.0, None, "Keys > Rotation\n\nEvery 90 days.", "keys.md", "c", {}, section="Keys > Rotation")
    fake.answers["search"] = Hits([hit], plan="", exact=True)
    out = shell("search", "keys").out
    assert out.count("Rotation") == 1 and "    Every 90 days.\n" in out


def test_a_hit_in_json_has_everything(shell: Shell, fake: FakeCollection) -> None:
    found = shell("search", "keys", "--json").json
    assert found["plan"] == "exact scan" and found["exact"] is True and found["refused"] == 0
    (hit,) = found["hits"]
    assert hit["rank"] == 1 and hit["explanation"]["dense_rank"] == 1
    for name in ("score", "distance", "content", "document_id", "chunk_id", "metadata", "section", "position"):
        assert hit[name] == getattr(HIT, name)


def test_json_holds_what_python_values_mean(shell: Shell, fake: FakeCollection) -> None:
    metadata = {"at": datetime(2026, 1, 2, tzinfo=UTC), "n": np.float32(0.5), "nan": float("nan"), "b": b"\x01"}
    hit = Hit(np.float32(1), None, "ü \u2028 \x85 \udcff", "d", "c", metadata)
    fake.answers["search"] = Hits([hit], plan="", exact=True)
    found = shell("search", "keys", "--json").out
    assert "ü" in found and "\\udcff" in found
    (one,) = shell("search", "keys", "--json").json["hits"]
    assert one["content"] == "ü \u2028 \x85 \udcff"
    assert one["metadata"] == {"at": "2026-01-02T00:00:00+00:00", "n": 0.5, "nan": None, "b": "01"}


def test_nothing_found_is_no_error(shell: Shell, fake: FakeCollection) -> None:
    fake.answers["search"] = Hits([], plan="", exact=True)
    plain, filtered = shell("search", "keys"), shell("search", "keys", "--where", "a == 1")
    assert plain.code == filtered.code == 0
    assert "Nothing found" in plain.out and "filter" not in plain.out
    assert "filter" in filtered.out


def test_a_vector_from_a_file_is_searched(shell: Shell, fake: FakeCollection, tmp_path: Path) -> None:
    vector = np.asarray([0.5, -0.25, 0.75], np.float32)
    np.save(tmp_path / "v.npy", vector)
    (tmp_path / "v.json").write_text("[0.5, -0.25, 0.75]")
    for name in ("v.npy", "v.json"):
        assert shell("search", "--vector", str(tmp_path / name)).code == 0
        (asked,) = fake.asked[[one[0] for one in fake.asked].index("search")][1]
        assert np.array_equal(asked, vector)
        fake.asked.clear()


@pytest.mark.parametrize(
    "held", ["no json", '["a"]', "[[1], [1, 2]]", None], ids=["text", "words", "ragged", "missing"]
)
def test_a_file_without_a_vector_is_wrong_usage(
    shell: Shell, fake: FakeCollection, tmp_path: Path, held: str | None
) -> None:
    place = tmp_path / "v.json"
    if held is not None:
        place.write_text(held)
    result = shell("search", "--vector", str(place))
    assert result.code == 2 and f"{place} holds no vector" in " ".join(result.err.split())
    assert not fake.was_asked("search")


def test_fields_alone_lists_them(shell: Shell, fake: FakeCollection) -> None:
    assert shell("fields", "--json").json == shell("fields", "list", "--json").json
    assert shell("fields").code == 0 and "Usage" in shell("fields", "--help").out
    assert shell("fields", "lists").code == 2


def test_nothing_found_for_a_tenant_without_documents(shell: Shell, fake: FakeCollection) -> None:
    fake.answers["search"] = Hits([], plan="", exact=True, refused=0)
    assert "no document" not in shell("search", "keys", "--tenant", "acme").out
    fake.answers["documents"] = []
    assert "no document belongs to the tenant 'acm'" in shell("search", "keys", "--tenant", "acm").out
    assert "holds no document yet" in shell("search", "keys").out


def test_what_a_chunk_holds_cannot_command_the_terminal(shell: Shell, fake: FakeCollection) -> None:
    evil = Hit(1.0, None, "red \x1b[31m\x07 \u202e [bold]x[/bold]", "a\x1b]0;title\x07.md", "c", {})
    fake.answers["search"] = Hits([evil], plan="", exact=True)
    fake.answers["documents"] = [{**DOCUMENT, "document_id": "b\x1b[2J[red].md"}]
    for out in (shell("search", "keys").out, shell("documents").out):
        assert not set(out) & {"\x1b", "\x07", "\u202e"}
    assert "[bold]x[/bold]" in shell("search", "keys").out
    assert "[red].md" in shell("documents").out


def test_search_loads_neither_tables_nor_arrays_nor_other_commands() -> None:
    code = (
        "import sys; import shelflist.cli.commands_search, shelflist.cli.main; "
        "print([m for m in ('numpy', 'rich', 'pyarrow', 'tokenizers', 'yaml', 'shelflist.cli.commands_sync') "
        "if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# why


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([], "no chunks"),
        ([why_chunk(index_status="stale")], "index status: stale"),
        ([why_chunk(index_status="failed", error="too long")], "too long"),
        ([why_chunk(filter_matches=False)], "filter keeps every chunk"),
        ([why_chunk(exact_rank=None, keyword_rank=None, hybrid_rank=None)], "shelflist verify"),
        ([why_chunk(hybrid_rank=None, dense_rank=None, exact_rank=400, keyword_rank=70)], "too far down"),
        ([why_chunk(hybrid_rank=None, dense_rank=None, keyword_rank=None, exact_rank=3)], "vector index misses it"),
        ([why_chunk(dense_rank=None, exact_rank=3)], "number 1 in hybrid"),
        ([why_chunk(hybrid_rank=37, dense_rank=30, exact_rank=30, keyword_rank=25)], "--limit 37"),
        ([why_chunk(keyword_rank=None)], "shares no word"),
        ([why_chunk(hybrid_rank=9), why_chunk(hybrid_rank=4)], "number 4 in hybrid"),
        ([why_chunk(filter_matches=False), why_chunk(hybrid_rank=4)], "number 4 in hybrid"),
        ([why_chunk(hybrid_rank=4), why_chunk(hybrid_rank=37, dense_rank=None)], "number 4 in hybrid"),
        ([why_chunk(hybrid_rank=None, dense_rank=3, exact_rank=3, keyword_rank=3764)], "--mode dense"),
        ([why_chunk(hybrid_rank=40, dense_rank=None, exact_rank=900, keyword_rank=2)], "--mode keyword"),
        ([why_chunk(hybrid_rank=None, dense_rank=None, exact_rank=3, keyword_rank=3764)], "vector index misses it"),
    ],
)
def test_why_says_the_first_thing_that_is_in_the_way(chunks: list[dict[str, object]], said: str) -> None:
    assert said in explain_why(chunks, filtered=False)


def test_why_gives_the_ranks_of_one_chunk() -> None:
    one = why_chunk(hybrid_rank=None, dense_rank=3, exact_rank=3, keyword_rank=3764)
    other = why_chunk(hybrid_rank=None, dense_rank=None, exact_rank=900, keyword_rank=20)
    assert "(dense 3, keyword 3764)" in explain_why([other, one], filtered=False)
    one = why_chunk(hybrid_rank=None, dense_rank=None, exact_rank=300, keyword_rank=None)
    said = explain_why([other, one], filtered=False)
    assert "(dense 900, keyword 20)" in said and "too far down" in said and "--mode" not in said


@pytest.mark.parametrize(
    ("rank", "said", "unsaid"),
    [
        (1, "number 1 with --mode keyword", "--limit"),
        (40, "--limit 40", "too far down"),
        (None, "shares no word", "verify"),
    ],
)
def test_why_without_an_embedder_speaks_of_the_keyword_leg_alone(rank: int | None, said: str, unsaid: str) -> None:
    chunk = why_chunk(dense_rank=None, exact_rank=None, hybrid_rank=None, keyword_rank=rank)
    verdict = explain_why([chunk], filtered=False, has_embedder=False)
    assert "no embedder" in verdict and said in verdict and unsaid not in verdict
    assert "no embedder" not in explain_why([chunk], filtered=False)


@pytest.mark.parametrize(
    ("dense", "exact", "said"),
    [
        (3, 3, "number 3 in dense search"),
        (40, 40, "--limit 40"),
        (None, 4, "vector index misses it"),
        (12, 4, "vector index misses it"),  # found by a search for a hundred only
        (None, 400, "too far down (number 400 of all)"),
        (None, None, "shelflist verify"),
    ],
)
def test_why_by_a_vector_speaks_of_the_dense_leg_alone(dense: int | None, exact: int | None, said: str) -> None:
    chunk = why_chunk(dense_rank=dense, exact_rank=exact, keyword_rank=None, hybrid_rank=None)
    verdict = explain_why([chunk], filtered=False, has_words=False)
    assert said in verdict and "hybrid" not in verdict and "keyword" not in verdict


def test_why_takes_a_vector_as_search_does(shell: Shell, fake: FakeCollection, tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text("[1, 0.5]")
    fake.answers["why"] = {"legs": ["dense"], "query": None, "chunks": [why_chunk()], "plan": "dense: exact scan"}
    asked = shell("why", "keys.md", "--vector", "v.json", "--json").json
    assert asked["query"] == {"vector": "v.json"} and asked["legs"] == ["dense"]
    assert fake.asked[0][1][1].tolist() == [1, 0.5]
    for both_or_none in (("--vector", "v.json", "keys"), ()):
        result = shell("why", "keys.md", *both_or_none)
        assert result.code == 2 and "QUERY or --vector" in result.err
    (tmp_path / "v.json").write_text(f"[1{'0' * 400}]")
    result = shell("why", "keys.md", "--vector", "v.json")
    assert result.code == 2 and "holds no vector" in result.err


def test_why_shows_each_chunk_and_a_verdict(shell: Shell, fake: FakeCollection) -> None:
    result = shell("why", "keys.md", "keys", "--where", "page_number < 10")
    assert "Keys are rotated." in result.out and "It is found: its best chunk is number 1" in result.out
    assert fake.asked[0] == ("why", ("keys.md", "keys", "page_number < 10"), {})
    assert shell("why", "keys.md", "keys", "--json").json["chunks"][0]["hybrid_rank"] == 1
    assert "shelflist show" not in result.out
    found = {"legs": ["dense", "keyword"], "chunks": [why_chunk(filter_matches=False)], "plan": "exact scan"}
    fake.answers["why"] = found
    assert "shelflist show 'my keys.md'" in shell("why", "my keys.md", "keys", "--where", "page_number < 1").out


# looking


def test_a_long_document_list_says_that_there_is_more(shell: Shell, fake: FakeCollection) -> None:
    fake.answers["documents"] = [{**DOCUMENT, "document_id": f"{n:03}-{'x' * 200}.md"} for n in range(4)]
    result = shell("documents", "--limit", "3", "--prefix", "0")
    assert fake.options_of("documents") == {"limit": 4, "prefix": "0"}
    assert "more than 3" in result.out and "003-" not in result.out
    assert "x" * 200 + ".md" in result.out, "a value was cut although stdout is no terminal"
    assert shell("documents", "--limit", "3", "--json").json["more"] is True
    whole = shell("documents", "--limit", "4")
    assert "more than" not in whole.out and "003-" in whole.out


def test_moments_are_shown_as_such(shell: Shell, fake: FakeCollection) -> None:
    assert "2026-01-01 00:00:00 UTC" in shell("documents").out
    assert "2026-01-01 00:00:00 UTC" in shell("show", "keys.md").out


def test_a_datetime_is_shown_as_a_filter_takes_it(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("---\nat: 2024-05-06T12:00:00.5+02:00\n---\nKeys rotate.\n")
    shell("init", "--url", "file:./index", "--field", "at=datetime")
    shell("sync", "page.md")
    for out in (shell("show", "page.md").out, shell("search", "keys", "--explain").out):
        (at,) = re.findall(r"\bat +(\d[^,\s]*)", out)
        assert shell("count", "--where", f'at == "{at}"').out == "1\n"
        assert shell("count", "--where", f'at > "{at}"').out == "0\n"


def test_an_empty_collection_names_the_next_step(shell: Shell, fake: FakeCollection) -> None:
    fake.answers["documents"] = []
    assert "shelflist sync" in shell("documents").out
    assert "starts with 'q'" in shell("documents", "--prefix", "q").out


def test_the_tenant_is_bound(shell: Shell, fake: FakeCollection) -> None:
    shell("search", "keys")
    assert not fake.was_asked("tenant")
    shell("search", "keys", "--tenant", "acme")
    assert ("tenant", ("acme",), {}) in fake.asked


def test_an_embedder_is_passed_only_when_it_is_named(shell: Shell, fake: FakeCollection, shelf: FakeShelf) -> None:
    shell("count")
    shell("count", "--embedder", "static", "--ledger", "sqlite:/l.db")
    assert [options.get("embedder") for _, _, options in shelf.opened] == [None, "static"]
    assert "embedder" not in shelf.opened[0][2]
    assert [options["ledger"] for _, _, options in shelf.opened] == [None, "sqlite:/l.db"]


# care


def test_verify_ends_with_3_when_there_are_differences(shell: Shell, fake: FakeCollection) -> None:
    good = fake.verify()
    assert "What is searched is what was written." in shell("verify", "--sample", "5").out
    assert fake.asked[-2][1] == (5,)
    fake.answers["verify"] = {**good, "ok": False, "missing": ["aa", "bb"], "missing_documents": ["keys.md"]}
    result = shell("verify")
    assert result.code == 3
    assert "2 chunks in the ledger, not in the store: aa, bb" in result.out and "keys.md" in result.out
    assert "shelflist repair" in result.out
    as_json = shell("verify", "--json")
    assert as_json.code == 3 and as_json.json["ok"] is False


def test_repair_that_cannot_restore_everything_ends_with_1(shell: Shell, fake: FakeCollection) -> None:
    assert shell("repair").out == "2 ghosts deleted from the store.\n"
    fake.answers["repair"] = {"actions": [], "lost": ["given.md"]}
    result = shell("repair")
    assert result.code == 1 and "given.md" in result.err


def test_what_is_not_there_is_not_dropped_and_not_to_be_made(shell: Shell, tmp_path: Path) -> None:
    place = ("--url", f"file:{tmp_path / 'index'}")
    for there in ("", " There is: docs."):
        result = shell("drop", "--collection", "other", *place, "--yes")
        assert result.code == 1 and result.err.endswith(f"so nothing was removed.{there}\n")
        assert "'other'" in result.err and "init" not in result.err
        assert there or not list(tmp_path.iterdir())
        shell("init", *place)
    assert shell("drop", "--collection", "docs", *place, "--yes").code == 0


def test_drop_asks_and_takes_no_answer_as_no(
    shell: Shell, fake: FakeCollection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for typed in ("", "n\n"):
        (tmp_path / "typed").write_text(typed)
        with (tmp_path / "typed").open() as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            result = shell("drop")
        assert result.code == 1 and "--yes" in result.err and "1 documents" in result.err
        assert not fake.was_asked("drop")
    (tmp_path / "typed").write_text("y\n")
    with (tmp_path / "typed").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert shell("drop").code == 0
    assert fake.was_asked("drop")


# the way in


def test_a_folder_is_mirrored_and_a_file_only_added(shell: Shell, fake: FakeCollection, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "new.jsonl").write_text("")
    asked = []
    for arguments in (("pages",), ("new.jsonl",), ("pages", "--keep-missing"), ("new.jsonl", "--delete-missing")):
        fake.asked.clear()
        assert shell("sync", *arguments).code == 0
        asked.append(fake.options_of("sync_all")["delete"])
    assert asked == ["missing", None, None, "missing"]


def test_sync_options_reach_source_and_collection(
    shell: Shell, fake: FakeCollection, shelf: FakeShelf, tmp_path: Path
) -> None:
    (tmp_path / "pages").mkdir()
    chosen = ("--include", "*.md", "--include", "*.rst", "--exclude", "x*", "--prefix", "h/")
    cut = ("--chunk-size", "200", "--chunk-overlap", "20")
    how = ("--source", "wiki", "--allow-removal", "--on-failed", "switch_without", "--wait", "stored")
    assert shell("sync", "pages", *chosen, *cut, *how).code == 0
    assert shelf.sources == [
        ("pages", {"prefix": "h/", "chunker": (200, 20), "include": ("*.md", "*.rst"), "exclude": ("x*",)})
    ]
    assert fake.options_of("sync_all") == {
        "source": "wiki",
        "delete": "missing",
        "allow_removal": True,
        "on_failed": "switch_without",
        "wait": "stored",
        "progress": None,
    }
    assert fake.was_asked("wait_for_build")


@pytest.mark.parametrize("on_failed", ["keep_old", "switch_without"])
def test_a_plan_takes_the_options_that_decide_what_a_sync_does(
    shell: Shell, fake: FakeCollection, tmp_path: Path, on_failed: str
) -> None:
    (tmp_path / "pages").mkdir()
    how = ("--source", "wiki", "--allow-removal", "--on-failed", on_failed)
    planned = shell("plan", "pages", *how)
    assert planned.code == 0 and f"shelflist sync pages {' '.join(how)}" in planned.out
    assert fake.options_of("plan") == {
        "source": "wiki",
        "delete": "missing",
        "allow_removal": True,
        "on_failed": on_failed,
        "progress": None,
    }
    shell("plan", "pages")
    assert fake.asked[-2][2]["on_failed"] == "keep_old"
    assert shell("plan", "pages", "--on-failed", "give_up").code == 2


def test_chunks_that_cannot_be_cut_are_wrong_usage(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Keys\n\nKeys rotate.\n")
    shell("init", "--url", "file:./index")
    for size, overlap, said in (("15", "0", "x>=16"), ("64", "33", "Use 0 to 32"), ("64", "50", "--chunk-overlap")):
        refused = shell("plan", "page.md", "--chunk-size", size, "--chunk-overlap", overlap)
        assert refused.code == 2 and said in refused.err
    assert shell("plan", "page.md", "--chunk-size", "16", "--chunk-overlap", "8").code == 0


def test_a_sync_that_only_built_the_index_says_so(shell: Shell, fake: FakeCollection, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    assert "Built the vector index." not in shell("sync", "pages").out
    fake.answers["building"] = [Progress("building the vector index", 0, 9, "vectors")]
    assert "Built the vector index." in shell("sync", "pages").out
    assert shell("sync", "pages", "--json").json["planned"] is False


def test_a_path_that_is_given_twice_is_synced_once(shell: Shell, fake: FakeCollection, tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
    sources = shell("sync", "b", "a", str(tmp_path / "a"), "./b/", "--json").json["sources"]
    assert [one["path"] for one in sources] == ["b", "a"]
    assert shell("sync", "a", "a/", "--source", "wiki").code == 0
    assert shell("sync", "a", "b", "--source", "wiki").code == 2
    assert shell("sync", "a", "").code == 2


def test_a_plan_waits_for_nothing(shell: Shell, fake: FakeCollection, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    assert shell("plan", "pages").code == 0
    assert fake.was_asked("plan") and not fake.was_asked("wait_for_build")


def test_a_file_of_chunks_takes_no_chunker_and_no_globs(
    shell: Shell, fake: FakeCollection, shelf: FakeShelf, tmp_path: Path
) -> None:
    (tmp_path / "chunks.parquet").write_text("")
    (tmp_path / "page.md").write_text("")
    assert shell("sync", "chunks.parquet").code == shell("sync", "page.md").code == 0
    assert shelf.sources == [("chunks.parquet", {"columns": {}}), ("page.md", {"chunker": (512, 50)})]
    refused = shell("sync", "page.md", "--include", "*.md")
    assert refused.code == 2 and "page.md is a file" in refused.err


def test_columns_of_a_file_of_chunks(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "chunks.jsonl").write_text('{"document_id": "a", "body": "Keys rotate.", "embedding": "no row"}\n')
    (tmp_path / "page.md").write_text("")
    shell("init", "--url", "file:./index")
    unnamed = shell("sync", "chunks.jsonl")
    assert unnamed.code == 1 and "--column content=body" in unnamed.err
    assert shell("sync", "chunks.jsonl", "--column", "content=body", "--column", "embedding=").code == 0
    assert shell("documents", "--json").json["documents"][0]["chunks"] == 1
    for path, column, said in (
        ("page.md", "content=body", "page.md is none"),
        ("chunks.jsonl", "body", "is not PART=NAME"),
    ):
        refused = shell("sync", path, "--column", column)
        assert refused.code == 2 and said in refused.err
    assert "no part 'contents'" in shell("sync", "chunks.jsonl", "--column", "contents=body").err


def test_a_column_of_tenants_says_how_to_leave_it_out(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "chunks.jsonl").write_text('{"document_id": "a", "content": "Keys rotate.", "tenant_id": "acme"}\n')
    shell("init", "--url", "file:./index")
    refused = shell("sync", "chunks.jsonl")
    assert refused.code == 1
    for said in ("'acme'", "`tenant_id`", "--column tenant= ", "--tenancy required"):
        assert said in refused.err
    halfway = shell("sync", "chunks.jsonl", "--column", "tenant")
    assert halfway.code == 2 and "tenant= to leave" in halfway.err
    assert shell("sync", "chunks.jsonl", "--column", "tenant=").code == 0
    assert shell("documents", "--json").json["documents"][0]["chunks"] == 1


def test_a_source_has_one_name_from_wherever_it_is_synced(
    shell: Shell, fake: FakeCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shelflist.toml").write_text('url = "memory:"\n')
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    shell("sync", "docs")
    monkeypatch.chdir(tmp_path / "docs" / "deep")
    shell("sync", "..")
    shell("sync", "/")
    names = [options["source"] for name, _, options in fake.asked if name == "sync_all"]
    assert names == ["folder:docs", "folder:docs", "folder:/"]


def test_failures_are_named_and_end_with_1(shell: Shell, fake: FakeCollection) -> None:
    failures = [Failure(f"page-{n}.md", "not UTF-8", position=n or None) for n in range(30)]
    fake.answers["sync_all"] = SyncReport(added=2, documents_added=1, failures=failures, warnings=["cut short"])
    result = shell("sync", ".")
    assert result.code == 1
    assert "Failed: page-0.md; page-1.md, chunk 1; page-2.md, chunk 2" in result.err
    assert "and 25 more: not UTF-8" in result.err and "page-25.md" not in result.err
    assert "Warning: cut short" in result.err and "2 added" in result.out
    as_json = shell("sync", ".", "--json")
    assert as_json.code == 1 and as_json.json["failed"] == 30 and len(as_json.json["failures"]) == 30


def test_several_paths_are_passes_of_their_own_and_add_up(shell: Shell, fake: FakeCollection, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    found = shell("sync", "one", "two", "--json").json
    assert found["added"] == 6 and found["documents_added"] == 2 and found["planned"] is False
    assert [part["source"] for part in found["sources"]] == ["folder:one", "folder:two"]
    assert [part["added"] for part in found["sources"]] == [3, 3]


def test_what_failed_is_listed_once(shell: Shell, fake: FakeCollection) -> None:
    failures = [Failure("page.md", "not UTF-8")]
    fake.answers["sync_all"] = SyncReport(added=2, failures=failures, skipped=["a.pdf"], warnings=["cut short"])
    result = shell("sync", ".", "--json")
    found = result.json
    assert [one["document_id"] for one in found["failures"]] == ["page.md"]
    assert (found["skipped"], found["warnings"]) == (["a.pdf"], ["cut short"])
    (part,) = found["sources"]
    assert (part["path"], part["added"], part["failed"]) == (".", 2, 1)
    assert {"failures", "skipped", "warnings"} & set(part) == set()
    assert [result.out.count(once) for once in ("not UTF-8", "a.pdf", "cut short")] == [1, 1, 1]


def test_what_a_sync_passed_over_and_lost_is_said(shell: Shell, fake: FakeCollection) -> None:
    fake.answers["sync_all"] = SyncReport(embedded=3, files_skipped=7, skipped=["README", "b.pdf"])
    lines = shell("sync", ".").out.splitlines()
    assert any(line.startswith("Skipped    7 ") and "README, b.pdf, …" in line for line in lines)
    assert "Another sync wrote the same first." in lines and "up to date" not in "".join(lines)
    fake.answers["sync_all"] = SyncReport(files_skipped=1, skipped=["README"])
    lines = shell("sync", ".").out.splitlines()
    assert any("README (" in line for line in lines) and "Nothing to do: the collection is up to date." in lines
    fake.answers["sync_all"] = SyncReport(added=1)
    assert "Skipped" not in shell("sync", ".").out


def test_a_plan_ends_with_the_command_that_does_it(shell: Shell, fake: FakeCollection, tmp_path: Path) -> None:
    (tmp_path / "my pages").mkdir()
    options = (
        "my pages",
        "--prefix",
        "p/",
        "--exclude",
        "*.txt",
        "--exclude",
        "x",
        "--keep-missing",
        "--allow-removal",
    )
    said = shell("plan", *options, "--url", "memory:").out.partition("Do it with: shelflist ")[2].strip()
    assert said.startswith("sync 'my pages' --prefix p/ --exclude '*.txt' --exclude x --keep-missing --allow-removal")
    assert shell(*shlex.split(said)).code == 0
    assert [name for name, _, _ in fake.asked if name in ("plan", "sync_all")] == ["plan", "sync_all"]
    planned, synced = (options for name, _, options in fake.asked if name in ("plan", "sync_all"))
    assert {key: synced[key] for key in ("source", "delete", "allow_removal")} == {
        key: planned[key] for key in ("source", "delete", "allow_removal")
    }


def test_a_wrong_path_stops_before_anything_is_done(shell: Shell, fake: FakeCollection) -> None:
    result = shell("sync", ".", "nowhere")
    assert result.code == 1 and "nowhere does not exist" in result.err
    assert not fake.was_asked("sync_all")


@pytest.mark.parametrize("command", ["sync", "plan"])
def test_a_path_that_is_no_file_is_there_all_the_same(
    command: str, shell: Shell, fake: FakeCollection, tmp_path: Path
) -> None:
    pipes = ("pipe.md", "rows.jsonl", "rows.ndjson", "rows.parquet")
    for pipe in pipes:
        os.mkfifo(tmp_path / pipe)
    (tmp_path / "page.md").write_text("Keys")
    for place in (os.devnull, *pipes):
        result = shell(command, place)
        assert result.code == 1 and f"{place} is neither a folder nor a regular file" in result.err
        assert "does not exist" not in result.err and "Traceback" not in result.err
    assert fake.asked == []
    assert shell(command, "page.md").code == 0


def test_plan_asks_and_does_nothing(shell: Shell, fake: FakeCollection) -> None:
    result = shell("plan", ".")
    assert "3 would be embedded (90 tokens)" in result.out and "Nothing was done" in result.out
    assert fake.was_asked("plan") and not fake.was_asked("sync_all")
    assert shell("plan", ".", "--json").json["planned"] is True
    fake.answers["plan"] = SyncReport(unchanged=5, documents_unchanged=2)
    result = shell("plan", ".")
    assert "Nothing to do" in result.out and "Do it with" not in result.out
    fake.answers["plan"] = SyncReport(documents_removed=1)
    assert "Do it with" in shell("plan", ".").out


def test_a_refused_removal_is_code_1(shell: Shell, fake: FakeCollection) -> None:
    fake.answers["sync_all"] = RemovalRefused("This pass would delete 9 of 10 documents.")
    assert shell("sync", ".").code == 1


@pytest.mark.parametrize("command", ["sync", "plan"])
def test_what_failed_before_an_error_is_told_before_it(shell: Shell, fake: FakeCollection, command: str) -> None:
    error = RemovalRefused("This pass would delete 9 of 10 documents.")
    fake.answers["sync_all"] = fake.answers["plan"] = error
    assert shell(command, ".").err.splitlines() == [f"Error: {error}"]
    assert shell(command, ".", "--json").json == {"error": str(error), "error_type": "RemovalRefused"}
    error.report = SyncReport(failures=[Failure("keys.md", "A chunk has no text.", 3)])
    result = shell(command, ".")
    assert result.err.splitlines() == ["Failed: keys.md, chunk 3: A chunk has no text.", f"Error: {error}"]
    assert (result.code, result.out) == (1, "")
    result = shell(command, ".", "--json")
    assert result.json["failures"] == [{"document_id": "keys.md", "position": 3, "error": "A chunk has no text."}]
    assert (result.code, result.json["error"], result.err) == (1, str(error), f"Error: {error}\n")


def test_what_failed_of_an_earlier_path_is_told_too(shell: Shell, fake: FakeCollection, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    reports = iter([SyncReport(failures=[Failure("keys.md", "odd")]), RemovalRefused("too many")])

    def sync_all(documents: Any, **options: Any) -> SyncReport:
        report = next(reports)
        if isinstance(report, BaseException):
            raise report
        return report

    fake.sync_all = sync_all  # type: ignore[method-assign]
    assert shell("sync", "first", "second").err.splitlines() == ["Failed: keys.md: odd", "Error: too many"]


def test_a_sync_that_changes_nothing_says_so(shell: Shell, fake: FakeCollection) -> None:
    fake.answers["sync_all"] = SyncReport(unchanged=5, documents_unchanged=2)
    assert "Nothing to do" in shell("sync", ".").out
    fake.answers["sync_all"] = SyncReport(unchanged=5, added=1, documents_changed=1)
    assert "Nothing to do" not in shell("sync", ".").out


def test_the_demo_does_not_write_into_a_folder_that_is_in_use(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "page.md").write_text("mine")
    result = shell("demo", "--keep", "mine")
    assert result.code == 1 and "not empty" in result.err
    assert [one.name for one in (tmp_path / "mine").iterdir()] == ["page.md"]
