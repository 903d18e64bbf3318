"""`init` and `fields`: what stands in shelflist.toml, and what never does."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from fake_collection import FakeCollection, FakeShelf, Shell

from shelflist.core.fields import Fields


def toml(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "shelflist.toml").read_text(encoding="utf-8"))


def test_init_creates_the_collection_and_writes_what_it_was_told(
    shell: Shell, shelf: FakeShelf, tmp_path: Path
) -> None:
    result = shell("init", "--url", "file:./index", "--field", "page_number=int", "--field", "tags=list[str]",
                   "--collection", "pages", "--tenancy", "required", "--embedder", "static")  # fmt: skip
    assert result.code == 0 and "shelflist sync" in result.out
    fields = {"page_number": "int", "tags": "list[str]"}
    assert toml(tmp_path) == {
        "url": "file:./index",
        "collection": "pages",
        "embedder": "static",
        "tenancy": "required",
        "fields": fields,
    }
    ((url, name, options),) = shelf.opened
    assert (url, name) == (f"file:{tmp_path}/index", "pages")
    assert options == {"ledger": None, "fields": fields, "tenancy": "required", "embedder": "static"}


def test_init_again_changes_nothing(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    arguments = ("init", "--url", "file:./index", "--field", "page=int")
    assert shell(*arguments, "--json").json["file_written"] is True
    before = (tmp_path / "shelflist.toml").read_bytes()
    assert shell(*arguments, "--json").json["file_written"] is False
    assert (tmp_path / "shelflist.toml").read_bytes() == before


def test_a_clone_with_a_file_needs_no_options(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    (tmp_path / "shelflist.toml").write_text('url = "file:./index"\ncollection = "pages"\nfields = {page = "int"}\n')
    assert shell("init").code == 0
    ((url, name, options),) = shelf.opened
    assert (url, name, options["fields"]) == (f"file:{tmp_path}/index", "pages", {"page": "int"})


def test_another_file_is_not_replaced_without_force(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    (tmp_path / "shelflist.toml").write_text('url = "file:./index"\n[fields]\npage = "int"\n')
    refused = shell("init", "--url", "file:./other")
    assert refused.code == 1 and "--force" in refused.err and "url is" in refused.err
    assert toml(tmp_path)["url"] == "file:./index" and not shelf.opened
    assert shell("init", "--url", "file:./other", "--force").code == 0
    assert toml(tmp_path) == {"url": "file:./other", "collection": "docs"}


def test_a_broken_file_is_named_and_can_be_replaced(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    (tmp_path / "shelflist.toml").write_text("url = \n")
    broken = shell("init", "--url", "file:./index")
    assert broken.code == 1 and "line 1" in broken.err
    assert shell("init", "--url", "file:./index", "--force").code == 0
    assert toml(tmp_path)["url"] == "file:./index"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("collection = [\n", {"url": "file:./index", "collection": "docs"}),
        ('url = "file:./my shelf\ncollection = "pages"\n', {"url": "file:./my shelf", "collection": "pages"}),
        ("url = 'memory:'\nmetric = cosine\n", {"url": "file:./index", "collection": "docs"}),
        (
            'url = "qdrant://h:6333"\nledger = "sqlite:./l.db"\nmetric = cosine\n',
            {"url": "qdrant://h:6333", "collection": "docs", "ledger": "sqlite:./l.db"},
        ),
    ],
)
def test_what_is_said_of_a_broken_file_works_when_pasted(
    shell: Shell, shelf: FakeShelf, tmp_path: Path, text: str, written: dict[str, Any]
) -> None:
    (tmp_path / "shelflist.toml").write_text(text)
    hint = shell("search", "keys").err.partition("with: shelflist ")[2]
    assert shell(*shlex.split(hint)).code == 0
    assert toml(tmp_path) == written


def test_force_without_a_url_does_not_deny_the_broken_file(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    assert "there is no shelflist.toml" in shell("init", "--force").err
    (tmp_path / "shelflist.toml").write_text('url = "pgvector://me:hush@h/d"\nmetric = cosine\n')
    refused = shell("init", "--force")
    assert refused.code == 1 and "there is no" not in refused.err and "hush" not in refused.err
    assert "shelflist init --force --url 'pgvector://me:***@h/d'" in refused.err


def test_a_file_further_up_belongs_to_another_collection(
    shell: Shell, shelf: FakeShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shelflist.toml").write_text('url = "file:./index"\ncollection = "outer"\n')
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert shell("init").code == 1
    assert shell("init", "--url", "file:./index").code == 0
    assert toml(tmp_path / "inner") == {"url": "file:./index", "collection": "docs"}


def test_the_environment_can_say_where(
    shell: Shell, shelf: FakeShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELFLIST_URL", "file:index")
    assert shell("init").code == 0
    assert toml(tmp_path)["url"] == "file:./index"


def test_a_secret_is_used_and_never_written_or_shown(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    result = shell("init", "--url", "pgvector://ada:hidden@db/x")
    assert result.code == 0
    assert shelf.opened[0][0] == "pgvector://ada:hidden@db/x"
    assert "url" not in toml(tmp_path)
    assert "SHELFLIST_URL" in result.err
    assert "hidden" not in result.out + result.err + (tmp_path / "shelflist.toml").read_text()


def test_given_vectors_declare_their_space(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    space = ("--embedder", "none", "--fingerprint", "model", "--dimensions", "384")
    assert shell("init", "--url", "file:./index", *space).code == 0
    options = shelf.opened[0][2]
    assert options["embedder"] is None and options["fingerprint"] == "model" and options["dimensions"] == 384
    assert toml(tmp_path)["embedder"] == "none"
    shell("count")
    assert shelf.opened[1][2]["embedder"] is None


def test_a_field_that_cannot_be_is_wrong_usage(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    shelf.collections["pages"] = FakeCollection("pages")
    for given, said in (("page=integer", "list[str]"), ("page", "NAME=TYPE"), ("my-page=int", "not an identifier")):
        result = shell("init", "--url", "file:./index", "--field", given)
        assert result.code == 2 and "'--field'" in result.err and said in result.err
        assert not (tmp_path / "shelflist.toml").exists()
    place = ("--url", "file:./index", "--collection", "pages")
    wrong = shell("fields", "add", "page", "integer", *place)
    assert wrong.code == 2 and "'NAME TYPE'" in wrong.err and "list[str]" in wrong.err
    assert shelf.collections["pages"].asked == []
    assert shell("fields", "add", "page", "int", *place).code == 0
    assert shell("init", "--url", "file:./index", "--field", "page=int").code == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('url = "memory:"\n', {"language": "str"}),
        ('url = "memory:"\n\n[fields]  # mine\npage = "int"\n', {"language": "str", "page": "int"}),
        ('url = "memory:"\n[fields]', {"language": "str"}),
    ],
)
def test_an_added_field_is_added_to_the_file(
    shell: Shell, shelf: FakeShelf, tmp_path: Path, before: str, after: dict[str, str]
) -> None:
    shelf.collections["docs"] = FakeCollection("docs", fields=Fields({"page": "int"}))
    (tmp_path / "shelflist.toml").write_text(before)
    result = shell("fields", "add", "language", "str")
    assert result.code == 0 and "shelflist.toml" in result.out
    assert toml(tmp_path)["fields"] == after
    assert all(line in (tmp_path / "shelflist.toml").read_text() for line in before.splitlines())


def test_a_file_that_cannot_be_edited_safely_is_left_alone(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    shelf.collections["docs"] = FakeCollection("docs")
    text = 'url = "memory:"\nfields = {page = "int"}\n'
    (tmp_path / "shelflist.toml").write_text(text)
    result = shell("fields", "add", "language", "str")
    assert result.code == 0 and 'language = "str"' in result.err
    assert (tmp_path / "shelflist.toml").read_text() == text


def test_a_file_of_another_collection_is_not_edited(shell: Shell, shelf: FakeShelf, tmp_path: Path) -> None:
    shelf.collections["other"] = FakeCollection("other")
    (tmp_path / "shelflist.toml").write_text('url = "memory:"\n')
    assert shell("fields", "add", "language", "str", "--collection", "other").code == 0
    assert "fields" not in toml(tmp_path)


def test_a_file_that_declares_more_than_the_collection_is_a_warning(
    shell: Shell, shelf: FakeShelf, tmp_path: Path
) -> None:
    shelf.collections["docs"] = FakeCollection("docs", fields=Fields({"page": "int"}))
    (tmp_path / "shelflist.toml").write_text('url = "memory:"\n[fields]\npage = "int"\n')
    assert shell("count").err == ""
    (tmp_path / "shelflist.toml").write_text('url = "memory:"\n[fields]\npage = "str"\nlanguage = "str"\n')
    result = shell("count")
    assert result.code == 0
    assert "shelflist fields add language str" in result.err and "'page' as str" in result.err
