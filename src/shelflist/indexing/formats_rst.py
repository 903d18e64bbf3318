"""Sections of a reStructuredText document, also of one written for Sphinx: unknown directives keep their text."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Any

from shelflist.indexing.formats import Outline, Parsed, Section

if TYPE_CHECKING:
    from docutils import nodes

_MAX_LINE = 200_000
_MAX_NESTING = 6
_SILENT = frozenset(
    ("include", "raw", "toctree", "index", "contents", "meta", "highlight", "currentmodule", "module", "tabularcolumns")
)
"""Directives whose source is no text for readers."""

_ROLE = re.compile(r":[\w.:+-]+:`([^`]*)`")
_TARGET = re.compile(r"^(.*\S)\s*<[^<>]*>$", re.DOTALL)
_DIRECTIVE = re.compile(
    r"\.\. (?:\|[^|]*\| )?(?P<name>[\w:.+-]+?) ?::[ \t]*(?P<arguments>[^\n]*)\n?(?P<block>.*)", re.DOTALL
)
_OPTION = re.compile(r"\s*:[\w -]+:(?:\s|$)")


def parse_rst(text: str) -> Parsed:
    """Never prints and never reads another file: includes and raw blocks are off, problems are worked around."""
    outline = Outline()
    try:
        if max(map(len, text.split("\n"))) > _MAX_LINE:
            raise ValueError(f"a line is longer than {_MAX_LINE} characters")
        _Walk(outline).source(text, nesting=0)
    except Exception as error:  # docutils raises many kinds on odd input, and the words are still worth finding
        sections = [Section((), text)] if text.strip() else []
        reason = f"{type(error).__name__}: {error}"
        return Parsed(sections, warnings=[f"reStructuredText cannot be parsed and is kept as plain text: {reason}"])
    sections = outline.sections()
    return Parsed(sections, title=outline.title)


def _doctree(text: str) -> nodes.document:
    import io

    from docutils.core import publish_doctree

    return publish_doctree(
        text,
        settings_overrides={
            "report_level": 5,
            "halt_level": 5,
            "warning_stream": io.StringIO(),
            "file_insertion_enabled": False,
            "raw_enabled": False,
            "_disable_config": True,
            "doctitle_xform": False,
            "docinfo_xform": False,
            "syntax_highlight": "none",
            "traceback": True,  # otherwise docutils prints and ends the process on its own mistakes
            "line_length_limit": _MAX_LINE,
        },
    )


class _Walk:
    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._level = 0

    def source(self, text: str, nesting: int) -> None:
        self._children(_doctree(text), nesting)

    def _children(self, node: Any, nesting: int, mark: str = "") -> None:
        for child in node.children:
            self._node(child, nesting, mark)
            mark = " " * len(mark)

    def _node(self, node: Any, nesting: int, mark: str = "") -> None:
        from docutils import nodes

        if isinstance(node, nodes.section):
            self._level += 1
            title = node.next_node(nodes.title)
            self._outline.heading(self._level, _words(title) if title is not None else "")
            for child in node.children:
                if child is not title:
                    self._node(child, nesting)
            self._level -= 1
        elif isinstance(node, nodes.system_message):
            self._problem(node, nesting)
        elif isinstance(node, (nodes.comment, nodes.target, nodes.substitution_definition, nodes.pending, nodes.raw)):
            return
        elif isinstance(node, (nodes.literal_block, nodes.doctest_block, nodes.math_block)):
            self._block(node.astext(), mark)
        elif isinstance(node, nodes.table):
            for title in node.findall(nodes.title):
                self._block(_words(title), mark)
            rows = [" | ".join(_words(entry) for entry in row.children) for row in node.findall(nodes.row)]
            self._block("\n".join(rows), mark)
        elif isinstance(node, nodes.list_item):
            self._children(node, nesting, mark + "- ")
        elif isinstance(node, nodes.field):
            self._block(": ".join(_words(part) for part in node.children), mark)
        elif isinstance(node, nodes.TextElement):
            self._block(_words(node, keep_lines=True), mark)
        else:
            self._children(node, nesting, mark)

    def _block(self, text: str, mark: str) -> None:
        if text.strip():
            indented = textwrap.indent(text, " " * len(mark))
            self._outline.text(mark + indented[len(mark) :] + "\n\n")

    def _problem(self, message: Any, nesting: int) -> None:
        """Text that docutils could not read is in the message about it."""
        from docutils import nodes

        source = message.next_node(nodes.literal_block)
        if source is None:
            return
        text = source.astext()
        found = _DIRECTIVE.match(text)
        if found is None:
            if message.get("level", 0) >= 3:
                self._block(text, "")
            return
        if found["name"] in _SILENT:
            return
        arguments, block = _role_text(found["arguments"].strip()), textwrap.dedent(found["block"])
        lines = block.split("\n")
        while lines and _OPTION.match(lines[0]):
            lines.pop(0)
        block = "\n".join(lines).strip("\n")
        if found["name"] in ("code-block", "code", "sourcecode", "literalinclude", "parsed-literal"):
            self._block(block, "")
            return
        self._block(arguments, "")
        if block and nesting < _MAX_NESTING:
            level, self._level = self._level, max(self._level, 1)
            self.source(block, nesting + 1)
            self._level = level
        else:
            self._block(block, "")


def _words(node: Any, *, keep_lines: bool = False) -> str:
    text = _role_text(node.astext())
    return text if keep_lines else " ".join(text.split())


def _role_text(text: str) -> str:
    """Unknown roles as a reader sees them: the text before `<target>`, else the target without its marks."""

    def shown(found: re.Match[str]) -> str:
        inner = found[1]
        titled = _TARGET.match(inner)
        return titled[1] if titled else inner.lstrip("~!")

    return _ROLE.sub(shown, text)
