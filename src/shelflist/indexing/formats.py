"""From the text of one document to its sections: the headings above each piece, the title, and the front matter.

Formats: `markdown`, `html`, `rst`, `text`, `code`. Parsing never loses text because a document is odd: what cannot be
understood as structure is kept as words, and the oddity goes into `Parsed.warnings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from shelflist.core.errors import InvalidInput

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

Format = Literal["markdown", "text", "html", "rst", "code"]

FORMATS: tuple[str, ...] = get_args(Format)

PARSER_VERSION = 3
"""Raise it when the same bytes give other sections or metadata: it is part of every file's digest."""

PARSER_PACKAGES = ("markdown-it-py", "selectolax", "docutils", "pyyaml")
"""Distributions whose version changes what a parse returns."""

MAX_FRONT_MATTER = 65_536
"""Longest front matter in characters; a longer one is text."""

_MAX_FRONT_MATTER_VALUES = 5_000
_MAX_FRONT_MATTER_DEPTH = 20


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a document below one path of headings (outermost first). `text` is empty below a bare heading."""

    path: tuple[str, ...]
    text: str


@dataclass(slots=True)
class Parsed:
    """A parsed document. `metadata` is its front matter in plain JSON values."""

    sections: list[Section]
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def parse(text: str, format: str = "markdown") -> Parsed:
    """The sections of a text in one of `FORMATS`; InvalidInput for any other format."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if format == "markdown":
        return _markdown(text)
    if format == "html":
        from shelflist.indexing.formats_html import parse_html

        return parse_html(text)
    if format == "rst":
        from shelflist.indexing.formats_rst import parse_rst

        return parse_rst(text)
    if format in ("text", "code"):
        return Parsed([Section((), text)] if text.strip() else [])
    raise InvalidInput(f"Unknown document format {format!r}. Use one of: {', '.join(FORMATS)}")


class Outline:
    """Collects sections while a parser walks through a document: headings open them, text fills them."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []
        self._text: list[str] = []
        self._sections: list[Section] = []
        self._bare = False
        self.title: str | None = None

    def heading(self, level: int, text: str) -> None:
        """Begin a section below the last heading of a smaller level."""
        self._close(next_level=level)
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        text = " ".join(text.split())
        self._open.append((level, text))
        self._bare = bool(text)
        if level == 1 and text and self.title is None:
            self.title = text

    def text(self, text: str) -> None:
        self._text.append(text)

    def sections(self) -> list[Section]:
        self._close(next_level=0)
        return self._sections

    def _close(self, next_level: int) -> None:
        text = "".join(self._text).strip("\n")
        self._text.clear()
        # A bare heading with deeper ones below it is in their paths; without any, its words would be lost.
        leaf = self._bare and self._open[-1][0] >= next_level
        if text.strip() or leaf:
            self._sections.append(Section(tuple(name for _, name in self._open if name), text if text.strip() else ""))
        self._bare = False


def _markdown(text: str) -> Parsed:
    metadata, body, warning = _front_matter(text)
    parsed = Parsed([], metadata=metadata)
    outline = Outline()
    if warning:
        parsed.warnings.append(warning)
        # Front matter that is not YAML would read as a heading underlined by its closing line.
        block, body = _split_front_matter(text) or ("", text)
        outline.text(block + "\n")
    lines = body.split("\n")
    done = 0
    for begin, end, level, heading in _markdown_blocks(body):
        outline.text("\n".join(lines[done:begin]) + "\n")
        if level:
            outline.heading(level, heading)
        done = end
    outline.text("\n".join(lines[done:]))
    parsed.sections = outline.sections()
    title = metadata.get("title")
    parsed.title = " ".join(title.split()) if isinstance(title, str) and title.strip() else outline.title
    return parsed


def _markdown_blocks(text: str) -> Iterator[tuple[int, int, int, str]]:
    """Line ranges that are not body text: (begin, end, heading level, heading), level 0 for comments."""
    tokens = _markdown_parser().parse(text)
    for at, token in enumerate(tokens):
        if token.level or token.map is None:
            continue
        if token.type == "heading_open":
            yield token.map[0], token.map[1], int(token.tag[1]), _heading_text(tokens[at + 1].content)
        elif token.type == "html_block" and _COMMENT.fullmatch(token.content.strip()):
            yield token.map[0], token.map[1], 0, ""


_COMMENT = re.compile(r"<!--(?:(?!-->).)*-->", re.DOTALL)
_HEADING_ATTRIBUTES = re.compile(r"\s*\{[#.:][^{}]*\}\s*$")
_MARKUP = re.compile(r"[\\`*_\[\]<>&!]")


def _heading_text(source: str) -> str:
    """A heading without its markup, its anchors and its `{#id}`."""
    source = _HEADING_ATTRIBUTES.sub("", source)
    if not _MARKUP.search(source):
        return source
    words: list[str] = []
    for token in _inline_parser().parseInline(source)[0].children or ():
        if token.type in ("text", "code_inline", "image"):
            words.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            words.append(" ")
    return "".join(words)


@lru_cache(maxsize=1)
def _markdown_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])  # inline markup is parsed in headings only
    return parser


@lru_cache(maxsize=1)
def _inline_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark")


_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)??(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)


def _split_front_matter(text: str) -> tuple[str, str] | None:
    """(the block between the lines, the rest), or None where a text has no front matter."""
    if not text.startswith("---"):
        return None
    found = _FRONT_MATTER.match(text, 0, MAX_FRONT_MATTER)
    return (found.group(1) or "", text[found.end() :]) if found else None


def _front_matter(text: str) -> tuple[dict[str, Any], str, str | None]:
    """(metadata, the text behind it, a warning): a text that only begins with a rule has no front matter."""
    split = _split_front_matter(text)
    if split is None:
        return {}, text, None
    block, rest = split
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        loaded = yaml.load("\n" + block, Loader=loader)  # so that an error counts lines as the file does
        if loaded is None:
            return {}, rest, None
        if not isinstance(loaded, Mapping):
            return {}, text, None
        plain = _Plain().mapping(loaded, 0)
        if isinstance(loaded.get("title"), (bool, int, float, date)):
            plain["title"] = _title_as_written(yaml.compose(block, Loader=loader)) or str(loaded["title"])
        return plain, rest, None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())
        return {}, text, f"front matter is not valid YAML and is kept as text: {reason}"


def _title_as_written(document: Any) -> str | None:
    """A title is text, also one that YAML reads as a number or a date; None where it is not written at the top."""
    written = [value.value for key, value in document.value if key.value == "title"]
    return written[-1] if written else None


class _Plain:
    """YAML values as JSON ones, within a bound: aliases let a few lines stand for billions of values."""

    def __init__(self) -> None:
        self._left = _MAX_FRONT_MATTER_VALUES

    def mapping(self, values: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        return {str(name): self.value(value, depth + 1) for name, value in values.items()}

    def value(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _MAX_FRONT_MATTER_DEPTH:
            raise ValueError("it holds too many values")
        if value is None or isinstance(value, (str, bool, int)):
            return value
        if isinstance(value, float):
            return value if value - value == 0 else str(value)
        if isinstance(value, date):
            return _iso(value)
        if isinstance(value, Mapping):
            return self.mapping(value, depth)
        if isinstance(value, (set, frozenset)):
            return sorted(str(member) for member in value)
        if isinstance(value, (list, tuple)):
            return [self.value(member, depth + 1) for member in value]
        return str(value)


def _iso(value: date) -> str:
    """A date or datetime as ISO 8601 text: a bare date is midnight UTC, a time without an offset stays without one.

    YAML would call the latter UTC, but who writes a page means the clock on the wall: a `datetime` field refuses it.
    """
    if not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC)
    return value.isoformat()
