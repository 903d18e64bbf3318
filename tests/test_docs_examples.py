"""The examples of the guides and the handbook run: the blocks of a page in order, in a folder of their own.

A statement that ends in `# raises SomeError` has to raise it, and a bare JSON filter has to be one. Where a page speaks of a
server, a store in memory answers in its place. The README's examples run one by one, in `test_docs.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import late_store
import numpy as np
import pytest

import shelflist
from shelflist import Chunk, Document, F
from shelflist.core import errors
from shelflist.stores.registry import STORES

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RAISES = re.compile(r"# raises (\w+)$")
PAGES = {
    page.relative_to(ROOT).as_posix(): BLOCK.findall(page.read_text(encoding="utf-8"))
    for folder in ("docs", "src/shelflist/handbook")
    for page in sorted((ROOT / folder).glob("*.md"))
}
EXAMPLES = {page: blocks for page, blocks in PAGES.items() if blocks}

COMPILED_ONLY = {("docs/stores-guide.md", 0): "opens a ledger in Postgres"}

FIELDS = {"page_number": int, "tags": list[str], "topic": str}
FIELDS_OF: dict[str, dict[str, Any]] = {
    "docs/filters.md": {
        "page_number": int,
        "price": float,
        "source": str,
        "title": str,
        "tags": list[str],
        "archived": bool,
        "updated": "datetime",
    },
}
"""The declared fields of the collection `docs`, by page, where they are not `FIELDS`."""
OPENS_ITS_OWN = {
    "src/shelflist/handbook/collections.md",
    "src/shelflist/handbook/getting-started.md",
    "src/shelflist/handbook/stores-and-moving.md",
}


@pytest.fixture
def names(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the reader of a page has by then: the imports, the collection `docs`, and something to put in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(STORES, "qdrant", ("late_store", "LateStore"))
    monkeypatch.setattr(late_store, "_SERVERS", {})
    chunks = [Chunk("Keys are rotated every 90 days."), Chunk("The notice period is a month.")]
    found: dict[str, Any] = {
        "shelflist": shelflist,
        "Chunk": Chunk,
        "F": F,
        "chunks": chunks,
        "documents": [Document("notices.md", chunks)],
        "wiki_pages": lambda: iter([Document("wiki/keys", chunks)]),
        "vector": np.ones(384 if page.endswith("embedders.md") else 256, dtype=np.float32),
    }
    if page not in OPENS_ITS_OWN:
        docs = shelflist.open("file:./index", "docs", embedder="static", fields=FIELDS_OF.get(page, FIELDS))
        of_keys = {"page_number": 3, "tags": ["api"], "topic": "keys"}
        docs.sync("keys.md", [Chunk("Rotate keys with the rotate command.", of_keys)])
        docs.sync("errors.md", [Chunk("The error E1042 comes after an upgrade.", {"page_number": 12})])
        found["docs"] = docs
    yield found
    for value in found.values():
        if isinstance(value, shelflist.Collection):
            value.close()


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_of_a_page_run(page: str, names: dict[str, Any]) -> None:
    for number, block in enumerate(EXAMPLES[page]):
        if (page, number) in COMPILED_ONLY:
            compile(block, page, "exec")
        else:
            _run(block, page, names)


def test_examples_are_found_and_can_fail() -> None:
    assert len(EXAMPLES) > 10 and all(number < len(EXAMPLES[page]) for page, number in COMPILED_ONLY)
    assert set(FIELDS_OF) | OPENS_ITS_OWN <= set(EXAMPLES)
    with pytest.raises(NameError):
        _run("docs.search('keys')", "page", {})
    with pytest.raises(pytest.fail.Exception):
        _run("len('keys')  # raises InvalidInput", "page", {})


def _run(block: str, page: str, names: dict[str, Any]) -> None:
    lines = block.splitlines()
    for statement in ast.parse(block).body:
        code = compile(ast.Module([statement], []), page, "exec")
        raises = RAISES.search(lines[(statement.end_lineno or 0) - 1])
        if raises:
            with pytest.raises(getattr(errors, raises[1])):
                exec(code, names)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Dict):
            names["docs"].count(ast.literal_eval(statement.value))
        else:
            exec(code, names)
