"""Cuts documents into chunks of a bounded number of tokens, along their headings, paragraphs and sentences."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

from shelflist.core.errors import ConfigError, InvalidInput
from shelflist.core.log import log
from shelflist.core.types import Chunk
from shelflist.indexing.formats import PARSER_PACKAGES, PARSER_VERSION, Parsed, Section, parse

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CUTTER_VERSION = 1
"""Raise it when the same sections give other chunks."""

_TOKENIZER_FILE = "embedders/models/static-minilm-256/tokenizer.json"
_SEPARATOR = " > "
_MAX_STRETCH = 64_000
"""Characters given to the splitter at once: its work grows with the square of a text that has no line breaks."""

_MAX_CHARACTERS_A_TOKEN = 16
"""Tokenizers take any unbroken run of letters as one unknown token, however long; a chunk must not."""


class _Splitter(Protocol):
    def chunks(self, text: str) -> list[str]: ...


class Chunker:
    """Cuts text into chunks of at most `size` tokens, of which up to `overlap` repeat the end of the chunk before.

    A chunk never crosses a heading. Its content is the path of headings (`Title > Section > Subsection`), a blank
    line, and the piece of text, so that the words of a heading find the text below it by keyword and by vector alike;
    where there are no headings it is the text alone. The path counts towards `size`. Overlap is inside a section.
    The same text gives the same chunks, always.

    `tokenizer` is a `tokenizers.Tokenizer`, or None for the one of the bundled embedder.
    """

    def __init__(self, size: int = 512, overlap: int = 50, tokenizer: Tokenizer | None = None) -> None:
        if size < 16:
            raise InvalidInput(f"Chunk size {size} is too small. Use 16 tokens or more.")
        if not 0 <= overlap <= size // 2:
            raise InvalidInput(f"Chunk overlap {overlap} does not fit size {size}. Use 0 to {size // 2} tokens.")
        self.size = size
        self.overlap = overlap
        self._given = tokenizer
        self._splitters: dict[tuple[int, bool], _Splitter] = {}

    @property
    def strategy(self) -> str:
        """What is recorded as each chunk's `chunk_strategy`."""
        return f"recursive_{self.size}_{self.overlap}"

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that change whenever the same document could give other chunks or metadata."""
        parts = [self.strategy, str(_CUTTER_VERSION), str(PARSER_VERSION)]
        parts += [f"{name}={_version(name)}" for name in (*PARSER_PACKAGES, "semantic-text-splitter")]
        tokenizer = _bundled_tokenizer() if self._given is None else self._given.to_str().encode()
        return hashlib.sha256("\0".join(parts).encode() + hashlib.sha256(tokenizer).digest()).digest()

    def chunks(self, text: str, format: str = "markdown", metadata: Mapping[str, Any] | None = None) -> list[Chunk]:
        """The chunks of a document in one of `formats.FORMATS`; [] for one without words.

        Each carries the document's front matter and `title`, and `metadata`, which wins where both have a key.
        """
        parsed = parse(text, format)
        given = dict(metadata or {})
        for warning in parsed.warnings:
            log.warning("%s: %s", given.get("source_path", "document"), warning)
        titled = {"title": parsed.title} if parsed.title else {}
        shared = {**parsed.metadata, **titled, **given}
        lead = _lead(parsed)
        chunks: list[Chunk] = []
        for section in parsed.sections:
            path = _SEPARATOR.join(section.path) or None
            chunks.extend(
                Chunk(content, metadata=dict(shared), section=path, chunk_strategy=self.strategy)
                for content in self._contents(section, lead, markdown=format == "markdown")
            )
        return chunks

    def token_count(self, text: str) -> int:
        """Tokens of a text, without the special ones that a model adds."""
        return self._count(text)

    def _contents(self, section: Section, lead: tuple[str, ...], *, markdown: bool) -> Iterable[str]:
        heading = _SEPARATOR.join((*lead, *section.path))
        body = section.text
        room = self.size // 4
        while heading and self._count(heading) > room:
            # A path that would crowd out the text loses its outer names; a single long name is cut with the text.
            outer, found, inner = heading.partition(_SEPARATOR)
            heading = inner if found else ""
            if not found:
                body = f"{outer}\n\n{body}"
        if heading and not body.strip():
            return [heading]
        head = f"{heading}\n\n" if heading else ""
        pieces = self._pieces(body, self.size - self._count(heading), markdown)
        return [head + piece for piece in pieces if self._count(piece)]

    def _pieces(self, text: str, capacity: int, markdown: bool) -> list[str]:
        limit = capacity * _MAX_CHARACTERS_A_TOKEN
        if len(text) <= limit and self._count(text) <= capacity:
            return [_trimmed(text)]
        splitter = self._splitter(capacity, markdown)
        pieces = [piece for stretch in _stretches(text) for piece in splitter.chunks(stretch)]
        if all(len(piece) <= limit for piece in pieces):
            return pieces
        step = capacity * 4
        return [part for piece in pieces for part in ([piece] if len(piece) <= limit else _slices(piece, step))]

    def _splitter(self, capacity: int, markdown: bool) -> _Splitter:
        key = (capacity, markdown)
        if key not in self._splitters:
            from semantic_text_splitter import MarkdownSplitter, TextSplitter

            kind = MarkdownSplitter if markdown else TextSplitter
            self._splitters[key] = kind.from_callback(self._count, capacity, self.overlap)
        return self._splitters[key]

    @cached_property
    def _count(self) -> Callable[[str], int]:
        from tokenizers import Tokenizer

        source = _bundled_tokenizer() if self._given is None else self._given.to_str().encode()
        tokenizer = Tokenizer.from_buffer(source)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return _token_counter(tokenizer)


def _lead(parsed: Parsed) -> tuple[str, ...]:
    """The title, unless it is an outermost heading too: a page's `<title>` often is one, with the site's name."""
    if not parsed.title:
        return ()
    title = parsed.title.casefold()
    known = any(section.path and section.path[0].casefold() in title for section in parsed.sections)
    return () if known else (parsed.title,)


def _trimmed(text: str) -> str:
    """Without the blank lines around, and without trailing space; the first line keeps its indent as code needs it."""
    return text.strip("\n").rstrip()


def _stretches(text: str) -> Iterable[str]:
    """The text in stretches that end at a paragraph, else at a line, else at a word."""
    at = 0
    while len(text) - at > _MAX_STRETCH:
        half, end = at + _MAX_STRETCH // 2, at + _MAX_STRETCH
        for mark in ("\n\n", "\n", " "):
            found = text.rfind(mark, half, end)
            if found >= 0:
                end = found + len(mark)
                break
        yield text[at:end]
        at = end
    yield text[at:]


def _slices(text: str, step: int) -> list[str]:
    return [text[at : at + step] for at in range(0, len(text), step)]


def _bundled_tokenizer() -> bytes:
    try:
        return resources.files("shelflist").joinpath(_TOKENIZER_FILE).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"The bundled tokenizer shelflist/{_TOKENIZER_FILE} cannot be read ({error.strerror}). "
            "Install it again with: pip install --force-reinstall shelflist"
        ) from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


_CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_PUNCTUATION = r"!-/:-@\[-`{-~"
_ATOMS = re.compile(rf"[{_CJK}]|[{_PUNCTUATION}]|[^\s{_CJK}{_PUNCTUATION}]+")
"""What BERT's tokenizers certainly take apart. Other symbols they may join to a word: "¢02" is one word to them."""
_LONGEST_WORD = 100
"""Letters that WordPiece still looks up; a longer word is one unknown token."""


def _token_counter(tokenizer: Tokenizer) -> Callable[[str], int]:
    """A function from text to its number of tokens.

    The splitter sizes every text about ten times over. BERT's tokenizers look at one word at a time, so there the
    count of a text is the sum over its words, and words repeat: remembering them is ten times faster than tokenizing.
    """
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    by_word = (
        isinstance(tokenizer.model, WordPiece)
        and isinstance(tokenizer.normalizer, BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
    )
    return _ByWord(count).count if by_word else count


class _ByWord(dict[str, int]):
    """Tokens of each word seen.

    A word longer than WordPiece looks up is one token to the model, but counts by its length here: else a chunk could
    grow without bound.
    """

    _MOST = 200_000

    def __init__(self, tokens: Callable[[str], int]) -> None:
        super().__init__()
        self._tokens = tokens

    def count(self, text: str) -> int:
        return sum(map(self.__getitem__, text.split()))

    def __missing__(self, word: str) -> int:
        if len(word) == 1 or _ATOMS.fullmatch(word) is not None:
            count = self._tokens(word) if len(word) <= _LONGEST_WORD else len(word) // 4
        else:
            count = sum(map(self.__getitem__, _ATOMS.findall(word)))
        if len(word) <= _LONGEST_WORD:
            if len(self) >= self._MOST:
                self.clear()
            self[word] = count
        return count
