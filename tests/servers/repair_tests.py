"""What somebody does to a store with its own client, behind Shelflist's back: seen by `verify`, mended by `repair`."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from counting import contents, documents, unit
from places import Place

from shelflist import Collection, Document
from shelflist.core.errors import StoreError
from shelflist.core.types import Tenancy


def drop_behind_its_back(place: Place, collection: Collection) -> None:
    """Drop the collection or class of the only generation with the store's own client."""
    parts = collection._parts
    name, at = parts.spec.name, urlsplit(place.url)
    match at.scheme:
        case "chroma":
            import chromadb

            theirs = chromadb.HttpClient(at.hostname or "", at.port or 8000)
            theirs.delete_collection(name)
            for part in (theirs, theirs._admin_client):
                part._server._session.close()
        case "milvus":
            from pymilvus import MilvusClient

            client = MilvusClient(f"http://{at.netloc}")
            client.drop_collection(name)
            client.close()
        case "qdrant":
            own: Any = parts.store
            own._connection().client.delete_collection(name)
        case "weaviate":
            answer = httpx.delete(f"http://{at.netloc}/v1/schema/{name[0].upper()}{name[1:]}")
            assert answer.status_code == 200, answer.text
        case _:
            raise AssertionError(f"no client is known for {place.url}")


@pytest.mark.parametrize("tenancy", ["none", "required"])
def test_a_place_that_was_dropped_is_said_to_be_gone_and_made_anew(place: Place, tenancy: Tenancy) -> None:
    docs = place.open(fields={"n": int}, tenancy=tenancy)
    mine = docs if tenancy == "none" else docs.tenant("acme")
    mine.sync_all(Document(one.document_id, one.chunks) for one in documents(10))
    before = contents(mine.search("first", limit=99))
    words = contents(mine.search("first", limit=99, mode="keyword"))
    place.embedder.take()
    drop_behind_its_back(place, docs)
    for look in (docs.status, docs.verify, lambda: mine.search(unit("d3 first"))):
        with pytest.raises(StoreError, match=r"(Somebody (dropped|deleted) it|It was dropped), or ") as caught:
            look()
        assert re.search(rf" at {urlsplit(place.url).scheme}://\S+", str(caught.value))
    done = docs.repair()
    assert done["restored"] == 20 and not done["lost"] and place.embedder.take() == []
    assert docs.verify()["ok"] and docs.status()["store"]["points"] == 20
    for one in (docs, place.open(create=False)):
        again = one if tenancy == "none" else one.tenant("acme")
        assert contents(again.search("first", limit=99)) == before and len(before) == 20
        assert contents(again.search("first", limit=99, mode="keyword")) == words and len(words) == 10
        assert again.search(unit("d3 first"), limit=1)[0].content == "d3 first"
