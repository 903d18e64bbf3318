"""The way out: min(k, matches) on every leg, order and scores, filters, and the options of a search."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from counting import DIMENSIONS, CountingEmbedder, chunks, contents, document, unit
from places import Place

import shelflist
from shelflist import Chunk, Collection, Document, F, Hit, SearchParams
from shelflist.core.errors import DimensionMismatch, FilterError, InvalidInput, InvalidVector, UnknownField
from shelflist.core.filters import prepare
from shelflist.core.types import Recall


class Counted:
    """What any library's integer is to Python."""

    def __index__(self) -> int:
        return 3


FIELDS = {"n": int, "color": str, "tags": list[str], "draft": bool}
WORDS = ("stone", "river", "glass", "tower", "amber", "falcon")
MODES = ("dense", "keyword", "hybrid")


def random_rows(number: int, seed: int) -> list[Chunk]:
    chance = random.Random(seed)
    rows = []
    for i in range(number):
        words = chance.sample(WORDS, chance.randint(1, 3))
        metadata: dict[str, Any] = {
            "n": chance.randint(0, 9),
            "tags": chance.sample(["a", "b", "c"], chance.randint(0, 2)),
        }
        if chance.random() < 0.8:
            metadata["color"] = chance.choice(["red", "green", "blue"])
        if chance.random() < 0.3:
            metadata["draft"] = chance.random() < 0.5
        rows.append(Chunk(f"{' '.join(words)} number{i}", metadata))
    return rows


def shelve(docs: Collection, rows: Sequence[Chunk]) -> None:
    docs.sync_all(Document(f"doc{i}", rows[i * 7 : i * 7 + 7]) for i in range(len(rows) // 7))


FILTERS: list[Any] = [
    None,
    F("n") < 3,
    'color == "red" and n >= 5',
    {"color": {"$ne": "red"}},
    F("tags").contains("a") | (F("draft") == True),  # noqa: E712
    'not ("b" in tags) and n in [1, 2, 3]',
    "n == 77",
    ~F("color").exists(),
]


@pytest.mark.parametrize("seed", [1, 2])
def test_every_leg_returns_as_many_as_match_up_to_the_limit(place: Place, seed: int) -> None:
    docs = place.open(fields=FIELDS)
    rows = random_rows(140, seed)
    shelve(docs, rows)
    # Condemned points and points of another revision must never take the place of a match.
    docs.sync("doc0", rows[:3])
    docs.delete("doc1")
    docs.mark_stale("doc2")
    alive = rows[:3] + rows[21:]
    for where in FILTERS:
        checked = prepare(where, docs.fields)
        matching = {
            row.content for row in alive if checked is None or checked.matches(docs.fields.stored(row.metadata))
        }
        assert docs.count(where) == len(matching)
        sharing = {text for text in matching if "river" in text.split()}
        for limit in (1, 5, 40, 500):
            for mode in MODES:
                hits = docs.search("river", limit=limit, where=where, mode=mode)
                candidates = sharing if mode == "keyword" else matching
                assert len(hits) == min(limit, len(candidates)), (mode, limit, where)
                assert {hit.content for hit in hits} <= candidates
                assert len({hit.chunk_id for hit in hits}) == len(hits)
                scores = [hit.score for hit in hits]
                assert scores == sorted(scores, reverse=True)
            vector = docs.search(unit("anything"), limit=limit, where=where)
            assert len(vector) == min(limit, len(matching))
    assert docs.verify()["ok"]


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_a_higher_score_is_nearer_on_every_metric(place: Place, metric: str) -> None:
    docs = place.given(metric=metric, dimensions=3)
    rows = {"near": [1.0, 0.0, 0.0], "mid": [0.6, 0.7, 0.0], "far": [-1.0, 0.0, 0.1]}
    docs.sync("p", [Chunk(text, embedding=row) for text, row in rows.items()])
    query = np.array([1, 0, 0], dtype=np.float32)
    hits = docs.search(query)
    assert [hit.content for hit in hits] == ["near", "mid", "far"]
    distances = [hit.distance for hit in hits]
    assert None not in distances and distances == sorted(distances)  # type: ignore[type-var]
    assert hits[0].score > hits[1].score > hits[2].score
    cosine = 0.6 / np.hypot(0.6, 0.7)
    expected = {
        "cosine": (1 - cosine, cosine),
        "dot": (-0.6, 0.6),
        "l2": (np.hypot(0.4, 0.7), 1 / (1 + np.hypot(0.4, 0.7))),
    }
    assert (hits[1].distance, hits[1].score) == pytest.approx(expected[metric], abs=1e-5)
    assert docs.search(query, params=SearchParams(exact=True)).exact


def test_a_hit_carries_everything(place: Place) -> None:
    docs = place.open(fields={"n": int, "at": "datetime"})
    metadata = {"n": 3, "at": "2024-05-01T12:00:00+02:00", "free": {"deep": [1, None, "x"]}}
    docs.sync("p", [Chunk("zero"), Chunk("the words", metadata, section="A > B")])
    (hit,) = docs.search("words", mode="keyword")
    assert (hit.content, hit.document_id, hit.section, hit.position, hit.tenant) == ("the words", "p", "A > B", 1, None)
    assert hit.distance is None
    assert hit.metadata["n"] == 3 and hit.metadata["free"] == {"deep": [1, None, "x"]}
    assert hit.metadata["at"].isoformat() == "2024-05-01T10:00:00+00:00"
    assert hit.chunk_id == docs.show("p")["chunks"][1]["chunk_id"]
    (first, *_) = docs.search("the words", mode="dense")
    assert first == Hit(
        score=pytest.approx(1, abs=1e-5),  # type: ignore[arg-type]
        distance=pytest.approx(0, abs=1e-5),  # type: ignore[arg-type]
        content=hit.content,
        document_id="p",
        chunk_id=hit.chunk_id,
        metadata=hit.metadata,
        section="A > B",
        position=1,
        explanation=first.explanation,
    )
    assert (first.explanation.dense_rank, first.explanation.keyword_rank) == (1, None)


def test_filters_in_three_forms_mean_the_same(place: Place) -> None:
    docs = place.open(fields=FIELDS)
    shelve(docs, random_rows(70, 3))
    forms: list[Any] = [
        (F("n") < 4) & F("tags").contains("a"),
        {"$and": [{"n": {"$lt": 4}}, {"tags": {"$contains": "a"}}]},
        'n < 4 and "a" in tags',
    ]
    answers = [contents(docs.search("stone", limit=100, where=form)) for form in forms]
    assert answers[0] == answers[1] == answers[2]
    assert 0 < len(answers[0]) < 70
    assert [docs.count(form) for form in forms] == [len(answers[0])] * 3
    with pytest.raises(UnknownField, match="'color'"):
        docs.search("stone", where='colour == "red"')
    with pytest.raises(UnknownField):
        docs.count({"missing": 1})
    with pytest.raises(FilterError):
        docs.search("stone", where='n == "1"')


class TestOptions:
    @pytest.fixture
    def docs(self, place: Place) -> Collection:
        docs = place.open(fields=FIELDS)
        shelve(docs, random_rows(70, 4))
        return docs

    def test_min_score_cuts_what_is_below(self, docs: Collection) -> None:
        for mode in MODES:
            every = docs.search("river glass", limit=100, mode=mode)
            bound = every[len(every) // 2].score
            kept = docs.search("river glass", limit=100, mode=mode, min_score=bound)
            ids = {hit.chunk_id for hit in kept}  # a server may add up in another order the second time
            assert ids >= {hit.chunk_id for hit in every if hit.score > bound + 1e-6}
            assert ids <= {hit.chunk_id for hit in every if hit.score > bound - 1e-6}
            assert 0 < len(kept) < len(every)
            assert list(docs.search("river glass", mode=mode, min_score=1e9)) == []

    def test_group_by_keeps_the_best_of_each_document(self, docs: Collection) -> None:
        for mode in MODES:
            every = docs.search("river", limit=100, mode=mode)
            best: dict[str, Hit] = {}
            for hit in every:
                best.setdefault(hit.document_id, hit)
            for limit in (3, 50):
                grouped = docs.search("river", limit=limit, mode=mode, group_by="document_id")
                assert len(grouped) == min(limit, len(best))
                if mode != "hybrid" or limit == 50:
                    assert [hit.chunk_id for hit in grouped] == [hit.chunk_id for hit in best.values()][:limit]

    def test_one_document_with_most_of_the_chunks_does_not_starve_the_groups(self, place: Place) -> None:
        docs = place.open("many")
        docs.sync("big", chunks(*(f"river {i}" for i in range(300))))
        docs.sync_all(document(f"small{i}", f"stone {i}") for i in range(5))
        for mode in ("dense", "hybrid"):
            assert len(docs.search("river 7", limit=6, mode=mode, group_by="document_id")) == 6

    def test_search_many_is_search_many_times(self, docs: Collection) -> None:
        queries: list[Any] = ["river", unit("x"), "glass tower"]
        options: dict[str, Any] = {"limit": 7, "where": F("n") < 6, "min_score": 0.1}
        assert [list(hits) for hits in docs.search_many(queries, **options)] == [
            list(docs.search(query, **options)) for query in queries
        ]
        assert docs.search_many([]) == []
        with pytest.raises(InvalidInput):
            docs.search_many(["river", " "])
        with pytest.raises(TypeError):
            docs.search_many(["river"], limits=3)
        with pytest.raises(InvalidInput, match="list of queries"):
            docs.search_many("river")
        with pytest.raises(InvalidInput, match="list of queries"):
            docs.search_many(3)  # type: ignore[arg-type]

    def test_rerank_orders_the_pool_by_its_own_scores(self, docs: Collection) -> None:
        seen: list[tuple[str, int]] = []

        def by_number(query: str, hits: Sequence[Hit]) -> list[float]:
            seen.append((query, len(hits)))
            return [float(hit.content.rsplit("number", 1)[1]) for hit in hits]

        pool = docs.search("river", limit=20)
        hits = docs.search("river", limit=5, rerank=by_number, rerank_pool=20)
        numbers = sorted((float(hit.content.rsplit("number", 1)[1]) for hit in pool), reverse=True)
        assert [hit.score for hit in hits] == numbers[:5]
        assert [hit.explanation.rerank_score for hit in hits] == numbers[:5]
        assert seen == [("river", 20)]
        assert len(docs.search("river", limit=5, rerank=by_number, min_score=60.0)) <= 5
        with pytest.raises(InvalidInput, match="one finite score a hit"):
            docs.search("river", rerank=lambda query, hits: [1.0, 2.0, 3.0])
        with pytest.raises(InvalidInput, match="one finite score a hit"):
            docs.search("river", rerank=lambda query, hits: [float("nan")] * len(hits))
        for answer in (
            None,
            3,
            ["best"] * 10,
            ["0.5"] * 10,
            [None] * 10,
            "0123456789",
            [[0.5]] * 10,
            [0.5] * 9 + [[1]],
        ):
            with pytest.raises(InvalidInput, match=r"one finite score a hit: 10 hits, got \w+ "):
                docs.search("river", rerank=lambda query, hits, answer=answer: answer, rerank_pool=10)
        for scores in (np.arange(10, dtype=np.float32), range(10), (n for n in range(10)), [np.float64(1)] * 10):
            hits = docs.search("river", rerank=lambda query, hits, scores=scores: scores, rerank_pool=10)
            assert len(hits) == 10 and type(hits[0].score) is float

    def test_alpha_at_its_ends_is_one_leg_alone(self, docs: Collection) -> None:
        dense = docs.search("river", limit=70, mode="dense")
        keyword = docs.search("river", limit=70, mode="keyword")
        assert [h.chunk_id for h in docs.search("river", limit=70, alpha=1.0)] == [h.chunk_id for h in dense]
        only = docs.search("river", limit=len(keyword), alpha=0.0)
        assert [hit.score for hit in only] == pytest.approx([h.score / keyword[0].score for h in keyword], rel=1e-4)
        assert {h.chunk_id for h in only} == {h.chunk_id for h in keyword}
        for bad in (-0.1, 1.1):
            with pytest.raises(InvalidInput, match="alpha"):
                docs.search("river", alpha=bad)

    def test_the_explanation_names_the_rank_in_each_leg(self, docs: Collection) -> None:
        dense = [hit.chunk_id for hit in docs.search("river", limit=70, mode="dense")]
        keyword = [hit.chunk_id for hit in docs.search("river", limit=70, mode="keyword")]
        for fusion in ("convex", "rrf"):
            for hit in docs.search("river", limit=70, fusion=fusion):
                assert hit.explanation.dense_rank == dense.index(hit.chunk_id) + 1
                expected = keyword.index(hit.chunk_id) + 1 if hit.chunk_id in keyword else None
                assert hit.explanation.keyword_rank == expected
                assert (hit.explanation.keyword_score is None) == (expected is None)

    def test_rrf_is_the_sum_of_reciprocal_ranks(self, docs: Collection) -> None:
        for hit in docs.search("river", limit=70, fusion="rrf"):
            ranks = (hit.explanation.dense_rank, hit.explanation.keyword_rank)
            assert hit.score == pytest.approx(sum(1 / (60 + rank) for rank in ranks if rank))

    def test_hybrid_is_the_convex_sum(self, docs: Collection) -> None:
        hits = docs.search("river", limit=70, alpha=0.3)
        best_dense = max(hit.explanation.dense_score or -1 for hit in hits)
        best_keyword = max(hit.explanation.keyword_score or 0 for hit in hits)
        for hit in hits:
            dense = ((hit.explanation.dense_score or 0) + 1) / (best_dense + 1)
            keyword = (hit.explanation.keyword_score or 0) / best_keyword
            assert hit.score == pytest.approx(0.3 * dense + 0.7 * keyword, abs=1e-5)

    def test_why_tells_the_same_ranks(self, docs: Collection) -> None:
        first = docs.search("river", limit=1, where="n < 9")[0]
        told = docs.why(first.document_id, "river", where="n < 9")
        (chunk,) = [one for one in told["chunks"] if one["content"] == first.content]
        assert chunk["hybrid_rank"] == 1 and chunk["filter_matches"]
        assert (chunk["dense_rank"], chunk["keyword_rank"]) == (
            first.explanation.dense_rank,
            first.explanation.keyword_rank,
        )
        other = docs.why(first.document_id, "river", where="n == 77")["chunks"]
        assert {(one["filter_matches"], one["dense_rank"]) for one in other} == {(False, None)}
        with pytest.raises(InvalidInput, match="'nobody'"):
            docs.why("nobody", "river")

    def test_why_takes_a_vector(self, docs: Collection) -> None:
        first = docs.search(unit("river"), limit=1, where="n < 9")[0]
        told = docs.why(first.document_id, unit("river"), where="n < 9")
        assert (told["query"], told["legs"], told["plan"][:7]) == (None, ["dense"], "dense: ")
        (chunk,) = [one for one in told["chunks"] if one["content"] == first.content]
        assert (chunk["dense_rank"], chunk["exact_rank"], chunk["keyword_rank"], chunk["hybrid_rank"]) == (
            1,
            1,
            None,
            None,
        )
        with pytest.raises(DimensionMismatch):
            docs.why(first.document_id, unit("river")[:3])

    @pytest.mark.parametrize(
        "options",
        [
            {"limit": 0},
            {"limit": -1},
            {"limit": True},
            {"limit": 2.5},
            {"mode": "sparse"},
            {"fusion": "max"},
            {"group_by": "section"},
            {"min_score": float("nan")},
            {"min_score": "0.5"},
            {"mode": "keyword", "fusion": "rrf"},
            {"mode": "dense", "alpha": 0.3},
            {"params": 3},
            {"params": None},
            {"params": {"exact": True}},
            {"rerank": 3},
            {"rerank": "cross-encoder"},
            {"rerank_pool": True},
            {"params": SearchParams(ef_search="many")},  # type: ignore[arg-type]
            {"params": SearchParams(ef_search=-1)},
            {"params": SearchParams(nprobe=0)},
            {"params": SearchParams(nprobe=1.5)},  # type: ignore[arg-type]
            {"params": SearchParams(exact="no")},  # type: ignore[arg-type]
        ],
    )
    def test_an_option_that_is_not_known_is_refused(self, docs: Collection, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput):
            docs.search("river", **options)

    @pytest.mark.parametrize(
        ("ask", "argument"),
        [
            (lambda docs: docs.search("river", params=SearchParams(ef_search="many")), "ef_search='many'"),
            (lambda docs: docs.search("river", params=SearchParams(nprobe=-2)), "nprobe=-2"),
            (lambda docs: docs.search("river", params=SearchParams(exact=1)), "exact=1"),
            (lambda docs: docs.why("d0", 3), "A query is a text or a vector"),
            (lambda docs: docs.documents(limit="x"), "limit='x'"),
            (lambda docs: docs.documents(limit=-1), "limit=-1"),
            (lambda docs: docs.documents(prefix=3), "prefix=3"),
            (lambda docs: docs.verify("all"), "sample='all'"),
            (lambda docs: docs.recall(limit="x"), "limit='x'"),
            (lambda docs: docs.recall(sample=0), "sample=0"),
            (lambda docs: docs.copy_to("memory:", sample="x"), "sample='x'"),
            (lambda docs: docs.search("river", limit=np.bool_(True)), "limit="),
            (lambda docs: docs.search("river", limit=np.float64(3)), "limit="),
            (lambda docs: docs.search("river", limit=np.int64(0)), "limit="),
        ],
    )
    def test_an_odd_argument_is_named(
        self, docs: Collection, ask: Callable[[Collection], object], argument: str
    ) -> None:
        with pytest.raises(InvalidInput) as refused:
            ask(docs)
        assert str(refused.value).startswith(argument)

    def test_arguments_that_are_as_they_should_be(self, docs: Collection) -> None:
        names = [one["document_id"] for one in docs.documents()]
        assert [one["document_id"] for one in docs.documents(limit=1)] == names[:1]
        assert docs.documents(limit=0) == [] and len(docs.documents(prefix=names[0])) >= 1
        assert docs.why(names[0], "river")["query"] == "river"
        assert docs.search("river", params=SearchParams(exact=False)) and docs.verify(sample=0)["ok"]

    @pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), np.array(3), Counted()])
    def test_a_number_is_an_integer_of_any_kind(self, docs: Collection, number: Any) -> None:
        same = [hit.chunk_id for hit in docs.search("river", limit=3)]
        assert [hit.chunk_id for hit in docs.search("river", limit=number)] == same
        reranked = docs.search("river", limit=number, rerank=lambda text, hits: [1.0] * len(hits), rerank_pool=number)
        assert len(reranked) == 3
        assert len(docs.documents(limit=number)) == 3
        assert docs.recall(limit=number, sample=number) == 1.0
        assert docs.verify(sample=number)["ok"]

    @pytest.mark.parametrize("mode", ["keyword", "hybrid"])
    def test_a_vector_alone_has_no_words(self, docs: Collection, mode: Any) -> None:
        with pytest.raises(InvalidInput, match="text"):
            docs.search(unit("x"), mode=mode)

    def test_a_query_that_is_no_query(self, docs: Collection) -> None:
        for empty in ("", "  \n"):
            with pytest.raises(InvalidInput, match="empty"):
                docs.search(empty)
        for neither in (None, 3):
            with pytest.raises(InvalidInput, match="a text or a vector"):
                docs.search(neither)  # type: ignore[arg-type]
        with pytest.raises(
            DimensionMismatch, match=r"^The vector searched for .*16.*or open a collection of the model"
        ):
            docs.search(np.ones(3, dtype=np.float32))
        for bad in (np.full(DIMENSIONS, np.nan), np.zeros(DIMENSIONS), np.full(DIMENSIONS, np.inf)):
            for kind in (np.float32, np.float64):
                with pytest.raises(InvalidVector):
                    docs.search(bad.astype(kind))
                with pytest.raises(InvalidVector):
                    docs.recall([bad.astype(kind)])

    def test_a_query_that_float32_does_not_hold(self, docs: Collection) -> None:
        one = np.eye(1, DIMENSIONS)[0]
        for bad, said in ((one * 1e300, "beyond 3.4e+38"), (one * -1e39, "beyond"), (one * 1j, "complex")):
            for query in (bad, bad.tolist()):
                with pytest.raises(InvalidVector, match=re.escape(said)):
                    docs.search(query)
                with pytest.raises(InvalidVector, match=re.escape(said)):
                    docs.recall([query])

    def test_a_word_that_nothing_has_is_found_by_no_keyword(self, docs: Collection) -> None:
        assert list(docs.search("xylophone", mode="keyword")) == []
        assert len(docs.search("xylophone")) == 10
        assert list(docs.search("?!", mode="keyword")) == []

    def test_exact_on_request_finds_the_same(self, docs: Collection) -> None:
        exact, plain = docs.search("river", params=SearchParams(exact=True)), docs.search("river")
        assert [hit.chunk_id for hit in exact] == [hit.chunk_id for hit in plain]
        assert [hit.score for hit in exact] == pytest.approx([hit.score for hit in plain], abs=1e-5)
        assert docs.recall(limit=5) == 1.0 and docs.recall().target == 0.95
        measured = docs.recall(target=0.9)
        assert measured.is_met and measured.target == 0.9
        assert not Recall(0.94, 0.95).is_met and Recall(0.95, 0.95).is_met
        for target in (95, "high"):
            with pytest.raises(InvalidInput, match="target"):
                docs.recall(target=target)  # type: ignore[arg-type]
        for queries in ("river", 3):
            with pytest.raises(InvalidInput, match="list of queries"):
                docs.recall(queries)  # type: ignore[arg-type]
        assert docs.recall(["river"]) == 1.0


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_numbers_near_the_end_of_float32_are_searched_without_a_warning(place: Place, metric: str) -> None:
    docs = place.given(metric=metric, dimensions=3)
    docs.sync("p", [Chunk("large", embedding=[3e38, 3e38, 0]), Chunk("small", embedding=[1, 0, 0])])
    assert len(docs.search(np.array([3e38, -3e38, 3e38]), limit=2)) == 2


def test_an_empty_collection_answers_with_nothing(place: Place) -> None:
    docs = place.open(fields=FIELDS)
    for mode in MODES:
        hits = docs.search("river", mode=mode)
        assert (len(hits), hits.refused) == (0, 0)
    assert docs.count() == docs.count("n < 3") == 0
    assert docs.verify()["ok"]


def lost(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [said for record in caplog.records if "shelflist repair" in (said := record.getMessage())]


@pytest.mark.parametrize("keep", [0, 3])
def test_a_store_that_was_emptied_behind_our_back_is_told_once(
    directory: Place, keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    docs = directory.open()
    docs.sync_all(document(f"d{i}", f"river {i}") for i in range(24))
    assert len(docs.search("river", limit=100)) == 24 and lost(caplog) == []
    directory.close()
    table = directory.table()
    for suffix in ("_vectors", ""):
        directory.sql(f"DELETE FROM {table}{suffix} WHERE row > {keep}")
    docs = directory.open()
    for _ in range(3):
        assert len(docs.search("river", mode="dense")) == keep
    assert len(lost(caplog)) == 1
    assert f"'docs' has {keep} of the 24 chunks" in lost(caplog)[0] and "shelflist verify" in lost(caplog)[0]
    docs.repair()
    assert len(docs.search("river", limit=100, mode="dense")) == 24
    assert len(lost(caplog)) == 1


def test_a_store_in_memory_that_lost_a_tenants_chunks_is_told(caplog: pytest.LogCaptureFixture) -> None:
    docs = shelflist.open("memory:", "docs", embedder=CountingEmbedder(), tenancy="required")
    for tenant in ("acme", "umbrella"):
        docs.tenant(tenant).sync("d", chunks("river", "stone"))
    parts = docs._parts
    gone = [point.point_id for point in parts.store._generations[parts.spec.name].points.values()]  # type: ignore[attr-defined]
    parts.store.delete(parts.spec, [one for one in gone if parts.store.get(parts.spec, [one])[0].tenant_id == "acme"])
    assert len(docs.tenant("umbrella").search("river")) == 2 and lost(caplog) == []
    assert list(docs.tenant("acme").search("river")) == []
    assert [said.partition(" chunks")[0] for said in lost(caplog)] == [
        "The store of the collection 'docs' has 0 of the 2"
    ]


def test_a_small_collection_in_order_is_not_warned_of(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    docs = place.open()
    docs.sync("p", chunks("river", "stone"))
    docs.sync("q", chunks("glass"), wait="stored")
    docs.mark_stale("p")
    docs.sync("q", chunks("glass", "tower"))
    docs.delete("q")
    assert list(docs.search("river", limit=50)) == [] and lost(caplog) == []
