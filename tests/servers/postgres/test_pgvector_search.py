"""Which way a search in Postgres goes, that an index answers it, and that recall holds where filters are hard."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from postgres_engine import PostgresServer
from sent_statements import Statement, plans_of, statements_sent

from shelflist.core.errors import InvalidInput, UnsupportedIndex
from shelflist.core.fields import Fields
from shelflist.core.filters import F, Filter, prepare
from shelflist.core.transaction import LiveClause
from shelflist.core.types import Candidates, Flat, Hnsw, Ivf, Point, SearchParams, Vector
from shelflist.postgres import PostgresTransaction
from shelflist.postgres.statements import native
from shelflist.stores.pgvector.filters import condition
from shelflist.stores.pgvector.planner import Facts, step, way_by_matches, way_of
from shelflist.stores.pgvector.store import PgvectorStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import distances, make_point, point_id, random_vectors

ROWS, DIMENSIONS = 12_000, 64
FIELDS = Fields({"colour": str, "half": bool, "n": int, "tags": list[str], "shade": str})
COLOURS = ["red", "green", "blue", "white"]
EXACT = SearchParams(exact=True)


@dataclass
class House:
    """A generation of 12,000 rows around four centres, a colour each, with its vector index built and measured."""

    store: PgvectorStore
    spec: GenerationSpec
    points: list[Point]
    vectors: Vector
    queries: Vector
    """Ten around each centre, in the order of the colours."""
    rows: dict[str, list[int]] = field(default_factory=dict)

    def ask(self, query: Vector, where: Filter | None, limit: int = 10, **params: Any) -> Candidates:
        scope = Scope(filter=prepare(where, FIELDS))
        return self.store.search(self.spec, query, limit=limit, scope=scope, params=SearchParams(**params))

    def nearest(self, query: Vector, where: Filter | None, limit: int = 10) -> set[bytes]:
        rows = self.rows.get(str(where))
        if rows is None:
            wanted = prepare(where, FIELDS)
            rows = [i for i, p in enumerate(self.points) if wanted is None or wanted.matches(p.metadata)]
            self.rows[str(where)] = rows
        found = distances(self.spec.metric, query, self.vectors[rows])
        return {self.points[rows[i]].point_id for i in np.argsort(found)[:limit]}

    def recall(self, where: Filter | None, queries: Vector | None = None) -> float:
        asked = self.queries if queries is None else queries
        hit = [len(self.nearest(q, where) & {c.point_id for c in self.ask(q, where).items}) for q in asked]
        return sum(hit) / (10 * len(asked))

    def first_sent(self, where: Filter | None) -> Statement:
        """The first statement of a search that looks for what is near, and its parameters."""
        with statements_sent() as sent:
            self.ask(self.queries[0], where)
        return next(one for one in sent if "AS distance" in one[0])

    def plan(self, where: Filter | None) -> str:
        """Postgres's own plan of that statement, on the connection that it is sent on."""
        return plans_of(self.store, [self.first_sent(where)])


@pytest.fixture(scope="module")
def house(store: PgvectorStore) -> House:
    generator = np.random.default_rng(5)
    centres = generator.normal(size=(4, DIMENSIONS)) * 1.2
    own = generator.choice(4, size=ROWS, p=[0.4, 0.3, 0.2, 0.1])
    vectors = (centres[own] + generator.normal(size=(ROWS, DIMENSIONS))).astype(np.float32)
    points = [
        make_point(
            f"p{i}",
            vectors[i],
            content=f"number {i}",
            metadata={
                "colour": COLOURS[own[i]],
                "half": bool(i % 2),
                "n": i,
                "tags": [f"t{i % 50}", "all"],
                "shade": f"s{i % 3}",
            },
            fields=FIELDS,
        )
        for i in range(ROWS)
    ]
    queries = np.repeat(centres, 10, axis=0) + generator.normal(size=(40, DIMENSIONS))
    spec = GenerationSpec("sl_house_1", DIMENSIONS, index=Hnsw(indexing_threshold=5_000), fields=FIELDS)
    store.create(spec)
    store.upsert(spec, points)
    store.build(spec)
    return House(store, spec, points, vectors, queries.astype(np.float32))


WHERES: dict[str, Filter | None] = {
    "none": None,
    "most": F("colour") != "white",
    "colour": F("colour") == "white",
    "large colour": F("colour") == "red",
    "several": F("colour").is_in(["white", "blue"]),
    "range": F("n").between(2_000, 7_000),
    "narrow range": F("n") < 30,
    "bool": F("half") == True,  # noqa: E712
    "prefix": F("shade").starts_with("s1"),
    "nothing": F("colour") == "black",
    "member": F("tags").contains("t7"),
    "two fields": (F("colour") == "white") & (F("n") < 3_000),
    "either": (F("colour") == "white") | F("tags").contains("t7"),
}


@pytest.mark.parametrize("name", WHERES)
def test_recall_under_every_filter(house: House, name: str) -> None:
    """Questions about all colours: most of them lie far from the rows that match."""
    if name != "nothing":
        assert house.recall(WHERES[name]) >= 0.95
    answer = house.ask(house.queries[3], WHERES[name])
    assert len(answer.items) == (0 if name == "nothing" else 10)


@pytest.mark.parametrize("name", WHERES)
def test_an_index_answers(house: House, name: str) -> None:
    plan = house.plan(WHERES[name])
    assert "Seq Scan on" not in plan, plan
    assert "Index" in plan
    if name == "none":
        assert "sl_house_1_vector" in plan
    if name in ("colour", "large colour", "several", "range", "narrow range", "prefix"):
        assert "Index Only Scan" in plan, plan


def test_the_one_plan_that_is_kept_for_all_vectors_uses_the_index(house: House) -> None:
    sql = native(house.first_sent(None)[0])
    with house.store.database.read(single=True) as tx:  # on the connection that has the settings of a search
        tx.execute("SELECT 1")
        kept = tx.link.connection.execute(f"EXPLAIN (GENERIC_PLAN) {sql}".encode()).fetchall()
    plan = "\n".join(line for (line,) in kept)
    assert "Index Scan using sl_house_1_vector" in plan and "Seq Scan" not in plan, plan


def test_the_plan_says_which_way(house: House) -> None:
    assert "HNSW" in house.ask(house.queries[0], None).plan
    signs = house.ask(house.queries[0], WHERES["colour"])
    assert "sign bits" in signs.plan and not signs.exact and not signs.exhausted
    few = house.ask(house.queries[0], WHERES["narrow range"], limit=30)
    assert few.exact and few.exhausted and len(few.items) == 30, "every match was rescored"
    exact = house.ask(house.queries[0], WHERES["two fields"])
    assert exact.exact and "exact" in exact.plan
    asked = house.ask(house.queries[0], None, exact=True)
    assert asked.exact and {c.point_id for c in asked.items} == house.nearest(house.queries[0], None)


def test_a_way_that_comes_short_is_followed_by_the_exact_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a graph that has lost its links would do."""
    from shelflist.stores.pgvector import search as searches

    monkeypatch.setattr(searches, "way_of", lambda *rest: "vector")
    answer = house.ask(house.queries[39], F("n") < 25, limit=20)
    assert len(answer.items) == 20
    everything = house.ask(house.queries[39], F("n") < 25, limit=40)
    assert len(everything.items) == 25 and everything.exact and everything.exhausted
    assert "came short" in everything.plan


def test_no_plan_or_setting_sticks_to_a_connection(house: House) -> None:
    """Ways and filters in turn, on the one connection of this pool: each answer as good as when asked alone."""
    turns: list[tuple[Filter | None, dict[str, Any], float]] = [
        (None, {"exact": True}, 1.0),
        (None, {"ef_search": 400}, 0.95),
        (WHERES["colour"], {"exact": True}, 1.0),
        (WHERES["colour"], {}, 0.95),
        (WHERES["two fields"], {}, 1.0),
        (None, {}, 0.9),
        (WHERES["range"], {"exact": True}, 1.0),
        (None, {"ef_search": 1}, 0.1),
        (WHERES["range"], {}, 0.95),
    ]
    hits: dict[int, list[float]] = {}
    for turn in range(20):
        for number, (where, params, _) in enumerate(turns):
            query = house.queries[(turn * 7) % 40]
            found = {c.point_id for c in house.ask(query, where, **params).items}
            hits.setdefault(number, []).append(len(found & house.nearest(query, where)) / 10)
    assert {number: float(np.mean(found)) >= turns[number][2] for number, found in hits.items()} == dict.fromkeys(
        range(len(turns)), True
    )


def test_a_search_is_one_statement(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    plain = PostgresTransaction.execute

    def counted(self: PostgresTransaction, sql: str, *rest: Any, **options: Any) -> Any:
        sent.append(sql)
        return plain(self, sql, *rest, **options)

    for where in (None, WHERES["colour"], WHERES["two fields"]):
        house.ask(house.queries[0], where)
    monkeypatch.setattr(PostgresTransaction, "execute", counted)
    for where in (None, WHERES["colour"], WHERES["two fields"]):
        sent.clear()
        house.ask(house.queries[1], where)
        assert len(sent) == 1, sent
        assert house.queries[1].tobytes().hex() not in sent[0]


def test_what_was_measured_is_written_down(house: House) -> None:
    stats = house.store.stats(house.spec)
    assert stats["indexed"] and stats["recall"] >= 0.95 and stats["effort"] and stats["depth"]
    assert stats["points"] == ROWS and stats["bytes"] > ROWS * 4 * DIMENSIONS


def test_the_live_clause_is_joined(house: House) -> None:
    """As a ledger in the same database would check: rows beside the candidates, none for what it refuses."""
    query, store = house.queries[0], house.store
    near = [c.point_id for c in house.ask(query, None).items]
    with store.database.write() as tx:
        tx.execute("CREATE TABLE allowed (id bytea PRIMARY KEY, note text, nothing text)")
        tx.executemany("INSERT INTO allowed VALUES (?, ?, NULL)", [(one, f"note {i}") for i, one in enumerate(near)])
    live = LiveClause("SELECT note, nothing FROM allowed WHERE id = found.point_id AND note <> ?", ("note 3",))
    for where in (None, WHERES["colour"], WHERES["two fields"]):
        scope = Scope(filter=prepare(where, FIELDS), live=live)
        found = store.search(house.spec, query, limit=10, scope=scope, params=SearchParams())
        mine = {c.point_id for c in found.items}
        assert found.live is not None and set(found.live) == (set(near) - {near[3]}) & mine
        assert all(tuple(row) == (f"note {near.index(one)}", None) for one, row in found.live.items())
        assert len(found.items) == 10
    plain = store.search(house.spec, query, limit=10, scope=Scope(), params=SearchParams())
    assert plain.live is None


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize(
    "index",
    [Hnsw(indexing_threshold=1), Hnsw(indexing_threshold=1, quantization="half"), Ivf(nlist=20), Flat(),
        Hnsw(indexing_threshold=1, quantization="binary"), Flat(quantization="binary")],
    ids=lambda index: f"{index.kind}-{index.quantization}",
)  # fmt: skip
def test_every_index_finds_the_nearest(store: PgvectorStore, house: House, index: Any, metric: Any) -> None:
    name = f"sl_{index.kind}_{index.quantization}_{metric}_1".lower()
    spec = replace(house.spec, name=name, index=index, metric=metric)
    if metric != "cosine" and index.quantization == "binary":
        with pytest.raises(UnsupportedIndex, match="cosine"):  # sign bits know nothing of lengths
            store.create(spec)
        return
    store.create(spec)
    store.upsert(spec, house.points[:3_000])
    if isinstance(index, Ivf):
        store.repair(spec)
    store.build(spec)
    small = House(store, spec, house.points[:3_000], house.vectors[:3_000], house.queries[::4])
    assert small.recall(None) >= (1.0 if index == Flat() else 0.9)
    assert small.recall(WHERES["colour"]) >= 0.95
    built = store.stats(spec)["indexed"]
    assert built == (not isinstance(index, (Flat, Ivf))), "IVFFlat waits for 10,000 rows, a graph for its threshold"
    store.drop(name)


def test_ivfflat_is_built_and_searched(store: PgvectorStore, house: House) -> None:
    spec = replace(house.spec, name="sl_cells_1", index=Ivf(nlist=30))
    store.create(spec)
    store.upsert(spec, house.points)
    store.build(spec)
    cells = House(store, spec, house.points, house.vectors, house.queries)
    assert "IVFFlat" in cells.ask(house.queries[0], None).plan
    assert cells.recall(None) >= 0.95
    assert "probes 30" in cells.ask(house.queries[0], None, nprobe=99).plan, "no more cells than there are"
    assert cells.recall(WHERES["most"]) >= 0.95
    store.drop(spec.name)


@pytest.mark.parametrize(
    ("dimensions", "form"), [(2_000, "vector"), (2_001, "halfvec"), (4_000, "halfvec"), (4_001, "bit")]
)
def test_vectors_too_long_for_an_index(
    store: PgvectorStore, postgres: PostgresServer, dimensions: int, form: str
) -> None:
    spec = GenerationSpec(f"sl_long_{dimensions}_1", dimensions, index=Hnsw(indexing_threshold=1, m=4))
    store.create(spec)
    vectors = random_vectors(40, seed=1, dimensions=dimensions)
    store.upsert(spec, [make_point(f"p{i}", row) for i, row in enumerate(vectors)])
    store.build(spec)
    with store.database.read() as tx:
        (definition,) = tx.execute("SELECT pg_get_indexdef(to_regclass(?))", (f"{spec.name}_vector",)).fetchone()
    assert f"{form}_" in definition
    found = store.search(spec, vectors[3], limit=2, scope=Scope(), params=SearchParams())
    assert len(found.items) == 2 and found.items[0].point_id == point_id("p3")
    assert store.vectors(spec, [point_id("p3")])[point_id("p3")].tobytes() == vectors[3].tobytes()
    store.drop(spec.name)


def test_what_no_index_takes_is_refused_by_create(store: PgvectorStore) -> None:
    with pytest.raises(UnsupportedIndex, match=r"4,000.*cosine"):
        store.create(GenerationSpec("sl_half_1", 4_001, metric="l2", index=Hnsw()))
    with pytest.raises(UnsupportedIndex, match=r"4,000.*binary"):
        store.create(GenerationSpec("sl_half_1", 4_001, index=Hnsw(quantization="half")))


@pytest.mark.parametrize(
    ("index", "told"),
    [
        (Hnsw(m=40, ef_construction=64), r"ef_construction from 80 to 1000 \(at least twice m\), not 64"),
        (Hnsw(m=101, ef_construction=400), "m from 2 to 100, not 101"),
        (Hnsw(ef_search=5_000), "ef_search from 1 to 1000, not 5000"),
        (Ivf(nlist=40_000), "nlist from 1 to 32768, not 40000"),
        (Flat(quantization="half"), "no half quantization of a flat index"),
    ],
    ids=str,
)
def test_what_pgvector_does_not_take_is_not_made_to_fit(store: PgvectorStore, index: Any, told: str) -> None:
    with pytest.raises(UnsupportedIndex, match=told):
        store.create(GenerationSpec("sl_fit_1", 8, index=index))


def definitions(store: PgvectorStore, spec: GenerationSpec) -> set[str]:
    """What follows `ON` in the definition of every index of a generation, as Postgres tells it."""
    with store.database.read() as tx:
        found = tx.execute(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN (?::regclass, ?::regclass)",
            (spec.name, f"{spec.name}_terms"),
        ).fetchall()
    return {text.partition(" ON ")[2] for (text,) in found}


@pytest.mark.parametrize(
    ("index", "made"),
    [
        (Hnsw(m=7, ef_construction=33, indexing_threshold=50), "hnsw (embedding vector_cosine_ops) WITH (m='7', ef_construction='33')"),
        (Hnsw(m=9, ef_construction=40, indexing_threshold=50, quantization="half"),
            "hnsw (((embedding)::halfvec(16)) halfvec_cosine_ops) WITH (m='9', ef_construction='40')"),
        (Hnsw(m=5, ef_construction=30, indexing_threshold=50, quantization="binary"),
            "hnsw (bits bit_hamming_ops) WITH (m='5', ef_construction='30')"),
        (Ivf(nlist=3), "ivfflat (embedding vector_cosine_ops) WITH (lists='3')"),
    ],
    ids=["hnsw", "half", "binary", "ivf"],
)  # fmt: skip
@pytest.mark.parametrize("tenanted", [False, True], ids=["", "tenanted"])
def test_every_parameter_and_every_index_of_a_field_reaches_postgres(
    store: PgvectorStore, index: Any, made: str, tenanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shelflist.stores.pgvector import upkeep

    monkeypatch.setattr(upkeep, "DEFAULT_THRESHOLD", 50)
    fields = Fields({"title": str, "n": int, "price": float, "sold": bool, "at": "datetime", "tags": list[str]})
    spec = GenerationSpec(f"sl_made_{secrets.randbelow(10**9)}", 16, index=index, fields=fields, tenanted=tenanted)
    store.create(spec)
    tenant = "acme" if tenanted else None
    store.upsert(spec, [make_point(f"p{i}", row, tenant=tenant) for i, row in enumerate(random_vectors(300, seed=1))])
    store.repair(spec)  # its vacuum counts the rows
    store.build(spec)
    first, shown = "tenant_id, " if tenanted else "", " WHERE (index_status = 'indexed'::text)"
    wanted = {f"{made}{shown}", "btree (point_id)", "hash (document_id)",
        "btree (index_status) WHERE (index_status <> 'indexed'::text)", f"gin (f_tags){shown}", "gin (terms)"}  # fmt: skip
    wanted |= {
        f"btree ({first}f_{name}) INCLUDE (point_id, bits){shown}" for name in ("title", "n", "price", "sold", "at")
    }
    if tenanted:
        wanted.add(f"btree (tenant_id) INCLUDE (point_id, bits){shown}")
    found = {text.partition(" USING ")[2] for text in definitions(store, spec)}
    assert found == wanted
    store.drop(spec.name)


@pytest.mark.parametrize(("threshold", "exact"), [(None, False), (2_999, False), (30_000, True)])
def test_as_few_matches_as_the_threshold_are_compared_one_by_one(
    house: House, threshold: int | None, exact: bool
) -> None:
    spec = replace(house.spec, index=Hnsw(indexing_threshold=5_000, full_scan_threshold=threshold))
    scope = Scope(filter=prepare(WHERES["large colour"], FIELDS))
    found = house.store.search(spec, house.queries[0], limit=10, scope=scope, params=SearchParams())
    assert (found.exact, len(found.items)) == (exact, 10), found.plan


def test_more_effort_than_pgvector_takes_is_refused(house: House) -> None:
    for where in (None, WHERES["colour"]):
        with pytest.raises(InvalidInput, match="ef_search up to 1000, not 5000"):
            house.ask(house.queries[0], where, ef_search=5_000)
    assert "ef_search 1000" in house.ask(house.queries[0], None, ef_search=1_000).plan


@pytest.mark.parametrize("where", [None, F("n") >= 0], ids=["tenant alone", "tenant and filter"])
def test_a_large_tenant_is_searched_as_hard_as_a_filter(where: Filter | None) -> None:
    """No plan of one tenant may serve another: what is best depends on how many rows each has."""
    spec = GenerationSpec("sl_saas_1", DIMENSIONS, index=Hnsw(), fields=FIELDS, tenanted=True)
    scope = Scope(filter=prepare(where, FIELDS), tenant="acme")
    facts = Facts(rows=1_000_000, is_indexed=True, effort=60)
    assert way_of(spec, scope, SearchParams(), facts, 10) is None
    assert way_by_matches(spec, scope, facts, 10, 300_000) == "vector"
    one = step(
        "vector", spec, scope, condition(spec, scope), np.ones(DIMENSIONS, np.float32), 10, SearchParams(), facts
    )
    assert one.plan == "HNSW, ef_search 240" and not one.prepare


LONG = "x" * 199
TEXTS = ["", "x", LONG, LONG + "y", LONG + "z", LONG + "yy", LONG + "y" * 5_000, LONG + "y" * 5_000 + "!", "\0", "\1", "\0\1",
    "é" * 200, "é" * 199 + "è", "é" * 300, "\0" * 300, "\1h" + "0" * 64]  # fmt: skip


def test_texts_longer_than_an_index_takes(store: PgvectorStore) -> None:
    """Cut in the index, whole in the comparison: each against each, as `Filter.matches` says."""
    fields = Fields({"text": str, "tags": list[str], "n" * 70: str, "n" * 70 + "x": str})
    spec = GenerationSpec("sl_texts_1", 8, fields=fields, tenanted=True)
    store.create(spec)
    vectors = random_vectors(len(TEXTS), seed=4, dimensions=8)
    tenant = "acme" * 100
    points = [
        make_point(str(i), row, metadata={"text": text, "tags": [text, "all"], "n" * 70: text, "n" * 70 + "x": "other"},
            fields=fields, tenant=tenant)
        for i, (row, text) in enumerate(zip(vectors, TEXTS, strict=True))
    ]  # fmt: skip
    store.upsert(spec, points)
    other = make_point("other", vectors[0], tenant=tenant + "!", document_id="d" * 9_000)
    store.upsert(spec, [other])
    found = {p.point_id: p for p in store.get(spec, [p.point_id for p in [*points, other]])}
    for point in [*points, other]:
        assert found[point.point_id].metadata == dict(point.metadata)
        assert (found[point.point_id].tenant_id, found[point.point_id].document_id) == (
            point.tenant_id,
            point.document_id,
        )
    wrong = []
    for text in TEXTS:
        own = F("text")
        for where in (own == text, own != text, own < text, own <= text, own > text, own >= text,
            own.is_in([text, "x"]), ~own.is_in([text, "nowhere"]), own.starts_with(text), own.between(text, "xz"),
            F("tags").contains(text), ~F("tags").contains(text), F("tags").is_in([text, "nowhere"]),
            F("n" * 70) == text, F("n" * 70 + "x") == text):  # fmt: skip
            tree = prepare(where, fields)
            wanted = {p.point_id for p in points if tree.matches(p.metadata)}
            answer = store.search(
                spec, vectors[0], limit=50, scope=Scope(filter=tree, tenant=tenant), params=SearchParams()
            )
            if {c.point_id for c in answer.items} != wanted:
                wrong.append((str(where)[:60], len(wanted), len(answer.items)))
    assert not wrong
    assert store.count(spec, Scope(tenant=tenant)) == len(TEXTS)
    assert store.count(spec, Scope(tenant=tenant + "!")) == 1
    store.drop(spec.name)


def test_texts_of_every_length_are_found_by_their_words(store: PgvectorStore) -> None:
    spec = GenerationSpec("sl_words_1", 8)
    store.create(spec)
    texts = [
        "heron " * 150_000,
        " ".join(f"w{i}" for i in range(140_000)) + " heron",
        "heron",
        "",
        "a\0b heron",
        "'heron' | !",
    ]
    vectors = random_vectors(len(texts), seed=4, dimensions=8)
    result = store.upsert(
        spec, [make_point(str(i), v, content=t) for i, (t, v) in enumerate(zip(texts, vectors, strict=True))]
    )
    assert not result.failed
    found = store.keyword_search(spec, "heron", limit=9, scope=Scope())
    assert {c.point_id for c in found.items} == {point_id(str(i)) for i in (0, 1, 2, 4, 5)}
    assert store.keyword_search(spec, "w139999", limit=9, scope=Scope()).items[0].point_id == point_id("1")
    store.drop(spec.name)
