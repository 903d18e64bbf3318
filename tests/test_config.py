"""Settings and URLs: precedence, what a shelflist.toml may say, and that no secret is ever shown."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from shelflist.config import Settings, find_file, has_secret, parse_url, read_file, redact, render_file, without_secrets
from shelflist.core.errors import ConfigError


def test_a_relative_file_url_keeps_its_path_and_query() -> None:
    url = parse_url("file:./index?busy_timeout=5")
    assert (url.scheme, url.path, url.query, url.raw) == (
        "file",
        "./index",
        {"busy_timeout": "5"},
        "file:./index?busy_timeout=5",
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:index", "index"),
        ("file:/abs/index", "/abs/index"),
        ("file:///abs/index", "/abs/index"),
        ("file://localhost/abs", "/abs"),
        ("FILE:./index", "./index"),
        ("file:my%20index", "my index"),
        ("file:a@b:c", "a@b:c"),
        ("sqlite:./ledger.db", "./ledger.db"),
        ("sqlite:/srv/ledger.db", "/srv/ledger.db"),
    ],
)
def test_file_urls_name_a_directory(text: str, path: str) -> None:
    assert parse_url(text).path == path


def test_the_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert parse_url("file:~/index").path == "/home/ada/index"
    assert parse_url("file:~ada").path == "~ada"


def test_memory_has_no_path() -> None:
    assert (parse_url("memory:").scheme, parse_url("memory:").path) == ("memory", "")


def test_a_server_url_in_its_parts() -> None:
    url = parse_url("pgvector://ada:s%40cret@db.example:5433/library?sslmode=require")
    assert (url.scheme, url.host, url.port, url.path) == ("pgvector", "db.example", 5433, "library")
    assert (url.username, url.password, url.query) == ("ada", "s@cret", {"sslmode": "require"})
    assert url.raw.count("s%40cret") == 1


def test_a_server_url_without_credentials() -> None:
    url = parse_url("qdrant://localhost:6333?grpc_port=6334&tls=1")
    assert (url.host, url.port, url.username, url.password) == ("localhost", 6333, None, None)
    assert url.query == {"grpc_port": "6334", "tls": "1"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "file:./index"),
        ("   ", "file:./index"),
        ("./index", "file:./index"),
        ("/srv/index", "file:/srv/index"),
        ("C:\\index", "no scheme"),
        ("file:", "names no place"),
        ("sqlite:", "names no place"),
        ("file://server/share", "names no host"),
        ("file:./a%00b", "NUL"),
        ("qdrant://h?tls", "name=value"),
        ("qdrant://h?tls=1&tls=0", "'tls' twice"),
    ],
)
def test_what_is_no_url_is_refused_with_a_next_step(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?").replace(".", r"\.")):
        parse_url(text)


def test_a_bad_port_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="port"):
        _ = parse_url("qdrant://host:many").port


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pgvector://ada:hidden@db/x", "pgvector://ada:***@db/x"),
        ("pgvector://ada:hid/den@db/x", "pgvector://ada:***@db/x"),
        ("pgvector://ada:hid?den@db/x", "pgvector://ada:***@db/x"),
        ("pgvector://ada:hid@den@db/x", "pgvector://ada:***@db/x"),
        ("pgvector://ada@db/x", "pgvector://ada@db/x"),
        ("qdrant://h?api_key=hidden&tls=1", "qdrant://h?api_key=***&tls=1"),
        ("pgvector:///x?host=/run&password=hidden", "pgvector:///x?host=/run&password=***"),
        ("pgvector://h/x?sslpassword=hidden", "pgvector://h/x?sslpassword=***"),
        ("host=h password='hid den' dbname=x", "host=h password=*** dbname=x"),
        ("milvus://h?token=hidden", "milvus://h?token=***"),
        ("file:./me@home", "file:./me@home"),
        ("qdrant://h:6333", "qdrant://h:6333"),
        ("memory:", "memory:"),
    ],
)
def test_secrets_are_never_shown(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert has_secret(text) == ("hid" in text)


def test_neither_repr_nor_error_shows_a_secret() -> None:
    url = parse_url("pgvector://ada:hidden@db/x?password=hidden2")
    settings = Settings(url=url.raw, ledger="pgvector://ada:hidden@db/y")
    for text in (repr(url), str(url), f"{url}", repr(settings), str(settings)):
        assert "hidden" not in text and "ada" in text
    with pytest.raises(ConfigError) as caught:
        parse_url("qdrant://ada:hidden@h?tls")
    assert "hidden" not in str(caught.value)


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "shelflist.toml"
    path.write_text(text, encoding="utf-8")
    return path


FULL = """
url = "file:./index"
collection = "pages"
ledger = "sqlite:ledger.db"
embedder = "static"
tenancy = "required"
metric = "dot"

[fields]
page_number = "int"
tags = "list[str]"
"""


def test_a_file_states_everything_and_its_urls_count_from_its_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "project", FULL)
    below = tmp_path / "project" / "docs" / "deep"
    below.mkdir(parents=True)
    settings = Settings.resolve(environ={}, directory=below)
    assert settings.url == f"file:{tmp_path}/project/index"
    assert settings.ledger == f"sqlite:{tmp_path}/project/ledger.db"
    assert (settings.collection, settings.embedder, settings.tenancy, settings.metric) == (
        "pages",
        "static",
        "required",
        "dot",
    )
    assert settings.fields == {"page_number": "int", "tags": "list[str]"}
    assert settings.file == path and settings.described


def test_flags_win_over_environment_and_environment_over_file(tmp_path: Path) -> None:
    write(tmp_path, 'url = "file:one"\ncollection = "from-file"\n')
    environ = {"SHELFLIST_COLLECTION": "from-env", "SHELFLIST_TENANT": "acme", "SHELFLIST_URL": ""}
    by_file = Settings.resolve({}, environ={}, directory=tmp_path)
    by_env = Settings.resolve({"collection": None}, environ=environ, directory=tmp_path)
    by_flag = Settings.resolve({"collection": "from-flag"}, environ=environ, directory=tmp_path)
    assert [s.collection for s in (by_file, by_env, by_flag)] == ["from-file", "from-env", "from-flag"]
    assert [s.tenant for s in (by_file, by_env, by_flag)] == [None, "acme", "acme"]
    assert by_env.url == by_file.url == f"file:{tmp_path}/one"


def test_every_environment_variable_is_read(tmp_path: Path) -> None:
    environ = {
        "SHELFLIST_URL": "memory:",
        "SHELFLIST_COLLECTION": "c",
        "SHELFLIST_LEDGER": "file:/l",
        "SHELFLIST_EMBEDDER": "static",
        "SHELFLIST_TENANT": "t",
    }
    settings = Settings.resolve(environ=environ, directory=tmp_path)
    assert (settings.url, settings.collection, settings.ledger, settings.embedder, settings.tenant) == (
        "memory:",
        "c",
        "file:/l",
        "static",
        "t",
    )


def test_a_relative_flag_counts_from_here_not_from_the_file(tmp_path: Path) -> None:
    write(tmp_path, 'url = "file:./index"\n')
    (tmp_path / "sub").mkdir()
    settings = Settings.resolve({"url": "file:./index"}, environ={}, directory=tmp_path / "sub")
    assert settings.url == f"file:{tmp_path}/sub/index"


def test_what_a_file_says_of_its_collection_says_nothing_of_another(tmp_path: Path) -> None:
    write(tmp_path, FULL)
    same = Settings.resolve({"collection": "pages"}, environ={}, directory=tmp_path)
    other = Settings.resolve({"collection": "other"}, environ={}, directory=tmp_path)
    assert same.described and same.tenancy == "required"
    assert not other.described
    assert (other.tenancy, other.metric, other.fields, other.embedder) == (None, None, None, None)
    assert other.url == same.url


def test_a_folder_with_odd_characters_survives_the_way_through_a_url(tmp_path: Path) -> None:
    folder = tmp_path / "50% off? yes"
    write(folder, 'url = "file:./my index"\n')
    settings = Settings.resolve(environ={}, directory=folder)
    assert settings.url is not None
    assert parse_url(settings.url).path == str(folder / "my index")
    assert parse_url(settings.url).query == {}


def test_the_nearest_file_wins(tmp_path: Path) -> None:
    write(tmp_path, 'collection = "outer"\n')
    write(tmp_path / "inner", 'collection = "inner"\n')
    assert find_file(tmp_path / "inner") == tmp_path / "inner" / "shelflist.toml"
    (tmp_path / "beside").mkdir()
    assert find_file(tmp_path / "beside") == tmp_path / "shelflist.toml"


def test_a_given_base_stands_in_for_the_file(tmp_path: Path) -> None:
    write(tmp_path, 'collection = "by-file"\nfields = {page = "int"}\n')
    assert Settings.resolve(environ={}, directory=tmp_path).fields == {"page": "int"}
    given = Settings.resolve({"url": "memory:"}, environ={}, directory=tmp_path, base=Settings())
    assert (given.collection, given.fields, given.url) == ("docs", None, "memory:")


def test_without_any_file_the_collection_is_docs_and_the_url_is_asked_for(tmp_path: Path) -> None:
    settings = Settings.resolve(environ={}, directory=tmp_path)
    assert (settings.collection, settings.url, settings.file) == ("docs", None, None)
    with pytest.raises(ConfigError, match="shelflist init --url"):
        settings.require_url()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('colection = "x"\n', "unknown key 'colection'. Did you mean 'collection'"),
        ('zzz = "x"\n', "unknown key 'zzz'. Known keys: url"),
        ('url = "file:x"\ncollection = \n', "line 2"),
        ("url = 3\n", "url is a text in quotes, not 3"),
        ('collection = ""\n', "collection is a text"),
        ('tenancy = "maybe"\n', "tenancy is one of none, required"),
        ('metric = "manhattan"\n', "metric is one of cosine, dot, l2"),
        ("dimensions = 0\n", "dimensions is a whole number"),
        ("dimensions = true\n", "dimensions is a whole number"),
        ('fields = "int"\n', "fields is a table"),
        ('[fields]\npage = "integer"\n', "'integer' is not a field type"),
        ('[fields]\n"page number" = "int"\n', "not an identifier"),
        ('url = "index"\n', "url: 'index' has no scheme"),
    ],
)
def test_a_bad_file_is_refused_and_named(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        Settings.resolve(environ={}, directory=tmp_path)
    assert str(path) in str(caught.value) and said in str(caught.value)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shelflist.toml").write_bytes(b'url = "\xff"')
    with pytest.raises(ConfigError, match="UTF-8"):
        Settings.resolve(environ={}, directory=tmp_path)


def test_a_written_file_reads_back(tmp_path: Path) -> None:
    wanted = Settings(
        url='file:/srv/a "b"\\c\t\x7f',
        collection="öffentlich",
        embedder="none",
        fingerprint="model",
        dimensions=384,
        fields={"page_number": "int", "tags": "list[str]"},
    )
    text = render_file(wanted)
    assert tomllib.loads(text)["url"] == wanted.url
    read = read_file(write(tmp_path, text))
    for key in ("collection", "embedder", "fingerprint", "dimensions", "fields", "tenancy", "metric"):
        assert getattr(read, key) == getattr(wanted, key)


@pytest.mark.parametrize(
    "url",
    [
        "pgvector://alice:Sek@ret99@127.0.0.1:5432/db",
        "chroma://u:se#cret99@h:1",
        "chroma://u:se/cret99@h:1",
        "postgresql://u:se?cret99@h/db",
    ],
)
def test_a_password_with_a_bare_sign_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="%40") as refused:
        parse_url(url)
    assert "ret99" not in str(refused.value)
    assert parse_url("pgvector://alice:Sek%40ret@h:5432/db").password == "Sek@ret"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Incorrect API key: sk-proj-abcDEF123456", "Incorrect API key: ***"),
        ("401 for Authorization: Bearer abc.def.ghi", "401 for Authorization: Bearer ***"),
        ("{'api_key': 'hunter2', 'model': 'm'}", "{'api_key': '***', 'model': 'm'}"),
        ("GET https://h/v1?api_key=hunter2&n=1", "GET https://h/v1?api_key=***&n=1"),
        ("no route to https://user:hunter2@host/v1", "no route to https://user:***@host/v1"),
        ("password=hunter2 refused", "password=*** refused"),
        ("8192 tokens: too many; risk-averse-wording stays", "8192 tokens: too many; risk-averse-wording stays"),
        ("unexpected token: '}' at https://host:80/v1", "unexpected token: '}' at https://host:80/v1"),
    ],
)
def test_messages_of_foreign_code_show_no_secret(message: str, shown: str) -> None:
    assert without_secrets(message) == shown
