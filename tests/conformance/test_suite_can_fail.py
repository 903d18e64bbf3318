"""A store with one fault must fail the suite: each fault here is one that a real adapter has had or could have."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from _pytest.outcomes import Failed

from shelflist.core.errors import InvalidVector, StoreError
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or
from shelflist.core.types import Candidates, IndexStatus, Point, SearchParams, UpsertResult, Vector
from shelflist.stores.memory import MemoryStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing import StoreSuite
from shelflist.testing.filter_cases import CASES

Answer = tuple[type[MemoryStore], str, dict[str, Any]]
_ASKS = {"limit": 1000, "scope": Scope(), "params": SearchParams()}


class _Changed(Filter):
    """A filter whose comparisons are changed by `rule`: (comparison, metadata) -> bool, or None for the true answer."""

    def __init__(self, tree: Filter, rule: Callable[[Comparison, Any], bool | None]) -> None:
        self.tree, self.rule = tree, rule

    def matches(self, metadata: Any) -> bool:
        return self._ask(self.tree, metadata)

    def _ask(self, tree: Filter, metadata: Any) -> bool:
        match tree:
            case And():
                return all(self._ask(part, metadata) for part in tree.parts)
            case Or():
                return any(self._ask(part, metadata) for part in tree.parts)
            case Not():
                return not self._ask(tree.part, metadata)
        assert isinstance(tree, Comparison)
        changed = self.rule(tree, metadata)
        return tree.matches(metadata) if changed is None else changed


def filter_fault(rule: Callable[[Comparison, Any], bool | None]) -> type[MemoryStore]:
    class Faulty(MemoryStore):
        def _matching(self, spec: GenerationSpec, scope: Scope) -> list[Point]:
            if scope.filter is not None:
                scope = replace(scope, filter=_Changed(scope.filter, rule))
            return super()._matching(spec, scope)

    return Faulty


def null_is_unequal_to_nothing(asked: Comparison, metadata: Any) -> bool | None:
    """SQL's three values: NULL <> 'x' is not true."""
    return False if asked.operator in (Operator.NE, Operator.NOT_IN) and metadata.get(asked.field) is None else None


def equality_never_matches_numbers(asked: Comparison, metadata: Any) -> bool | None:
    return False if asked.operator is Operator.EQ and type(asked.value) in (int, float) else None


def like_has_wildcards(asked: Comparison, metadata: Any) -> bool | None:
    import re

    stored = metadata.get(asked.field)
    if asked.operator is not Operator.STARTS_WITH or stored is None:
        return None
    pattern = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in asked.value)
    return re.match(pattern, stored, re.DOTALL) is not None


def case_is_ignored(asked: Comparison, metadata: Any) -> bool | None:
    stored = metadata.get(asked.field)
    if asked.operator is not Operator.EQ or not isinstance(stored, str):
        return None
    return bool(stored.lower() == asked.value.lower())


def order_is_utf16(asked: Comparison, metadata: Any) -> bool | None:
    stored = metadata.get(asked.field)
    if asked.operator is not Operator.LT or not isinstance(stored, str):
        return None
    return bool(stored.encode("utf-16-be") < asked.value.encode("utf-16-be"))


def in_takes_a_thousand(asked: Comparison, metadata: Any) -> bool | None:
    if asked.operator is not Operator.IN:
        return None
    return replace(asked, value=asked.value[:1000]).matches(metadata)


def null_exists(asked: Comparison, metadata: Any) -> bool | None:
    return asked.field in metadata if asked.operator is Operator.EXISTS else None


def large_ints_are_floats32(asked: Comparison, metadata: Any) -> bool | None:
    stored = metadata.get(asked.field)
    if asked.operator is not Operator.EQ or type(stored) is not int:
        return None
    return bool(np.float32(stored) == np.float32(asked.value))


class ForgetsOne(MemoryStore):
    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        result = super().upsert(spec, points[:-1])
        return UpsertResult([*result.stored, *(p.point_id for p in points[-1:])])


class StoresUntilTheBadOne(MemoryStore):
    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        return UpsertResult(
            [one for point in points for one in super(StoresUntilTheBadOne, self).upsert(spec, [point]).stored]
        )


class SkipsBadVectors(MemoryStore):
    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        good = [p for p in points if p.vector.shape == (spec.dimensions,) and np.isfinite(p.vector).all()]
        bad = {p.point_id: "no vector" for p in points if p not in good}
        return UpsertResult(super().upsert(spec, good).stored, bad)


class NamesNoBadVector(MemoryStore):
    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        try:
            return super().upsert(spec, points)
        except InvalidVector as error:
            raise type(error)("one of the vectors is bad") from None


def _large(point: Point) -> bool:
    return len(str(point.metadata)) + len(point.content) + len(point.document_id) > 20_000


class LosesLargeItems(MemoryStore):
    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        super().upsert(spec, [point for point in points if not _large(point)])
        return UpsertResult([point.point_id for point in points])


class CutsLongTexts(MemoryStore):
    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        return super().upsert(
            spec, [replace(p, metadata={**p.metadata, "title": str(p.metadata.get("title"))[:9]}) for p in points]
        )


class RefusesAllForOne(MemoryStore):
    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        if any(map(_large, points)):
            return UpsertResult([], {point.point_id: "too large" for point in points})
        return super().upsert(spec, points)


class AcknowledgesNothing(MemoryStore):
    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        super().upsert(spec, points)
        return UpsertResult([])


class ServesStale(MemoryStore):
    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        """Does nothing."""


class DeletesStale(MemoryStore):
    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        self.delete(spec, point_ids)


class KeepsDeleted(MemoryStore):
    def delete(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        self.set_stale(spec, point_ids)


class SharesOneRoom(MemoryStore):
    def create(self, spec: GenerationSpec) -> None:
        super().create(spec)
        self._generations[spec.name] = next(iter(self._generations.values()))


class Normalises(MemoryStore):
    def vectors(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> dict[bytes, Vector]:
        return {one: v / np.linalg.norm(v) for one, v in super().vectors(spec, point_ids).items()}


class SquaresL2(MemoryStore):
    def search(self, spec: GenerationSpec, vector: Vector, **asked: Any) -> Candidates:
        found = super().search(spec, vector, **asked)
        return replace(found, items=[item._replace(value=item.value * abs(item.value)) for item in found.items])


class DotIsCosine(MemoryStore):
    def search(self, spec: GenerationSpec, vector: Vector, **asked: Any) -> Candidates:
        return super().search(replace(spec, metric="cosine"), vector, **asked)


class FiltersAfterwards(MemoryStore):
    """Takes the best 50 of everything and drops what does not match."""

    def _post(self, found: Candidates, allowed: set[bytes], limit: int) -> Candidates:
        return replace(found, items=[item for item in found.items if item.point_id in allowed][:limit])

    def search(self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: Any) -> Candidates:
        allowed = {p.point_id for p in self._matching(spec, scope)}
        found = super().search(spec, vector, limit=50, scope=Scope(tenant=scope.tenant), params=params)
        return self._post(found, allowed, limit)

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        allowed = {p.point_id for p in self._matching(spec, scope)}
        found = super().keyword_search(spec, text, limit=50, scope=Scope(tenant=scope.tenant))
        return self._post(found, allowed, limit)


class NeverExhausted(MemoryStore):
    def search(self, spec: GenerationSpec, vector: Vector, **asked: Any) -> Candidates:
        return replace(super().search(spec, vector, **asked), exhausted=False)


class AlwaysExhausted(MemoryStore):
    def search(self, spec: GenerationSpec, vector: Vector, **asked: Any) -> Candidates:
        return replace(super().search(spec, vector, **asked), exhausted=True)


class LeaksByKeyword(MemoryStore):
    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        if spec.tenanted and not scope.tenant:
            return super().keyword_search(spec, text, limit=limit, scope=scope)
        return super().keyword_search(
            replace(spec, tenanted=False), text, limit=limit, scope=replace(scope, tenant=None)
        )


class EmptyTenantIsEveryone(MemoryStore):
    def _matching(self, spec: GenerationSpec, scope: Scope) -> list[Point]:
        if scope.tenant is None or scope.tenant == "":
            spec, scope = replace(spec, tenanted=False), replace(scope, tenant=None)
        return super()._matching(spec, scope)


class TenantsIgnoreCase(MemoryStore):
    def _matching(self, spec: GenerationSpec, scope: Scope) -> list[Point]:
        everyone = super()._matching(replace(spec, tenanted=False), replace(scope, tenant=None))
        super()._matching(spec, scope)
        return [p for p in everyone if scope.tenant is None or (p.tenant_id or "").lower() == scope.tenant.lower()]


class ParsesQueries(MemoryStore):
    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        if text.count('"') % 2:
            raise StoreError("unbalanced quote")
        return super().keyword_search(spec, text, limit=limit, scope=scope)


class MinusExcludes(MemoryStore):
    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        return super().keyword_search(spec, "" if text.startswith("-") else text, limit=limit, scope=scope)


class NeedsAllTerms(MemoryStore):
    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        found = super().keyword_search(spec, text, limit=limit, scope=scope)
        each = [
            {c.point_id for c in super(NeedsAllTerms, self).keyword_search(spec, word, limit=10**6, scope=scope).items}
            for word in text.split()
        ]
        return replace(found, items=[c for c in found.items if all(c.point_id in one for one in each)])


class ClaimsLess(MemoryStore):
    """Answers what it does not claim."""

    capabilities = replace(
        MemoryStore.capabilities,
        metrics=frozenset({"cosine"}),
        filter_operators=frozenset(Operator) - {Operator.STARTS_WITH},
        keyword=None,
        exact=False,
        max_dimensions=64,
    )

    def create(self, spec: GenerationSpec) -> None:
        """Takes everything."""
        from shelflist.stores.memory import _Generation

        self._generations.setdefault(spec.name, _Generation(spec))


class ForgetsMarker(MemoryStore):
    def read_marker(self, collection: str) -> str | None:
        return None


class ForgetsNewFields(MemoryStore):
    def _matching(self, spec: GenerationSpec, scope: Scope) -> list[Point]:
        known = self._generations[spec.name].spec.fields
        points = super()._matching(spec, replace(scope, filter=None))
        if scope.filter is None:
            return points
        kept = [(p, {k: v for k, v in p.metadata.items() if k in known}) for p in points]
        return [p for p, metadata in kept if scope.filter.matches(metadata)]

    def add_fields(self, old: GenerationSpec, new: GenerationSpec, rows: object) -> None:
        """Does nothing."""


class RepairRevives(MemoryStore):
    def repair(self, spec: GenerationSpec) -> list[str]:
        points = self._generations[spec.name].points
        points.update({one: replace(p, index_status=IndexStatus.INDEXED) for one, p in points.items()})
        return ["rebuilt"]


class ShowsHalfBatches(MemoryStore):
    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        import time

        for point in points:
            super().upsert(spec, [point])
            time.sleep(0.002)
        return UpsertResult([p.point_id for p in points])


def _filters(rule: Callable[[Comparison, Any], bool | None], group: str) -> Answer:
    return filter_fault(rule), "test_filter_cases", {"group": group}


_BAD_VECTOR = "test_a_bad_vector_is_named_and_nothing_of_its_batch_is_written"
_TOO_LARGE = "test_an_item_too_large_for_the_store_is_named_and_the_others_are_stored"
FAULTS: dict[str, Answer] = {
    "NULL is unequal to nothing": _filters(null_is_unequal_to_nothing, "missing and null match nothing"),
    "numbers never equal": _filters(equality_never_matches_numbers, "int"),
    "wildcards in starts with": _filters(like_has_wildcards, "text starts with"),
    "equality ignores case": _filters(case_is_ignored, "text equals"),
    "text order by UTF-16": _filters(order_is_utf16, "text order"),
    "in is cut": _filters(in_takes_a_thousand, "int"),
    "null exists": _filters(null_exists, "exists"),
    "ints are float32": _filters(large_ints_are_floats32, "int"),
    "random filters": (filter_fault(null_is_unequal_to_nothing), "test_random_filters", {}),
    "forgets a point": (ForgetsOne, "test_upsert_is_idempotent", {}),
    "acknowledges nothing": (AcknowledgesNothing, "test_upsert_acknowledges_every_id", {}),
    "stores until the bad one": (StoresUntilTheBadOne, _BAD_VECTOR, {"kind": "NaN"}),
    "skips bad vectors": (SkipsBadVectors, _BAD_VECTOR, {"kind": "a dimension too few"}),
    "names no bad vector": (NamesNoBadVector, _BAD_VECTOR, {"kind": "all zeros"}),
    "loses large items": (LosesLargeItems, _TOO_LARGE, {"large": "text"}),
    "cuts long texts": (CutsLongTexts, _TOO_LARGE, {"large": "field"}),
    "refuses all for one": (RefusesAllForOne, _TOO_LARGE, {"large": "document_id"}),
    "serves stale": (ServesStale, "test_set_stale_hides_but_keeps", {}),
    "deletes stale": (DeletesStale, "test_set_stale_hides_but_keeps", {}),
    "keeps deleted": (KeepsDeleted, "test_delete_and_unknown_ids", {}),
    "one room for all": (SharesOneRoom, "test_generations_are_isolated", {}),
    "normalises vectors": (Normalises, "test_vectors_are_the_bits_that_were_written", {}),
    "squares l2": (SquaresL2, "test_metric", {"metric": "l2"}),
    "dot is cosine": (DotIsCosine, "test_metric", {"metric": "dot"}),
    "post-filter, dense": (FiltersAfterwards, "test_exactly_the_lesser_of_limit_and_matches", {"limit": 10}),
    "post-filter, keyword": (FiltersAfterwards, "test_a_filtered_match_behind_500_others_is_found", {}),
    "never exhausted": (NeverExhausted, "test_exhausted_without_filter", {"limit": 241}),
    "always exhausted": (AlwaysExhausted, "test_exhausted_without_filter", {"limit": 239}),
    "keyword leg leaks": (LeaksByKeyword, "test_a_tenant_sees_its_own_rows_only", {}),
    "no tenant is everyone": (EmptyTenantIsEveryone, "test_without_a_tenant_nothing_is_answered", {"tenant": None}),
    "empty tenant is everyone": (EmptyTenantIsEveryone, "test_without_a_tenant_nothing_is_answered", {"tenant": ""}),
    "tenants ignore case": (TenantsIgnoreCase, "test_a_tenant_sees_its_own_rows_only", {}),
    "query syntax": (ParsesQueries, "test_no_query_is_a_syntax_error", {}),
    "minus excludes": (MinusExcludes, "test_query_characters_have_no_meaning", {"text": "-kestrel"}),
    "all terms needed": (NeedsAllTerms, "test_finds_by_stem_and_any_term",
        {"text": "meadow river", "expected": {"caps", "run"}}),
    "unclaimed metric": (ClaimsLess, "test_metric", {"metric": "l2"}),
    "unclaimed operator": (ClaimsLess, "test_an_operator_that_is_not_claimed_is_refused", {}),
    "unclaimed operator in a case": (ClaimsLess, "test_filter_cases", {"group": "text starts with"}),
    "unclaimed keyword leg": (ClaimsLess, "test_no_query_is_a_syntax_error", {}),
    "unclaimed exact": (ClaimsLess, "test_exact_where_claimed", {}),
    "unclaimed dimensions": (ClaimsLess, "test_dimension_limit", {}),
    "forgets the marker": (ForgetsMarker, "test_markers_name_the_ledger_of_each_collection", {}),
    "forgets new fields": (ForgetsNewFields, "test_add_fields_reaches_old_and_new_points", {}),
    "repair revives": (RepairRevives, "test_repair_loses_nothing", {}),
    "half batches": (ShowsHalfBatches, "test_readers_beside_writers", {}),
}  # fmt: skip


class Suite(StoreSuite):
    """Runs single tests of the suite without pytest's fixtures."""


@pytest.fixture
def suite() -> Iterator[Suite]:
    yield Suite()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_store_fails(suite: Suite, fault: str) -> None:
    faulty, name, arguments = FAULTS[fault]

    store = faulty()

    def generation(**options: Any) -> GenerationSpec:
        spec = suite.new_spec(store, **options)
        store.create(spec)
        return spec

    needs = (
        {}
        if name in ("test_markers_name_the_ledger_of_each_collection", "test_random_filters")
        else {"generation": generation}
    )
    with pytest.raises((AssertionError, Failed, StoreError)):
        getattr(suite, name)(store=store, **needs, **arguments)


@pytest.mark.parametrize("answer", [True, False])
def test_every_group_of_cases_refuses_one_answer_for_all(suite: Suite, answer: bool) -> None:
    """A store whose every comparison is true, or false, fails in every group."""
    for group in CASES:
        store = filter_fault(lambda asked, metadata: answer)()

        def generation(store: MemoryStore = store, **options: Any) -> GenerationSpec:
            spec = suite.new_spec(store, **options)
            store.create(spec)
            return spec

        with pytest.raises(AssertionError, match=r"differ from Filter\.matches"):
            suite.test_filter_cases(store, generation, group)


def test_without_pytest_the_import_names_the_extra() -> None:
    code = "import sys; sys.modules['pytest'] = None; import shelflist.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "pip install 'shelflist[test]'" in done.stderr
