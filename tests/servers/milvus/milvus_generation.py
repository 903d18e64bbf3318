"""The fields of the generations that tests write to Milvus, and the question that they ask."""

from __future__ import annotations

from shelflist.core.fields import Fields
from shelflist.core.types import Candidates, SearchParams
from shelflist.stores.milvus.store import MilvusStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import random_vectors

QUERY = random_vectors(1, seed=9)[0]
FIELDS = Fields({"year": int, "title": str, "tags": "list[str]"})


def ask(store: MilvusStore, spec: GenerationSpec, limit: int = 3) -> Candidates:
    return store.search(spec, QUERY, limit=limit, scope=Scope(), params=SearchParams())
