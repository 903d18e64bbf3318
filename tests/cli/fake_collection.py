"""A fake Collection: answers with what a test lays into it and records what it was asked. It indexes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from shelflist.core.errors import CollectionNotFound
from shelflist.core.fields import Fields
from shelflist.core.types import Explanation, Hit, Hits, Progress, SyncReport

HIT = Hit(
    score=0.912,
    distance=0.25,
    content="Keys are rotated every 90 days.",
    document_id="keys.md",
    chunk_id="c0ffee",
    metadata={"page_number": 3},
    section="Keys > Rotation",
    position=2,
    explanation=Explanation(dense_rank=1, dense_score=0.75, keyword_rank=None, keyword_score=None),
)
DOCUMENT = {
    "document_id": "keys.md",
    "tenant": None,
    "source": "folder:docs",
    "revision": 1,
    "chunks": 1,
    "updated_at": 1_767_225_600.5,
}


def why_chunk(**changes: Any) -> dict[str, Any]:
    chunk = {"position": 0, "section": "Keys", "index_status": "indexed", "stale_reason": None, "error": None}
    ranks = {"dense_rank": 2, "keyword_rank": 1, "exact_rank": 2, "hybrid_rank": 1, "distance": 0.3}
    return {**chunk, "filter_matches": True, **ranks, "content": "Keys are rotated.", **changes}


@dataclass
class FakeCollection:
    name: str
    url: str = "memory:"
    fields: Fields = field(default_factory=Fields)
    tenancy: str = "none"
    dimensions: int = 256
    metric: str = "cosine"
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def __enter__(self) -> FakeCollection:
        return self

    def __exit__(self, *details: object) -> None:
        self.asked.append(("close", (), {}))

    def _answer(self, method: str, default: Any, *args: Any, **options: Any) -> Any:
        self.asked.append((method, args, options))
        answer = self.answers.get(method, default)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def options_of(self, method: str) -> dict[str, Any]:
        return next(options for name, _, options in self.asked if name == method)

    def was_asked(self, method: str) -> bool:
        return any(name == method for name, _, _ in self.asked)

    def tenant(self, tenant_id: str) -> FakeCollection:
        self.asked.append(("tenant", (tenant_id,), {}))
        return self

    def search(self, query: str, **options: Any) -> Hits:
        return self._answer("search", Hits([HIT], plan="exact scan", exact=True), query, **options)

    def count(self, where: str | None = None) -> int:
        return self._answer("count", 7, where)

    def why(self, document: str, query: str, where: str | None = None) -> dict[str, Any]:
        found = {"document": DOCUMENT, "query": query, "legs": ["dense", "keyword"], "chunks": [why_chunk()]}
        found["plan"] = "hybrid (convex): exact scan"
        return self._answer("why", found, document, query, where)

    def status(self) -> dict[str, Any]:
        return self._answer("status", {"documents": 1, "chunks": {"indexed": 7}, "store": {"kind": "memory"}})

    def documents(self, limit: int | None = None, prefix: str | None = None) -> list[dict[str, Any]]:
        return self._answer("documents", [DOCUMENT], limit=limit, prefix=prefix)

    def show(self, document: str) -> dict[str, Any]:
        chunk = {"position": 0, "section": "Keys", "index_status": "indexed", "error": None, "chunk_id": "c0ffee"}
        chunk.update(metadata={"page_number": 3}, content="Keys are rotated.")
        return self._answer("show", {**DOCUMENT, "chunks": [chunk]}, document)

    def wait_for_build(self, *, progress: Any = None) -> None:
        self.asked.append(("wait_for_build", (), {}))
        for step in self.answers.get("building", []):
            progress(step)

    def verify(self, sample: int = 200, *, progress: Any = None) -> dict[str, Any]:
        found = {"ok": True, "ledger": 7, "store": 7, "missing": [], "ghosts": [], "vectors_checked": 7}
        return self._answer("verify", {**found, "vectors_different": [], "condemned": 0, "keywords_ok": True}, sample)

    def repair(self, sample: int, *, progress: Any = None) -> dict[str, Any]:
        return self._answer("repair", {"actions": ["2 ghosts deleted from the store"], "lost": []})

    def purge(self) -> int:
        return self._answer("purge", 4)

    def drop(self) -> None:
        self._answer("drop", None)

    def add_field(self, name: str, kind: str) -> None:
        self._answer("add_field", None, name, kind)
        self.fields = Fields({**self.fields.to_json(), name: kind})

    def sync_all(self, documents: Any, **options: Any) -> SyncReport:
        listen = options.get("progress")
        if listen:
            listen(Progress("syncing", 1, 2, "documents"))
        return self._answer("sync_all", SyncReport(added=3, embedded=3, documents_added=1), documents, **options)

    def plan(self, documents: Any, **options: Any) -> SyncReport:
        return self._answer("plan", SyncReport(added=3, embedded=3, tokens=90, documents_added=1), documents, **options)


class FakeShelf:
    def __init__(self) -> None:
        self.collections: dict[str, FakeCollection] = {}
        self.opened: list[tuple[str, str, dict[str, Any]]] = []
        self.sources: list[tuple[str, dict[str, Any]]] = []

    def open(self, url: str, name: str, **options: Any) -> FakeCollection:
        self.opened.append((url, name, options))
        if name not in self.collections:
            if not options.get("create", True):
                raise CollectionNotFound(f"No collection {name!r} there.")
            self.collections[name] = FakeCollection(name, fields=Fields(options.get("fields")))
        return self.collections[name]

    def open_source(self, path: str, **options: Any) -> SimpleNamespace:
        self.sources.append((path, options))
        return SimpleNamespace(name=f"folder:{path}")

    def chunker(self, size: int, overlap: int) -> tuple[int, int]:
        return (size, overlap)


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on the last line of stdout; fails if there is anything else."""
        lines = self.out.splitlines()
        assert len(lines) == 1, f"--json printed more than one line: {self.out!r}"
        value = json.loads(lines[0])
        assert isinstance(value, dict)
        return value


Shell = Callable[..., Result]
