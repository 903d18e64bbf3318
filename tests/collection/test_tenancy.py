"""Tenants: nothing without one, nothing of another, on every leg and every surface."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counting import chunks, contents, document, unit
from places import Place

from shelflist import Chunk, Collection, Document, Jsonl
from shelflist.core.errors import InvalidInput, RemovalRefused, TenantForbidden, TenantRequired

CALLS: dict[str, Callable[[Collection], Any]] = {
    "sync": lambda c: c.sync("p", chunks("text")),
    "sync_all": lambda c: c.sync_all([document("p", "text")]),
    "plan": lambda c: c.plan([document("p", "text")]),
    "search text": lambda c: c.search("text"),
    "search vector": lambda c: c.search(unit("text")),
    "search keyword": lambda c: c.search("text", mode="keyword"),
    "search_many": lambda c: c.search_many(["text"]),
    "count": lambda c: c.count(),
    "show": lambda c: c.show("p"),
    "why": lambda c: c.why("p", "text"),
    "delete": lambda c: c.delete("p"),
    "mark_stale": lambda c: c.mark_stale("p"),
}


@pytest.fixture
def saas(place: Place) -> Collection:
    return place.open(tenancy="required", fields={"n": int})


@pytest.mark.parametrize("name", CALLS)
def test_without_a_tenant_nothing_is_done(saas: Collection, name: str) -> None:
    acme = saas.tenant("acme")
    acme.sync("p", chunks("text"))
    with pytest.raises(TenantRequired):
        CALLS[name](saas)
    assert contents(acme.search("text")) == ["text"]
    if name not in ("delete", "mark_stale"):
        CALLS[name](acme)


@pytest.mark.parametrize("tenant", ["", " ", "\t\n", None, 7, b"acme"])
def test_a_tenant_is_a_str_that_is_not_blank(saas: Collection, tenant: Any) -> None:
    with pytest.raises(TenantRequired):
        saas.tenant(tenant)
    if isinstance(tenant, str):
        with pytest.raises(TenantRequired):
            saas.sync_all([document("p", "text", tenant=tenant)])
    assert saas.documents() == []


def test_a_collection_without_tenants_takes_none(place: Place) -> None:
    docs = place.open()
    with pytest.raises(TenantForbidden, match="no tenants"):
        docs.tenant("acme")
    with pytest.raises(TenantForbidden, match="acme"):
        docs.sync_all([document("p", "text", tenant="acme")])
    assert docs.documents() == []


def test_a_tenant_sees_its_own_on_every_leg(saas: Collection) -> None:
    acme, umbrella = saas.tenant("acme"), saas.tenant("umbrella")
    acme.sync("p", [Chunk("shared words of acme", {"n": 1}), Chunk("same text", {"n": 2})])
    umbrella.sync("p", [Chunk("shared words of umbrella", {"n": 1}), Chunk("same text", {"n": 3})])
    for one, own in ((acme, "acme"), (umbrella, "umbrella")):
        for mode in ("dense", "keyword", "hybrid"):
            hits = one.search("shared words same text acme umbrella", limit=100, mode=mode)
            assert contents(hits) == ["same text", f"shared words of {own}"]
            assert {hit.tenant for hit in hits} == {own}
        assert contents(one.search(unit("shared words of acme"), limit=100)) == ["same text", f"shared words of {own}"]
        assert (one.count(), one.count("n == 1"), len(one.documents())) == (2, 1, 1)
        assert one.status()["documents"] == 1
        assert one.status()["chunks"]["indexed"] == 2
    acme.sync("gone", [Chunk("words that go")])
    acme.delete("gone")
    assert saas.status()["documents"] == 2
    assert acme.count("n == 3") == 0 and umbrella.count("n == 3") == 1
    assert [c["content"] for c in acme.show("p")["chunks"]] == ["shared words of acme", "same text"]
    assert {c["content"] for c in umbrella.why("p", "words")["chunks"]} == {"shared words of umbrella", "same text"}


def test_the_status_of_a_tenant_says_nothing_of_another(saas: Collection) -> None:
    acme, umbrella, new = (saas.tenant(one) for one in ("acme", "umbrella", "new"))
    acme.sync("p", chunks("one", "two"))
    umbrella.sync("p", chunks("three", "four", "five"))
    kind = saas.status()["store"]["kind"]
    assert acme.status()["store"] == {"kind": kind, "points": 2}
    assert umbrella.status()["store"] == {"kind": kind, "points": 3}
    assert new.status()["store"] == {"kind": kind, "points": 0}
    assert saas.status()["store"]["points"] == 5


def test_what_a_tenant_left_unfinished_is_its_own(tmp_path: Path) -> None:
    place = Place(f"file:{tmp_path / 'index'}", f"sqlite:{tmp_path / 'ledger.db'}", tmp_path / "index")
    saas = place.open(tenancy="required")
    acme, umbrella = saas.tenant("acme"), saas.tenant("umbrella")
    umbrella.sync("p", chunks("one"))
    store = saas._parts.store
    flush, store.flush = store.flush, lambda spec: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        acme.sync("p", chunks("two"))
    store.flush = flush  # type: ignore[method-assign]
    assert [one.status()["unfinished"] for one in (saas, acme, umbrella)] == [1, 1, 0]
    place.close()


def test_the_same_document_of_two_tenants_has_two_names_and_two_lives(saas: Collection) -> None:
    acme, umbrella = saas.tenant("acme"), saas.tenant("umbrella")
    acme.sync("p", chunks("same text"))
    umbrella.sync("p", chunks("same text"))
    names = {one.show("p")["chunks"][0]["chunk_id"] for one in (acme, umbrella)}
    assert len(names) == 2
    assert acme.delete("p") == 1
    assert acme.count() == 0 and umbrella.count() == 1
    umbrella.mark_stale("p")
    assert acme.sync("p", chunks("same text")).documents_added == 1
    assert acme.count() == 1 and umbrella.count() == 0
    with pytest.raises(InvalidInput):
        acme.delete("")


def test_each_tenant_gets_min_of_k_and_matches(saas: Collection) -> None:
    chance = random.Random(5)
    owned: dict[str, int] = {"tiny": 2, "small": 11, "large": 150}
    rows = [(tenant, i) for tenant, size in owned.items() for i in range(size)]
    chance.shuffle(rows)
    saas.sync_all(Document(f"d{i}", [Chunk(f"river {tenant} {i}", {"n": i % 4})], tenant=tenant) for tenant, i in rows)
    for tenant, size in owned.items():
        bound = saas.tenant(tenant)
        assert bound.count() == size
        for limit in (1, 10, 500):
            for mode in ("dense", "keyword", "hybrid"):
                hits = bound.search("river", limit=limit, mode=mode)
                assert len(hits) == min(limit, size)
                assert {hit.tenant for hit in hits} == {tenant}
                matching = sum(i % 4 == 1 for i in range(size))
                assert len(bound.search("river", limit=limit, mode=mode, where="n == 1")) == min(limit, matching)
    assert list(saas.tenant("nobody").search("river")) == []
    assert saas.verify()["ok"]


def test_a_bound_collection_refuses_another_tenants_document(saas: Collection) -> None:
    acme = saas.tenant("acme")
    try:
        acme.sync_all([document("p", "text", tenant="umbrella")])
    except TenantForbidden as error:
        assert "umbrella" in str(error)
        assert saas.tenant("umbrella").count() == 0
    else:
        pytest.fail("a document of another tenant went through acme")
    assert acme.sync_all([document("p", "text", tenant="acme"), document("q", "text")]).documents_added == 2


@pytest.mark.parametrize("ask", ["sync_all", "plan"])
def test_a_document_without_its_tenant_fails_by_itself(saas: Collection, ask: str) -> None:
    passed = [document("p", "one", tenant="acme"), document("odd", "two"), document("q", "three", tenant="umbrella")]
    report = getattr(saas, ask)(passed)
    ((failure),) = report.failures
    assert (failure.document_id, report.documents_added, report.documents_failed) == ("odd", 2, 1)
    assert "'docs' has tenants" in failure.error and "--tenant ID" in failure.error
    assert len(saas.documents()) == (2 if ask == "sync_all" else 0)
    acme = saas.tenant("acme")
    report = getattr(acme, ask)([document("r", "four"), passed[2]])
    ((failure),) = report.failures
    assert (failure.document_id, report.documents_added) == ("q", 1)
    assert "'umbrella'" in failure.error and "bound to 'acme'" in failure.error


def test_a_document_of_a_tenant_where_there_are_none_fails_by_itself(place: Place) -> None:
    docs = place.open()
    report = docs.sync_all([document("odd", "two", tenant="acme"), document("p", "one")])
    assert [failure.document_id for failure in report.failures] == ["odd"]
    assert "has no tenants" in report.failures[0].error and "'acme'" in report.failures[0].error
    assert [row["document_id"] for row in docs.documents()] == ["p"]


def test_no_tenant_is_not_the_empty_tenant(place: Place, tmp_path: Path) -> None:
    docs = place.open()
    docs.sync_all([document("p", "one")])
    (before,) = docs.show("p")["chunks"]
    with pytest.raises(TenantForbidden, match=r"has no tenants; the document names ''.*leave it out"):
        docs.sync_all([document("p", "one", tenant=""), document("q", "two", tenant="")])
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"document_id": "q", "content": "two", "tenant": ""}\n{"document_id": "r", "content": "three"}\n')
    report = docs.sync_all(Jsonl(rows))
    assert [failure.document_id for failure in report.failures] == ["q"]
    assert [row["document_id"] for row in docs.documents()] == ["p", "r"]
    report = docs.sync_all(Jsonl(rows, columns={"tenant": None}, metadata_columns=()))
    assert (report.failed, report.documents_added) == (0, 1)
    docs.sync_all([document("p", "one", "two")])
    assert docs.show("p")["chunks"][0]["chunk_id"] == before["chunk_id"]


def test_what_failed_for_its_tenant_is_not_missing(saas: Collection) -> None:
    saas.sync_all([document(f"d{i}", f"text {i}", tenant="acme") for i in range(9)], source="s")
    again = [document(f"d{i}", f"text {i}", tenant="acme" if i else None) for i in range(8)]
    report = saas.sync_all(again, source="s", delete="missing")
    assert ([one.document_id for one in report.failures], report.documents_removed) == (["d0"], 1)
    assert [row["document_id"] for row in saas.tenant("acme").documents()] == [f"d{i}" for i in range(8)]


def test_a_pass_in_which_no_document_has_a_tenant_ends_with_the_error(saas: Collection) -> None:
    came = []

    def stream() -> Iterator[Document]:
        for number in range(5_000):
            came.append(number)
            yield document(f"d{number}", "text")

    with pytest.raises(TenantRequired, match=r"'docs' has tenants.*--tenant ID") as refused:
        saas.sync_all(stream())
    assert refused.value.report is not None and refused.value.report.failures[0].document_id == "d0"
    assert len(came) < 2_500, "it does not read on"
    with pytest.raises(TenantRequired):
        saas.sync_all([document("p", "text")], source="s", delete="missing", allow_removal=True)


def test_removal_stays_inside_one_tenant(saas: Collection) -> None:
    acme, umbrella = saas.tenant("acme"), saas.tenant("umbrella")
    for one in (acme, umbrella):
        one.sync_all([document(f"d{i}", f"text {i}") for i in range(4)], source="s")
    half = [document(f"d{i}", f"text {i}") for i in range(2)]
    with pytest.raises(RemovalRefused, match="2 of 4"):  # a third of what the tenant has, not of everybody's
        acme.sync_all(half, source="s", delete="missing")
    assert acme.count() == 4
    report = acme.sync_all(half, source="s", delete="missing", allow_removal=True)
    assert report.documents_removed == 2
    assert (acme.count(), umbrella.count()) == (2, 4)
    mixed = [document("d0", "text 0", tenant="acme"), document("d0", "text 0", tenant="umbrella")]
    saas.sync_all(mixed, source="s", delete="missing", allow_removal=True)
    assert (acme.count(), umbrella.count()) == (1, 1)


def test_sources_are_per_tenant(saas: Collection) -> None:
    saas.tenant("acme").sync("p", chunks("a"), source="wiki")
    saas.tenant("umbrella").sync("p", chunks("b"), source="blog")
    assert saas.tenant("umbrella").show("p")["source"] == "blog"


def test_a_tenant_with_a_strange_name_is_its_own(saas: Collection) -> None:
    names = ["a", "A", "a ", "a'b", "ä", "a\0b", "%"]
    for name in names:
        saas.tenant(name).sync("p", chunks(f"heron {name!r}"))
    for name in names:
        for mode in ("dense", "keyword", "hybrid"):
            assert contents(saas.tenant(name).search("heron", limit=100, mode=mode)) == [f"heron {name!r}"]


def test_closing_a_tenants_view_leaves_the_collection_open(place: Place) -> None:
    saas = place.open(tenancy="required")
    with saas.tenant("acme") as acme:
        acme.sync("p", chunks("text"))
    assert saas.tenant("acme").count() == 1


def test_a_tenants_view_opens_no_other_tenant(saas: Collection) -> None:
    acme = saas.tenant("acme")
    acme.sync("p", chunks("text"))
    other = saas.tenant("other")
    with pytest.raises(TenantForbidden, match=r"'other', not to 'acme'.*not bound"):
        other.tenant("acme")
    assert contents(acme.tenant("acme").search("text")) == ["text"]
    assert other.tenant("other").count() == 0
