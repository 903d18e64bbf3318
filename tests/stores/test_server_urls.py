"""What the URL of a server says, and where its API key comes from: no message shows a secret."""

from __future__ import annotations

import pytest

from shelflist.config import parse_url
from shelflist.core.errors import ConfigError, UnknownStore
from shelflist.postgres import database_from_url
from shelflist.stores._connect import Server, server
from shelflist.stores.registry import open_store

SECRET = "topsecret"
SERVERS = ("qdrant", "weaviate", "milvus", "chroma")
URLS = ("qdrant://h", "weaviate://h", "milvus://h", "chroma://h", "chroma:./here", "milvus:./index.db", "qdrnt://h")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHELFLIST_API_KEY", *(f"SHELFLIST_{scheme.upper()}_API_KEY" for scheme in SERVERS)):
        monkeypatch.delenv(name, raising=False)


def read(url: str, *, users: bool = False) -> Server:
    return server(parse_url(url), port=1, users=users)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("option", ["auth", "bearer", "pw"])
def test_the_value_of_a_mistyped_option_is_not_shown(url: str, option: str) -> None:
    with pytest.raises((ConfigError, UnknownStore)) as caught:
        open_store(parse_url(f"{url}?{option}={SECRET}"))
    assert SECRET not in str(caught.value) and url.partition("?")[0] in str(caught.value)


@pytest.mark.parametrize("scheme", SERVERS)
@pytest.mark.parametrize("key", [f"top\n{SECRET}", f"{SECRET}\u00e9", f"{SECRET}\x7f", f"\u2028{SECRET}\u200b"])
def test_a_key_that_no_header_can_carry_is_refused_before_anything_is_sent(
    scheme: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELFLIST_API_KEY", key)
    with pytest.raises(ConfigError, match="printable ASCII") as caught:
        open_store(parse_url(f"{scheme}://h"))
    assert SECRET not in str(caught.value) and f"SHELFLIST_{scheme.upper()}_API_KEY" in str(caught.value)


@pytest.mark.parametrize(
    ("host", "address"),
    [("[::1]:7", "x://[::1]:7"), ("[::1]", "x://[::1]:1"), ("h:7", "x://h:7"), ("127.0.0.1", "x://127.0.0.1:1")],
)
def test_an_address_of_ipv6_is_shown_in_brackets(host: str, address: str) -> None:
    assert read(f"qdrant://{host}").address == address.replace("x", "qdrant")
    pytest.importorskip("psycopg")
    shown = database_from_url(parse_url(f"pgvector://user:{SECRET}@{host}/docs")).address
    assert shown == f"pgvector://{host}/docs"
    several = parse_url("postgresql:///docs?host=::1,db.internal")
    assert database_from_url(several).address == "postgresql://[::1],db.internal/docs"


@pytest.mark.parametrize("key", [SECRET, f"{SECRET}\n", f" {SECRET} ", f"{SECRET}\r\n"])
def test_the_space_around_a_key_is_no_part_of_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELFLIST_API_KEY", key)
    assert read("qdrant://h").api_key == SECRET


def test_a_password_beside_a_user_is_left_as_it_is() -> None:
    assert read("milvus://root:p%C3%A4ss%20@h", users=True).api_key == "p\u00e4ss "
    with pytest.raises(ConfigError, match="printable ASCII"):
        read("qdrant://root:p%C3%A4ss@h")


def test_a_store_s_own_key_goes_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELFLIST_QDRANT_API_KEY", "for qdrant")
    assert read("qdrant://h").api_key == "for qdrant"
    assert read("weaviate://h").api_key is None
    monkeypatch.setenv("SHELFLIST_API_KEY", "for all")
    assert read("qdrant://h").api_key == "for qdrant"
    assert read("weaviate://h").api_key == "for all"
    assert read("qdrant://h?api_key=given").api_key == "given"
    assert read("qdrant://:word@h").api_key == "word"
    monkeypatch.setenv("SHELFLIST_QDRANT_API_KEY", " ")
    assert read("qdrant://h").api_key is None


def test_what_a_server_repeats_is_hidden() -> None:
    there = read("qdrant://h?api_key=it%27s%5Csecret")
    assert there.api_key == "it's\\secret"
    assert there.hidden("key it's\\secret is wrong") == "key *** is wrong"
    assert "secret" not in there.hidden(f"illegal value {there.api_key!r}")
    assert read("qdrant://h").hidden("nothing") == "nothing"
