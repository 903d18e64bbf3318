"""Sections of an HTML page: what a reader sees, without scripts, styles and navigation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shelflist.indexing.formats import Outline, Parsed

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

# fmt: off
_UNSEEN = frozenset((
    "script", "style", "nav", "noscript", "template", "head", "svg", "iframe", "object", "canvas", "select", "button",
    "datalist", "dialog", "audio", "video",
))
_BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup", "hr", "html", "legend", "li", "main",
    "ol", "p", "pre", "search", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
))
_APART = frozenset((
    "p", "pre", "table", "ul", "ol", "dl", "blockquote", "figure", "article", "section", "details",
))
# fmt: on
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CELLS = frozenset(("td", "th"))
_IN_LINE = frozenset(("div", "p", "ul", "ol", "li"))
"""Blocks that do not break the line of a table row; a table for layout holds others, which do."""

_VERBATIM = frozenset(("pre", "textarea", "listing", "xmp"))


def parse_html(text: str) -> Parsed:
    """Headings open sections at any depth of the page; `pre` keeps its lines; a table row is one line."""
    from selectolax.lexbor import LexborHTMLParser

    page = LexborHTMLParser(text)
    outline = Outline()
    if page.body is not None:
        _Walk(outline).page(page.body)
    found = page.css_first("head > title")
    title = " ".join(found.text().split()) if found is not None else ""
    return Parsed(outline.sections(), title=title or outline.title)


class _Walk:
    """One pass over the tree in document order, without recursion: pages can be nested thousands deep."""

    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._line: list[str] = []
        self._verbatim = 0
        self._heading: int | None = None
        # Whether each open element stands in a table cell that is part of its row's one line.
        self._in_cell = [False]

    def page(self, body: LexborNode) -> None:
        stack: list[tuple[LexborNode, bool]] = [(body, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                self._leave(node)
                continue
            tag = node.tag or "-"
            if tag == "-text":
                self._text(node.text_content or "")
                continue
            if tag.startswith("-") or _unseen(node):
                continue
            self._enter(node)
            stack.append((node, True))
            children: list[tuple[LexborNode, bool]] = []
            child = node.child
            while child is not None:
                children.append((child, False))
                child = child.next
            stack.extend(reversed(children))
        self._end_line()

    def _text(self, text: str) -> None:
        if self._verbatim:
            self._line.append(text.replace("\xa0", " "))
            return
        words = " ".join(text.split())
        before = " " if text[:1].isspace() else ""
        behind = " " if text[-1:].isspace() and words else ""
        self._line.append(before + words + behind)

    def _enter(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag in _HEADINGS:
            self._end_line()
            self._heading = _HEADINGS[tag]
        elif self._heading is not None:
            if tag == "br":
                self._line.append(" ")
        elif tag == "br":
            self._line.append("\n") if self._verbatim else self._end_line()
        elif tag in _CELLS:
            if any(part.strip() for part in self._line):
                self._line.append(" | ")
        elif tag in _BLOCKS and not (self._in_cell[-1] and tag in _IN_LINE):
            self._end_line()
            if tag in _APART and not self._line:
                self._outline.text("\n")
            if tag == "li":
                self._line.append("- ")
        elif tag in _BLOCKS or tag == "img":
            self._line.append(" ")
        if tag in _VERBATIM:
            self._verbatim += 1
        self._in_cell.append(tag in _CELLS or (self._in_cell[-1] and (tag in _IN_LINE or tag not in _BLOCKS)))

    def _leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        self._in_cell.pop()
        in_cell = self._in_cell[-1]
        if tag in _VERBATIM:
            if self._verbatim == 1 and self._heading is None:
                self._end_line()
            self._verbatim -= 1
        if tag in _HEADINGS:
            if self._heading is not None:
                self._outline.heading(self._heading, "".join(self._line))
                self._line.clear()
                self._heading = None
        elif self._heading is None and tag in _BLOCKS:
            if in_cell and tag in _IN_LINE:
                self._line.append(" ")
            else:
                if tag == "li" and self._line == ["- "]:
                    self._line.clear()
                self._end_line()
                if tag in _APART:
                    self._outline.text("\n")

    def _end_line(self) -> None:
        line = "".join(self._line)
        self._line.clear()
        line = line.strip("\n") if self._verbatim else " ".join(line.split())
        if line == "-" and not self._verbatim:
            self._line.append("- ")  # the item's text is in a block of its own
        elif line.strip():
            self._outline.text(line + "\n")


def _unseen(node: LexborNode) -> bool:
    if node.tag in _UNSEEN:
        return True
    attributes = node.attributes
    if "hidden" in attributes or attributes.get("role") == "navigation":
        return True
    return node.tag == "a" and "headerlink" in (attributes.get("class") or "").split()
