"""Where the index is and how it is made: URLs, and settings from flags, the environment and shelflist.toml.

The order is flags, then environment, then the nearest shelflist.toml. Secrets never reach a message or a repr.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from shelflist.core.errors import ConfigError
from shelflist.core.fields import Fields

FILE_NAME = "shelflist.toml"
DEFAULT_COLLECTION = "docs"
INDEX_DATABASE, INDEX_KEYWORDS, INDEX_VECTORS = "shelflist.db", "keywords", "vectors"
"""What stands in the directory of a `file:` index."""
ENVIRONMENT = MappingProxyType(
    {
        "url": "SHELFLIST_URL",
        "collection": "SHELFLIST_COLLECTION",
        "ledger": "SHELFLIST_LEDGER",
        "embedder": "SHELFLIST_EMBEDDER",
        "tenant": "SHELFLIST_TENANT",
    }
)
_TEXT_KEYS = ("url", "collection", "ledger", "embedder", "tenancy", "metric", "index", "fingerprint")
_FILE_KEYS = (*_TEXT_KEYS, "dimensions", "fields")
_DESCRIPTION = ("embedder", "tenancy", "metric", "index", "fingerprint", "dimensions", "fields")
_CHOICES = {"tenancy": ("none", "required"), "metric": ("cosine", "dot", "l2")}

_PATH_SCHEMES = ("file", "sqlite")
_PATH_OR_SERVER = ("chroma", "milvus")
"""`scheme://` names a server, `scheme:` a directory of this machine."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_SECRET_KEY = re.compile(r"(^|[_-])(pass|pwd|secret|token|key|apikey|credential)|password", re.IGNORECASE)
_USER_INFO = re.compile(r"(://[^\s/:@]*:)[^\s@]+@")
_NAMED_SECRET = re.compile(
    r"""(?i)(\b[\w-]*(?:api[_-]?key|password|passwd|pwd|secret|(?:access|auth|api|refresh|session|id)[_-]?token|\btoken)"""
    r"""["']?\s*(?:=|:)\s*["']?)(?!\*\*\*|Bearer\b|Basic\b)[^\s"'&;,)}\]]+"""
)
_BARE_SECRET = re.compile(
    r"\b((?:Bearer|Basic)\s+)[\w.~+/=-]{6,}|\b(?:sk|pk|rk|hf|gsk|xai|ghp|gho|pat)[-_][\w-]{8,}|\bAIza[\w-]{20,}|\beyJ[\w-]+\.[\w.-]+"
)
_PAIR = re.compile(r"(?<![^?&;\s])([\w.-]+)=('[^']*'|[^&;\s]*)")


@dataclass(frozen=True, slots=True, repr=False)
class StoreUrl:
    """A URL in its parts. `repr` and `str` hide passwords and tokens; `raw` is the whole secret text.

    `path` is the directory for `file:` and `chroma:` without `//`, the file for `sqlite:` (decoded, `~` expanded,
    relative to the working directory), the path part of any other URL without its leading slash. `netloc` is `user:password@host:port` as it
    was written.
    """

    scheme: str
    path: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    raw: str = ""
    netloc: str = ""

    @property
    def host(self) -> str | None:
        return urlsplit(f"//{self.netloc}").hostname

    @property
    def port(self) -> int | None:
        try:
            return urlsplit(f"//{self.netloc}").port
        except ValueError as error:
            raise ConfigError(f"{self} has no usable port: {error}.") from None

    @property
    def username(self) -> str | None:
        name = urlsplit(f"//{self.netloc}").username
        return unquote(name) if name is not None else None

    @property
    def password(self) -> str | None:
        secret = urlsplit(f"//{self.netloc}").password
        return unquote(secret) if secret is not None else None

    @property
    def bare(self) -> str:
        """For messages about options: the URL without them. Nobody can tell whether a mistyped one's value is a secret."""
        return str(self).partition("?")[0]

    def __str__(self) -> str:
        return redact(self.raw)

    def __repr__(self) -> str:
        return f"StoreUrl({str(self)!r})"


def parse_url(url: str) -> StoreUrl:
    """The parts of a store or ledger URL: `file:./index`, `memory:`, `qdrant://host:6333?grpc_port=6334`, …

    Raises ConfigError if the text is no URL. Whether a store answers to the scheme is for the caller to say.
    """
    if not isinstance(url, str) or not url.strip():
        raise ConfigError("The URL of the index is empty. Give one, for example file:./index")
    url = url.strip()
    found = _SCHEME.fullmatch(url)
    if found is None:
        raise ConfigError(f"{redact(url)!r} has no scheme. For a directory on this machine write: file:{redact(url)}")
    scheme, rest = found[1].lower(), found[2]
    rest, _, query_text = rest.partition("?")
    if scheme not in _PATH_SCHEMES:
        _require_escaped(scheme, rest, query_text)
    query = _parse_query(url, query_text)
    if scheme in _PATH_SCHEMES or (scheme in _PATH_OR_SERVER and not rest.startswith("//")):
        return StoreUrl(scheme, _file_path(url, rest), query, url)
    netloc = ""
    if rest.startswith("//"):
        netloc, _, rest = rest[2:].partition("/")
    return StoreUrl(scheme, unquote(rest).removeprefix("/"), query, url, netloc)


def in_brackets(host: str) -> str:
    """A host as it stands in a URL: an address of IPv6 in brackets, or its end would be read as a port."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def require_no_options(place: StoreUrl) -> None:
    """ConfigError if the URL of a place that has no options gives one."""
    if place.query:
        name = next(iter(place.query))
        raise ConfigError(
            f"{place.bare} has an option {name!r} that is not known: {place.scheme}: has none. Leave it out; a '?' that "
            "belongs to a path is written %3F."
        )


def require_no_file(directory: Path, what: str) -> None:
    """ConfigError if a file stands where the directory is, or is to be made. `what` is for the message: The index."""
    for place in (directory, *directory.parents):
        if os.path.isdir(place):
            return
        if os.path.lexists(place):
            inside = "" if place == directory else f", so {directory} cannot be in it"
            raise ConfigError(
                f"{what} is to be in a directory, and {place} is a file{inside}. Name another directory, or move the file "
                "away."
            )


def _require_escaped(scheme: str, rest: str, query: str) -> None:
    """A password with a bare "@", "/", "#" or "?" would be cut, and its end taken for the host, and shown."""
    if not rest.startswith("//"):
        return
    netloc = re.split(r"[/#]", rest[2:], maxsplit=1)[0]
    cut_short = "@" not in netloc and re.search(r":\D", netloc) is not None and "@" in rest[2:] + query
    if netloc.count("@") > 1 or ("@" in rest[2:] and "@" in rest[2 + len(netloc) :]) or cut_short or "#" in rest:
        raise ConfigError(
            f"The user or password in the {scheme}: URL holds a character that must be escaped: write @ as %40, / as %2F, "
            "# as %23, ? as %3F, % as %25."
        )


def _parse_query(url: str, text: str) -> dict[str, str]:
    query: dict[str, str] = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
    except ValueError:
        raise ConfigError(f"{redact(url)}: what follows '?' is not name=value, joined by '&'.") from None
    for name, value in pairs:
        if name in query:
            raise ConfigError(f"{redact(url)} gives {name!r} twice. Keep one of them.")
        query[name] = value
    return query


def _file_path(url: str, rest: str) -> str:
    if rest.startswith("//"):
        host, slash, rest = rest[2:].partition("/")
        if host not in ("", "localhost"):
            raise ConfigError(
                f"{url}: it names no host. For a relative path write: {url.partition(':')[0]}:{host}{slash}{rest}"
            )
        rest = slash + rest
    path = unquote(rest)
    if not path:
        raise ConfigError(f"{url} names no place. Write for example: {url.partition(':')[0]}:./index")
    if "\0" in path:
        raise ConfigError(f"{url!r} holds a NUL character, which no path can.")
    if path == "~" or path.startswith("~/"):
        path = os.path.expanduser(path)
    return path


def redact(url: str) -> str:
    """The URL with passwords, tokens and keys replaced by `***`, for messages and logs."""
    scheme, _, rest = url.partition(":")
    if scheme.lower() != "file" and "@" in rest:
        # Up to the last "@", wherever it stands: a password with an unescaped "/" or "?" must not slip through.
        before, _, after = url.rpartition("@")
        start, slashes, user_info = before.rpartition("://")
        user, colon, _ = user_info.partition(":")
        url = f"{start}{slashes}{user}{colon and ':***'}@{after}"
    return _PAIR.sub(_redact_pair, url)


def without_secrets(text: str) -> str:
    """A message of foreign code with what looks like a key, token or password replaced by `***`."""
    text = _USER_INFO.sub(r"\1***@", text)
    text = _NAMED_SECRET.sub(r"\1***", text)
    return _BARE_SECRET.sub(lambda found: f"{found[1] or ''}***", text)


def _redact_pair(found: re.Match[str]) -> str:
    return f"{found[1]}=***" if found[2] and _SECRET_KEY.search(found[1]) else found[0]


def has_secret(url: str) -> bool:
    """Whether the URL carries a password, token or key that should not be written to a file."""
    return redact(url) != url


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """What a surface needs to open a collection; None: not said. `file` is the shelflist.toml that was read."""

    url: str | None = None
    collection: str = DEFAULT_COLLECTION
    ledger: str | None = None
    embedder: str | None = None
    tenant: str | None = None
    tenancy: str | None = None
    metric: str | None = None
    index: str | None = None
    fingerprint: str | None = None
    dimensions: int | None = None
    fields: Mapping[str, str] | None = None
    file: Path | None = None
    described: bool = False
    """Whether the file describes the collection in use: false when flag or environment point somewhere else."""

    @classmethod
    def resolve(
        cls,
        flags: Mapping[str, Any] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
        base: Settings | None = None,
    ) -> Settings:
        """Settings by precedence: `flags` (None: not given), environment, `base` or else the nearest shelflist.toml.

        Relative `file:` URLs of a shelflist.toml count from its folder, those of flags and environment from here.
        Raises ConfigError for an unreadable file, an unknown key or a value of the wrong type.
        """
        environ = os.environ if environ is None else environ
        directory = Path.cwd() if directory is None else directory
        if base is None:
            path = find_file(directory)
            base = cls() if path is None else read_file(path)
        given: dict[str, Any] = {
            key: environ[variable] for key, variable in ENVIRONMENT.items() if environ.get(variable, "").strip()
        }
        given.update({key: value for key, value in (flags or {}).items() if value is not None})
        for key in ("url", "ledger"):
            if key in given:
                given[key] = _resolved_from(directory, given[key])
        settings = replace(base, **given)
        elsewhere = any(getattr(settings, key) != getattr(base, key) for key in ("url", "collection", "ledger"))
        if base.file is None or elsewhere:
            # What a file says of its own collection says nothing of another one.
            unsaid: dict[str, Any] = {key: given.get(key) for key in _DESCRIPTION}
            settings = replace(settings, described=False, **unsaid)
        return settings

    def require_url(self) -> str:
        if self.url is None and self.file is not None:
            raise ConfigError(
                f"{self.file} names no url; one that holds a secret is not written there. Set SHELFLIST_URL, or give --url."
            )
        if self.url is None:
            raise ConfigError(
                f"No index is named: there is no {FILE_NAME} here or above. Create one with: "
                "shelflist init --url file:./index  (or give --url, or set SHELFLIST_URL)"
            )
        return self.url

    def __repr__(self) -> str:
        parts = []
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None:
                parts.append(f"{one.name}={redact(value) if one.name in ('url', 'ledger') else value!r}")
        return f"Settings({', '.join(parts)})"


def find_file(directory: Path) -> Path | None:
    """The nearest shelflist.toml, in `directory` or in the folders above it."""
    directory = directory.resolve()
    for folder in (directory, *directory.parents):
        candidate = folder / FILE_NAME
        if candidate.is_file():
            return candidate
    return None


def read_file(path: Path) -> Settings:
    """The settings that a shelflist.toml states. Raises ConfigError naming file and line or key."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}. Correct that line, or write the file anew, in its folder, with: {command_anew(path)}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    for key in data:
        if key not in _FILE_KEYS:
            near = difflib.get_close_matches(key, _FILE_KEYS, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{path}: unknown key {key!r}.{hint} Known keys: {', '.join(_FILE_KEYS)}")
    values = {key: _text_value(path, key, data[key]) for key in _TEXT_KEYS if key in data}
    for key in ("url", "ledger"):
        if key in values:
            try:
                values[key] = _resolved_from(path.parent, values[key])
            except ConfigError as error:
                raise ConfigError(f"{path}: {key}: {error}") from None
    if "index" in values:
        from shelflist.core.index_text import index_text, parse_index

        try:
            values["index"] = index_text(parse_index(values["index"]))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    dimensions = data.get("dimensions")
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1):
        raise ConfigError(f"{path}: dimensions is a whole number from 1 up, not {dimensions!r}.")
    declared = data.get("fields")
    return Settings(**values, dimensions=dimensions, fields=_declared(path, declared), file=path, described=True)


def command_anew(path: Path) -> str:
    """The command that writes a shelflist.toml anew, about the place that the one there names, as far as that can be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    words = ["shelflist init --force"]
    for key in ("url", "collection", "ledger"):
        line = re.search(rf"""^[ \t]*{key}[ \t]*=(?![ \t]*[\[{{])[ \t]*(["']?)([^"'\n#]+)""", text, re.MULTILINE)
        value = line[2].strip() if line else ""
        if key != "collection" and not _is_place(value):
            value = "file:./index" if key == "url" else ""
        if value:
            words.append(f"--{key} {shlex.quote(value if key == 'collection' else redact(value))}")
    return " ".join(words)


def _is_place(url: str) -> bool:
    """Whether it is a URL that `init` takes."""
    try:
        return parse_url(url).scheme != "memory"
    except ConfigError:
        return False


def _text_value(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{path}: {key} is a text in quotes, not {value!r}.")
    choices = _CHOICES.get(key)
    if choices and value not in choices:
        raise ConfigError(f"{path}: {key} is one of {', '.join(choices)}, not {value!r}.")
    return value


def _declared(path: Path, declared: Any) -> dict[str, str] | None:
    if declared is None:
        return None
    if not isinstance(declared, dict):
        raise ConfigError(f'{path}: fields is a table: [fields], then lines like page_number = "int".')
    try:
        return Fields(declared).to_json()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _resolved_from(folder: Path, url: str) -> str:
    parsed = parse_url(url)
    is_path = parsed.scheme in _PATH_SCHEMES or (parsed.scheme in _PATH_OR_SERVER and not parsed.netloc)
    if not is_path or os.path.isabs(parsed.path):
        return url
    _, mark, query = url.partition("?")
    return f"{parsed.scheme}:{url_path(os.path.normpath(folder / parsed.path))}{mark}{query}"


def url_path(path: str) -> str:
    """A path of this machine as it stands in a `file:` URL."""
    return path.replace("%", "%25").replace("?", "%3F")


def render_file(settings: Settings) -> str:
    """The text of a shelflist.toml that states these settings (`tenant` and secrets are the caller's matter)."""
    lines = ["# Settings of Shelflist for this folder and those below it."]
    for key in (*_TEXT_KEYS, "dimensions"):
        value = getattr(settings, key)
        if value is not None:
            lines.append(f"{key} = {_toml_value(value)}")
    if settings.fields:
        lines += ["", "[fields]"]
        lines += [f"{name} = {_toml_value(kind)}" for name, kind in settings.fields.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    # TOML's basic strings take JSON's escapes; DEL is the one character that JSON leaves bare and TOML refuses.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
