"""The keyword leg: stems, order, harmless syntax, and matches deep in the list."""

from __future__ import annotations

import pytest

from shelflist.core.errors import UnsupportedOperation
from shelflist.core.fields import Fields
from shelflist.core.filters.nodes import Comparison, Operator
from shelflist.core.types import Point
from shelflist.stores.protocol import GenerationSpec, Scope, Store
from shelflist.testing.points import make_point, names_of, point_id, random_vectors
from shelflist.testing.store_base import NewGeneration, StoreBase, ids

TEXTS = {
    "run": "They run every morning along the river.",
    "walk": "A walk in the park is quiet.",
    "keys": "How to rotate an access key: create the new key, deploy it, then delete the old key.",
    "one key": "The deposit desk hands out a locker token and one key to each visitor of the reading room.",
    "umlaut": "Der Zug nach Zürich fährt um acht.",
    "code": "Call client.get_object(Bucket='b', Key=\"k\") and check status_code == 200 && retries < 3.",
    "caps": "KESTREL hovering over the meadow",
    "and": "cats AND dogs OR birds NOT fish",
}

ODD_QUERIES = [
    "", " ", "\t\n", "the", "the a of and", "?!", '"', "'", '"unbalanced', "'unbalanced", "it's", "title:key",
    "key:", ":key", "a:b:c",
    "AND", "OR", "NOT", "AND OR NOT", "key AND", "NOT key", "+key", "-key", "+", "-", "--", "(key", "key)",
    "((", "[key", "key]",
    "[a TO b]", "{a TO b}", "key~", "key~2", "~", "key^2", "^", "*", "ke*", "*key", "?", "k?y", "\\", "key\\",
    "/key/", "/", "%", "_",
    "key%", "<key>", "key & !park | (walk <-> park)", "key:*", "NEAR(key park, 2)", "content:key", "{}", "$key",
    "@key", "#key", ";--",
    "'; DROP TABLE points; --", "key\x00park", "😀", "日本語", "e\u0301", "\u200b", "\ufeff", "IN [key park]",
    "key && park || walk",
    "k" * 5000, "key " * 3000, " ".join(f"word{i}" for i in range(2000)),
]  # fmt: skip


class KeywordTests(StoreBase):
    def library(self, store: Store, generation: NewGeneration) -> GenerationSpec | None:
        """A generation with TEXTS; None where the keyword leg is not claimed, which must then be refused."""
        spec = generation()
        vectors = random_vectors(len(TEXTS), seed=1)
        self.write(store, spec, [make_point(n, v, content=t) for (n, t), v in zip(TEXTS.items(), vectors, strict=True)])
        return spec if self.claimed(store, spec) else None

    def claimed(self, store: Store, spec: GenerationSpec) -> bool:
        if store.capabilities.keyword:
            return True
        with pytest.raises(UnsupportedOperation):
            store.keyword_search(spec, "key", limit=5, scope=Scope())
        return False

    def found(self, store: Store, spec: GenerationSpec, text: str, limit: int = 20) -> list[str]:
        """Names, best first."""
        by_id = {point_id(name): name for name in TEXTS}
        return [by_id[one] for one in ids(self.keyword(store, spec, text, limit))]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("running", {"run"}),
            ("runs", {"run"}),
            ("hover", {"caps"}),
            ("kestrel", {"caps"}),
            ("Kestrels", {"caps"}),
            ("walking parks", {"walk"}),
            ("keys", {"keys", "one key", "code"}),
            ("Zürich", {"umlaut"}),
            ("meadow river", {"caps", "run"}),
            ("status_code", {"code"}),
            ("fish", {"and"}),
        ],
    )
    def test_finds_by_stem_and_any_term(
        self, store: Store, generation: NewGeneration, text: str, expected: set[str]
    ) -> None:
        spec = self.library(store, generation)
        if spec is not None:
            assert set(self.found(store, spec, text)) == expected

    def test_a_word_that_no_text_has(self, store: Store, generation: NewGeneration) -> None:
        spec = self.library(store, generation)
        if spec is not None:
            answer = self.keyword(store, spec, "xylophone", 10)
            assert not answer.items and answer.exhausted
            assert self.found(store, spec, "xylophone kestrel") == ["caps"]

    def test_the_better_match_comes_first(self, store: Store, generation: NewGeneration) -> None:
        spec = self.library(store, generation)
        if spec is None:
            return
        assert self.found(store, spec, "rotate access key")[0] == "keys"
        assert self.found(store, spec, "locker token key")[0] == "one key"
        answer = self.keyword(store, spec, "rotate access key", 10)
        assert all(item.value > 0 for item in answer.items)
        assert answer.items[0].value > answer.items[-1].value
        assert self.found(store, spec, "rotate access key", limit=1) == ["keys"]

    def test_more_often_is_better_at_equal_length(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        texts = {"once": "heron lake reed pond", "thrice": "heron heron heron pond", "never": "lake reed pond mud"}
        vectors = random_vectors(3, seed=1)
        self.write(store, spec, [make_point(n, v, content=t) for (n, t), v in zip(texts.items(), vectors, strict=True)])
        if self.claimed(store, spec):
            assert ids(self.keyword(store, spec, "heron", 5)) == [point_id("thrice"), point_id("once")]

    def test_a_rare_term_outweighs_a_common_one(self, store: Store, generation: NewGeneration) -> None:
        """BM25 knows how rare a term is; a plain count of terms does not, and claims no more."""
        if store.capabilities.keyword == "frequency":
            return
        spec = generation()
        texts = {f"common{i}": f"harbour number{i} stone wall" for i in range(30)} | {
            "rare": "lantern number stone wall"
        }
        vectors = random_vectors(len(texts), seed=1)
        self.write(store, spec, [make_point(n, v, content=t) for (n, t), v in zip(texts.items(), vectors, strict=True)])
        if self.claimed(store, spec):
            answer = ids(self.keyword(store, spec, "harbour lantern", 40))
            assert answer[0] == point_id("rare") and len(answer) == 31

    def test_no_query_is_a_syntax_error(self, store: Store, generation: NewGeneration) -> None:
        spec = self.library(store, generation)
        if spec is None:
            return
        for text in ODD_QUERIES:
            try:
                self.keyword(store, spec, text, 10)
            except Exception as error:
                error.add_note(f"for the query {text[:60]!r}")
                raise

    @pytest.mark.parametrize(
        "text",
        ["-kestrel", "NOT kestrel", '"kestrel river"', "kestrel AND xylophone", "kestrel~", "(kestrel",
            "title:kestrel", "*kestrel*", "kestrel!"],
    )  # fmt: skip
    def test_query_characters_have_no_meaning(self, store: Store, generation: NewGeneration, text: str) -> None:
        """A person who types a minus or quotes still means the word."""
        spec = self.library(store, generation)
        if spec is not None:
            assert "caps" in self.found(store, spec, text)

    @pytest.mark.parametrize("text", ["", "   ", "?!;", '"""', "()"])
    def test_no_terms_find_nothing(self, store: Store, generation: NewGeneration, text: str) -> None:
        spec = self.library(store, generation)
        if spec is not None:
            answer = self.keyword(store, spec, text, 10)
            assert not answer.items and answer.exhausted

    def crowd(self, *, fields: Fields, tenant: str | None = None, other: str | None = None) -> list[Point]:
        """500 short texts that match "osprey" best, and three long ones that match worst."""
        filler = " ".join(f"filler{i} text" for i in range(120))
        vectors = random_vectors(503, seed=51)
        points = [
            make_point(
                f"loud{i}",
                v,
                content=f"osprey osprey osprey nest{i % 7}",
                metadata={"source": "loud"},
                fields=fields,
                tenant=other,
            )
            for i, v in enumerate(vectors[:500])
        ]
        points += [
            make_point(
                f"quiet{i}",
                v,
                content=f"{filler} osprey {i}",
                metadata={"source": "quiet"},
                fields=fields,
                tenant=tenant,
            )
            for i, v in enumerate(vectors[500:])
        ]
        return points

    def all_quiet(self, store: Store, spec: GenerationSpec, scope: Scope) -> None:
        quiet = [f"quiet{i}" for i in range(3)]
        for limit in (2, 3, 10):
            answer = self.keyword(store, spec, "osprey", limit, scope)
            assert len(answer.items) == min(limit, 3)
            assert set(names_of(ids(answer), quiet)) <= set(quiet)
            if limit != 3:
                assert answer.exhausted == (limit > 3)

    def test_a_filtered_match_behind_500_others_is_found(self, store: Store, generation: NewGeneration) -> None:
        spec = generation(fields=Fields({"source": str}))
        self.write(store, spec, self.crowd(fields=spec.fields))
        if self.claimed(store, spec):
            loud = self.keyword(store, spec, "osprey", 500)
            assert not loud.exhausted and not set(ids(loud)) & {point_id(f"quiet{i}") for i in range(3)}
            self.all_quiet(store, spec, self.scope(spec, Comparison("source", Operator.EQ, "quiet")))

    def test_a_tenants_match_behind_500_of_another_is_found(self, store: Store, generation: NewGeneration) -> None:
        spec = generation(tenanted=True)
        self.write(store, spec, self.crowd(fields=spec.fields, tenant="small", other="large"))
        if store.capabilities.keyword:
            self.all_quiet(store, spec, self.scope(spec, tenant="small"))

    def test_a_match_behind_500_stale_ones_is_found(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        self.write(store, spec, self.crowd(fields=spec.fields))
        store.set_stale(spec, [point_id(f"loud{i}") for i in range(500)])
        store.flush(spec)
        if self.claimed(store, spec):
            self.all_quiet(store, spec, Scope())

    def test_a_match_behind_500_deleted_ones_is_found(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        self.write(store, spec, self.crowd(fields=spec.fields))
        store.delete(spec, [point_id(f"loud{i}") for i in range(500)])
        store.flush(spec)
        if self.claimed(store, spec):
            self.all_quiet(store, spec, Scope())

    def test_order_does_not_depend_on_how_it_was_written(self, store: Store, generation: NewGeneration) -> None:
        """One batch or one at a time: the same texts give the same order and nearly the same scores."""
        at_once, one_by_one = generation(), generation()
        points = [
            make_point(n, v, content=t) for (n, t), v in zip(TEXTS.items(), random_vectors(8, seed=1), strict=True)
        ]
        self.write(store, at_once, points)
        for point in points:
            self.write(store, one_by_one, [point])
        if not self.claimed(store, at_once):
            return
        for text in ("rotate access key", "key park", "run kestrel key"):
            first, second = (self.keyword(store, spec, text, 10) for spec in (at_once, one_by_one))
            assert ids(first) == ids(second) and len(first.items) >= 2
            for a, b in zip(first.items, second.items, strict=True):
                assert a.value == pytest.approx(b.value, rel=0.02)
