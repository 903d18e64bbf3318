"""Tenants: closed on both legs, whatever the tenants are called."""

from __future__ import annotations

import pytest

from shelflist.core.errors import TenantRequired
from shelflist.core.fields import Fields
from shelflist.core.filters.nodes import Comparison, Not, Operator
from shelflist.core.types import SearchParams
from shelflist.stores.protocol import GenerationSpec, Scope, Store
from shelflist.testing.points import COMMON_WORD, make_point, point_id, random_vectors
from shelflist.testing.store_base import QUERY, NewGeneration, StoreBase, ids

TENANTS = [
    "acme", "Acme", "ACME", "acme ", " acme", "acme corp", "acme-corp", "corp", "acme.corp", "ac", "a",
    "acme's", 'ac"me', "%", "acm_", "*",
    "' OR '1'='1", "acme OR corp", "null", "None", "0", "1", "ünïcode", "u\u0308nïcode", "日本語", "😀", "a/b",
    "a\\b", "a:b", "running", "run",
]  # fmt: skip


class TenantTests(StoreBase):
    def house(self, store: Store, generation: NewGeneration) -> GenerationSpec:
        """Three points a tenant; every text holds the names of all tenants, and every vector is near the query."""
        spec = generation(tenanted=True, fields=Fields({"n": int}))
        vectors = random_vectors(3 * len(TENANTS), seed=71)
        everybody = " ".join(TENANTS)
        self.write(
            store,
            spec,
            [
                make_point(
                    f"{tenant}/{n}",
                    vectors[3 * t + n],
                    content=f"{COMMON_WORD} {everybody} number {n}",
                    metadata={"n": n},
                    fields=spec.fields,
                    tenant=tenant,
                )
                for t, tenant in enumerate(TENANTS)
                for n in range(3)
            ],
        )
        return spec

    def test_a_tenant_sees_its_own_rows_only(self, store: Store, generation: NewGeneration) -> None:
        spec = self.house(store, generation)
        wrong = []
        for tenant in TENANTS:
            own = {point_id(f"{tenant}/{n}") for n in range(3)}
            wrong += [f"{tenant!r}: {d}" for d in self.differences(store, spec, Scope(tenant=tenant), own)]
            everything = self.dense(store, spec, 10_000, Scope(tenant=tenant))
            assert set(ids(everything)) == own
            if store.capabilities.keyword:
                assert (
                    set(ids(self.keyword(store, spec, f"{COMMON_WORD} corp acme", 10_000, Scope(tenant=tenant)))) == own
                )
        assert not wrong, "\n".join(wrong)

    def test_with_a_filter(self, store: Store, generation: NewGeneration) -> None:
        spec = self.house(store, generation)
        for tenant in ("acme", "acme's", "😀"):
            self.answers(store, spec, [f"{tenant}/2"], self.scope(spec, Comparison("n", Operator.EQ, 2), tenant))
            self.answers(
                store,
                spec,
                [f"{tenant}/0", f"{tenant}/2"],
                self.scope(spec, Not(Comparison("n", Operator.EQ, 1)), tenant),
            )
            either = Comparison("n", Operator.EQ, 0) | Comparison("n", Operator.GE, 1)
            self.answers(store, spec, [f"{tenant}/{n}" for n in range(3)], self.scope(spec, either, tenant))

    def test_an_unknown_tenant_sees_nothing(self, store: Store, generation: NewGeneration) -> None:
        spec = self.house(store, generation)
        for stranger in ("nobody", "acm", "acme  ", "acmecorp"):
            self.answers(store, spec, [], Scope(tenant=stranger))

    @pytest.mark.parametrize("tenant", [None, ""], ids=["none", "empty"])
    def test_without_a_tenant_nothing_is_answered(
        self, store: Store, generation: NewGeneration, tenant: str | None
    ) -> None:
        spec = self.house(store, generation)
        for where in (None, Comparison("n", Operator.EQ, 1)):
            scope = self.scope(spec, where, tenant)
            with pytest.raises(TenantRequired):
                store.search(spec, QUERY, limit=3, scope=scope, params=SearchParams())
            with pytest.raises(TenantRequired):
                store.count(spec, scope)
            if store.capabilities.keyword:
                with pytest.raises(TenantRequired):
                    store.keyword_search(spec, COMMON_WORD, limit=3, scope=scope)

    def test_stale_and_deleted_rows_of_a_tenant(self, store: Store, generation: NewGeneration) -> None:
        spec = self.house(store, generation)
        store.set_stale(spec, [point_id("acme/0")])
        store.delete(spec, [point_id("acme/1"), point_id("Acme/1")])
        store.flush(spec)
        self.answers(store, spec, ["acme/2"], Scope(tenant="acme"))
        self.answers(store, spec, ["Acme/0", "Acme/2"], Scope(tenant="Acme"))
        self.answers(store, spec, ["ACME/0", "ACME/1", "ACME/2"], Scope(tenant="ACME"))
        assert len(list(store.scan(spec))) == 3 * len(TENANTS) - 2

    def test_a_small_tenant_far_from_the_query(self, store: Store, generation: NewGeneration) -> None:
        """The rows of another tenant are all nearer: the small one still gets all of its own."""
        spec = generation(tenanted=True)
        noise = random_vectors(404, seed=72) * 0.05
        large = [make_point(f"large{i}", QUERY + row, tenant="large") for i, row in enumerate(noise[:400])]
        small = [make_point(f"small{i}", row - QUERY, tenant="small") for i, row in enumerate(noise[400:])]
        self.write(store, spec, large + small)
        self.answers(store, spec, [f"small{i}" for i in range(4)], Scope(tenant="small"))
        assert len(self.dense(store, spec, 3, Scope(tenant="small")).items) == 3
