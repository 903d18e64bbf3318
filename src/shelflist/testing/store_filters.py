"""Filters: on every leg the exact set that `Filter.matches` says, or a refusal of what is not claimed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shelflist.core.errors import UnsupportedFilter
from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters.nodes import Comparison, Filter, Not, Operator
from shelflist.core.types import Point, SearchParams
from shelflist.stores.protocol import GenerationSpec, Scope, Store
from shelflist.testing import filter_cases
from shelflist.testing.filter_cases import CASES, FIELDS, NEW_YEAR, is_claimed
from shelflist.testing.points import COMMON_WORD, make_point, point_id, random_vectors, same_vector
from shelflist.testing.store_base import QUERY, NewGeneration, StoreBase
from shelflist.testing.strategies import OPERATORS, filters, metadata

_SAMPLES: Mapping[FieldType, Any] = {
    FieldType.STR: "a",
    FieldType.INT: 1,
    FieldType.FLOAT: 1.0,
    FieldType.BOOL: True,
    FieldType.DATETIME: NEW_YEAR,
    FieldType.LIST: "a",
}

_RANDOM = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    phases=[Phase.generate],  # shrinking runs the store for minutes; the message already names one filter and its rows
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.differing_executors,
    ],
)


class FilterTests(StoreBase):
    def points_of(self, rows: Mapping[str, Mapping[str, Any]], fields: Fields) -> list[Point]:
        vectors = random_vectors(len(rows), seed=61)
        return [
            make_point(name, vector, metadata=row, fields=fields, content=f"{COMMON_WORD} {i}")
            for i, ((name, row), vector) in enumerate(zip(rows.items(), vectors, strict=True))
        ]

    def matching(self, spec: GenerationSpec, points: list[Point], where: Filter) -> set[bytes]:
        """The oracle's answer: ids of the points whose stored metadata matches."""
        oracle = self.scope(spec, where).filter
        assert oracle is not None
        return {point.point_id for point in points if oracle.matches(point.metadata)}

    def wrong_answers(self, store: Store, spec: GenerationSpec, where: Filter, expected: set[bytes]) -> list[str]:
        """How the store's answers for a filter differ from the oracle's; a filter not claimed must be refused."""
        scope = self.scope(spec, where)
        assert scope.filter is not None
        if is_claimed(scope.filter, spec.fields, store.capabilities):
            return self.differences(store, spec, scope, expected)
        return self.not_refused(store, spec, where)

    def not_refused(self, store: Store, spec: GenerationSpec, where: Filter) -> list[str]:
        scope = self.scope(spec, where)
        calls: dict[str, Callable[[], object]] = {
            "search": lambda: store.search(spec, QUERY, limit=3, scope=scope, params=SearchParams()),
            "count": lambda: store.count(spec, scope),
        }
        if store.capabilities.keyword:
            calls["keyword_search"] = lambda: store.keyword_search(spec, COMMON_WORD, limit=3, scope=scope)
        wrong = []
        for leg, call in calls.items():
            try:
                call()
            except UnsupportedFilter:
                continue
            wrong.append(f"{leg} answers a filter operator that the store does not claim")
        return wrong

    @pytest.mark.parametrize("group", sorted(CASES))
    def test_filter_cases(self, store: Store, generation: NewGeneration, group: str) -> None:
        """Each case has a row that matches and one that does not, so neither "all" nor "none" passes."""
        spec = generation(fields=FIELDS)
        points = self.points_of(filter_cases.ROWS, FIELDS)
        self.write(store, spec, points)
        wrong = []
        for where in CASES[group]:
            expected = self.matching(spec, points, where)
            asked = str(where)[:200]
            assert 0 < len(expected) < len(points), f"{asked} matches {len(expected)} of {len(points)}: it cannot fail"
            wrong += [f"{asked}\n    {difference}" for difference in self.wrong_answers(store, spec, where, expected)]
        assert not wrong, f"{len(wrong)} differ from Filter.matches:\n" + "\n".join(wrong)

    def test_every_operator_of_every_type_is_among_the_cases(self) -> None:
        asked = set()

        def visit(tree: Any) -> None:
            for part in getattr(tree, "parts", ()):
                visit(part)
            if isinstance(tree, Not):
                visit(tree.part)
            if isinstance(tree, Comparison):
                asked.add((FIELDS[tree.field], tree.operator))

        for group in CASES.values():
            for where in group:
                visit(where)
        assert asked >= {(kind, operator) for kind, operators in OPERATORS.items() for operator in operators}

    def test_an_operator_that_is_not_claimed_is_refused(self, store: Store, generation: NewGeneration) -> None:
        """Also deep in a tree, where the rest of it could be answered."""
        spec = generation(fields=FIELDS)
        self.write(store, spec, self.points_of({"a": {"title": "a", "tags": ["a"]}}, FIELDS))
        wrong = []
        for field, kind in FIELDS.items():
            for operator in OPERATORS[kind]:
                value = _SAMPLES[kind]
                if operator in (Operator.IN, Operator.NOT_IN):
                    value = (value,)
                elif operator is Operator.BETWEEN:
                    value = (value, value)
                elif operator is Operator.EXISTS:
                    value = None
                where = Comparison(field, operator, value)
                for tree in (where, Comparison("title", Operator.EQ, "a") & ~where):
                    wanted = self.scope(spec, tree).filter
                    assert wanted is not None
                    if not is_claimed(wanted, FIELDS, store.capabilities):
                        wrong += self.not_refused(store, spec, tree)
        assert not wrong, "\n".join(wrong)

    @_RANDOM
    @given(data=st.data())
    def test_random_filters(self, store: Store, data: st.DataObject) -> None:
        spec = self.new_spec(store, fields=FIELDS)
        rows = data.draw(st.lists(metadata(FIELDS), min_size=3, max_size=10), label="rows")
        trees = filters(FIELDS, store.capabilities.filter_operators, store.capabilities.unsupported_on)
        wheres = data.draw(st.lists(trees, min_size=6, max_size=6), label="filters")
        points = self.points_of({f"m{i}": row for i, row in enumerate(rows)}, FIELDS)
        store.create(spec)
        try:
            self.write(store, spec, points)
            for where in wheres:
                expected = self.matching(spec, points, where)
                wrong = self.wrong_answers(store, spec, where, expected)
                shown = "\n".join(f"{point.point_id in expected}: {point.metadata}" for point in points)
                assert not wrong, f"{where}\n{'; '.join(wrong)}\nWhether each row should match:\n{shown}"
        finally:
            store.drop(spec.name)

    def test_only_these_points(self, store: Store, generation: NewGeneration) -> None:
        """What a ledger resolves a filter to: an unknown id among them harms nothing, and no id finds nothing."""
        spec = generation(fields=FIELDS)
        self.write(store, spec, self.points_of({f"p{i}": {"year": i} for i in range(30)}, FIELDS))
        some = [point_id(f"p{i}") for i in range(5)]
        self.answers(store, spec, [f"p{i}" for i in range(5)], Scope(point_ids=[*some, point_id("nobody")]))
        self.answers(store, spec, [], Scope(point_ids=[]))
        many = [point_id(f"nobody {i}") for i in range(9_990)]
        self.answers(store, spec, ["p1", "p2"], Scope(point_ids=[*many, *some[1:3]]))
        if store.capabilities.has_operator(Operator.GE, FieldType.INT):
            both = replace(self.scope(spec, Comparison("year", Operator.GE, 3)), point_ids=some)
            self.answers(store, spec, ["p3", "p4"], both)

    def test_two_filters_that_look_alike(self, store: Store, generation: NewGeneration) -> None:
        """Asked in turn, twice: an answer kept for one may not be given for the other."""
        spec = generation(fields=FIELDS)
        rows: dict[str, dict[str, Any]] = {
            "text": {"title": "1"},
            "int": {"year": 1},
            "float": {"price": 1.5},
            "bool": {"public": True},
            "list": {"tags": ["1"]},
        }
        points = self.points_of(rows, FIELDS)
        self.write(store, spec, points)
        alike: dict[str, Filter] = {
            "text": Comparison("title", Operator.EQ, "1"),
            "int": Comparison("year", Operator.EQ, 1),
            "bool": Comparison("public", Operator.EQ, True),
            "list": Comparison("tags", Operator.EQ, "1"),
            "float": Comparison("price", Operator.GT, 1),
        }
        for _ in range(2):
            for name, where in alike.items():
                if is_claimed(where, spec.fields, store.capabilities):
                    self.answers(store, spec, [name], self.scope(spec, where))

    def test_add_fields_reaches_old_and_new_points(self, store: Store, generation: NewGeneration) -> None:
        old = generation(fields=Fields({"title": str, "born": "datetime"}))
        rows: dict[str, dict[str, Any]] = {
            "a": {
                "title": "x",
                "born": NEW_YEAR,
                "year": 2020,
                "tags": ["api", "it's"],
                "when": datetime(2024, 1, 1, tzinfo=UTC),
                "ok": True,
            },
            "b": {"title": "y", "year": 1999, "tags": [], "when": datetime(1999, 1, 1, tzinfo=UTC), "ok": False},
            "null": {"title": "x", "year": None, "tags": None, "when": None, "ok": None},
            "without": {"title": "y"},
        }
        before = self.points_of(rows, old.fields)
        self.write(store, old, before)
        new = replace(
            old,
            fields=Fields(
                {**old.fields, "year": int, "tags": "list[str]", "when": "datetime", "ok": bool, "score": float}
            ),
        )
        store.add_fields(old, new, [(p.point_id, p.metadata) for p in self.points_of(rows, new.fields)])
        later = make_point("later", QUERY, metadata={"year": 2021, "tags": ["api"], "score": 2}, fields=new.fields)
        self.write(store, new, [later])
        points = [*self.points_of(rows, new.fields), later]
        asked: list[Filter] = [
            Comparison("year", Operator.GE, 2000),
            Comparison("year", Operator.NE, 2020),
            Comparison("year", Operator.EXISTS),
            Comparison("tags", Operator.CONTAINS, "api"),
            Not(Comparison("tags", Operator.CONTAINS, "it's")),
            Comparison("when", Operator.LT, datetime(2000, 1, 1, tzinfo=UTC)),
            Comparison("ok", Operator.EQ, True),
            Comparison("score", Operator.EQ, 2.0),
            Comparison("title", Operator.EQ, "x"),
            Comparison("born", Operator.EQ, NEW_YEAR),
            Comparison("title", Operator.EQ, "x") & Comparison("year", Operator.GT, 0),
        ]
        wrong = []
        for where in asked:
            expected = self.matching(new, points, where)
            assert 0 < len(expected) < len(points)
            wrong += [f"{where}: {difference}" for difference in self.wrong_answers(store, new, where, expected)]
        assert not wrong, "\n".join(wrong)
        found = store.get(new, [point_id("a")])[0]
        assert found.metadata["year"] == 2020 and same_vector(found.vector, before[0].vector, store, new)

    def test_field_names_of_the_store_itself(self, store: Store, generation: NewGeneration) -> None:
        """A user may call a field what a store calls a column, or what SQL calls a keyword."""
        columns = ["id", "row", "rowid", "vector", "metadata", "point_id", "tenant", "name"]
        self.each_field_alone(store, generation, [*columns, "select", "order", "text", "value", "where", "and", "NOT"])

    def test_field_names_that_differ_in_case(self, store: Store, generation: NewGeneration) -> None:
        self.each_field_alone(store, generation, ["name", "Name", "NAME"])

    def each_field_alone(self, store: Store, generation: NewGeneration, names: list[str]) -> None:
        spec = generation(fields=Fields(dict.fromkeys(names, str)))
        rows = {name: {name: "x", "content hint": name} for name in names} | {"none of them": {}}
        points = self.points_of(rows, spec.fields)
        self.write(store, spec, points)
        for name in names:
            self.answers(store, spec, [name], self.scope(spec, Comparison(name, Operator.EQ, "x")))
