"""Imports run downwards only, and heavy or third-party packages stay in the files that wrap them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "shelflist"
LAYERS = [
    {"core"},
    {"config", "embedders", "engine"},
    {"database", "postgres"},
    {"stores", "ledger"},
    {"generation", "wanted"},
    {"indexing", "searching"},
    {"opening"},
    {"collection", "copying"},
    {"cli", "testing", "__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
APART = {("stores", "ledger"), ("ledger", "stores"), ("engine", "embedders"), ("engine", "database")}
ONLY_IN = {
    "tantivy": {"engine/keywords.py"},
    "faiss": {"engine/cells.py", "engine/codes.py", "engine/exact.py", "engine/graph.py", "engine/products.py"},
    "psycopg": {"postgres"},
    "sqlite3": {"database.py", "stores/chroma"},
    "selectolax": {"indexing/formats_html.py"},
    "docutils": {"indexing/formats_rst.py"},
    "pyarrow": {"indexing/tabular.py"},
    "click": {"cli"},
    "rich": {"cli"},
    "httpx": {"embedders/openai.py", "stores/qdrant", "stores/chroma"},
    "qdrant_client": {"stores/qdrant"},
    "weaviate": {"stores/weaviate"},
    "grpc": {"stores/weaviate", "stores/qdrant", "stores/milvus"},
    "chromadb": {"stores/chroma"},
    "pymilvus": {"stores/milvus"},
}


def imports(tree: ast.AST) -> list[tuple[str, bool]]:
    """Every imported module, and whether it is imported at module level."""
    top = {id(node) for node in getattr(tree, "body", [])}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.append((node.module, id(node) in top))
    return found


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "shelflist" and len(parts) > 1 else None


def violations(path: Path, text: str) -> list[str]:
    here = path.relative_to(SOURCE).as_posix()
    own = here.split("/")[0].removesuffix(".py")
    wrong = []
    for module, _ in imports(ast.parse(text)):
        there = room(module)
        if there in LEVEL and own in LEVEL and there != own and (LEVEL[there] > LEVEL[own] or (own, there) in APART):
            wrong.append(f"{here} imports {module}")
        package = module.split(".")[0]
        allowed = ONLY_IN.get(package)
        if allowed is not None and not any(here == one or here.startswith(f"{one}/") for one in allowed):
            wrong.append(f"{here} imports {package}")
    return wrong


def test_every_room_has_a_level() -> None:
    rooms = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")}
    assert rooms - {"__init__", "handbook"} <= set(LEVEL)


def test_imports_run_downwards() -> None:
    assert [line for path in sorted(SOURCE.rglob("*.py")) for line in violations(path, path.read_text())] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("core/types.py", "from shelflist.ledger import ledger"),
        ("stores/memory.py", "def f():\n    from shelflist.ledger.ledger import Ledger"),
        ("engine/exact.py", "import tantivy"),
        ("searching/search.py", "import shelflist.collection"),
    ],
)
def test_the_check_can_fail(path: str, text: str) -> None:
    assert violations(SOURCE / path, text)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("shelflist", "numpy"),
        ("shelflist.cli.main", "numpy"),
        ("shelflist.cli.main", "rich"),
        ("shelflist.collection", "rich"),
        ("shelflist.collection", "docutils"),
        ("shelflist.collection", "pyarrow"),
        ("shelflist.collection", "tokenizers"),
        ("shelflist.collection", "semantic_text_splitter"),
    ],
)
def test_heavy_packages_load_when_they_are_needed(module: str, heavy: str) -> None:
    code = f"import {module}, sys; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
