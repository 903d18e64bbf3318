"""Searches in Postgres: the way chosen, one statement sent, its rows read."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Sequence, Set
from threading import Lock
from typing import Any

from shelflist.core.errors import InvalidInput
from shelflist.core.types import Candidate, Candidates, SearchParams, Vector
from shelflist.postgres import PostgresDatabase, PostgresTransaction
from shelflist.stores._sql import Sql
from shelflist.stores.pgvector.filters import condition
from shelflist.stores.pgvector.planner import SESSION, Facts, Step, Way, read_facts, step, way_by_matches, way_of
from shelflist.stores.pgvector.rows import terms_query
from shelflist.stores.pgvector.schema import MOST_EFFORT
from shelflist.stores.protocol import GenerationSpec, Scope

_FACTS_SECONDS = 10.0
_MATCHES_SECONDS = 60.0
_COMMON_SECONDS = 300.0
_COMMON_SHARE = 0.1
"""Measured on SQuAD: nDCG@10 .852 without, .856 with a tenth, .833 with a twentieth."""
_MATCHES_KEPT = 10_000


class Searches:
    """Of one database, with what is remembered of its generations for a few seconds."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._pid = os.getpid()
        self._own_lock = Lock()
        self._facts: dict[str, tuple[float, Facts]] = {}
        self._common: dict[str, tuple[float, Set[str]]] = {}
        self._matches: OrderedDict[Any, tuple[float, int]] = OrderedDict()

    def forget(self, name: str) -> None:
        """After a generation was made, dropped or changed."""
        self._facts.pop(name, None)
        self._common.pop(name, None)
        with self._lock:
            for asked in [one for one in self._matches if one[0] == name]:
                del self._matches[asked]

    def nearest(
        self, spec: GenerationSpec, query: Vector, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        """The nearest by whichever way suits; a way that comes short is followed by the exact one."""
        if params.ef_search is not None and params.ef_search > MOST_EFFORT:
            raise InvalidInput(f"pgvector takes ef_search up to {MOST_EFFORT}, not {params.ef_search}.")
        where = condition(spec, scope)
        with self._database.read(single=True) as tx:
            tx.settings(SESSION)
            facts = self._known(tx, spec)
            way = self._way(tx, spec, scope, where, params, facts, limit)

            def go(way: Way) -> tuple[Step, list[tuple[Any, ...]]]:
                # One more tells whether there are more; of an index that came with all it was asked for, it is taken so.
                asked = limit if way == "vector" else limit + 1
                one = step(way, spec, scope, where, query, asked, params, facts)
                sent = one.statement
                found = tx.execute(sent.text, sent.parameters, prepare=one.prepare).fetchall()
                return one, sorted(found, key=_nearness)

            done, rows = go(way)
            plan = done.plan
            if way == "vector" and len(rows) < limit:
                done, rows = go("exact")
                plan = f"{plan}, which came short; {done.plan}"
        exact = done.way == "exact" or (done.way == "signs" and (not rows or rows[0][2] < done.depth))
        items = [Candidate(row[0], _finite(row[1])) for row in rows[:limit]]
        live = None if scope.live is None else {row[0]: row[4:] for row in rows[:limit] if row[3]}
        exhausted = done.way != "vector" and len(rows) <= limit
        return Candidates(items, exact=exact, exhausted=exhausted, plan=plan, live=live)

    def by_words(
        self, spec: GenerationSpec, terms: Sequence[str], common: Set[str], limit: int, scope: Scope
    ) -> Candidates:
        """The rows that share a stem, best first. Stems that many texts have (`common`, and every tenth of these) are looked
        for only where the others find too little, and then count for a thousandth: `ts_rank` knows no rarity."""
        where = condition(spec, scope)
        everything = terms_query(terms)
        rows: list[tuple[Any, ...]] = []
        with self._database.read(single=True) as tx:
            tx.settings(SESSION)
            often = self._often(tx, spec)
            telling = terms_query(term for term in terms if term not in common and term not in often)
            if telling:
                score = Sql("ts_rank(k.terms, ?::tsquery, 1)", (telling,))
                rows = self._ranked(tx, spec, scope, where, score, telling, limit + 1)
            if len(rows) <= limit and everything and everything != telling:
                score = Sql("ts_rank(k.terms, ?::tsquery, 1) / 1000", (everything,))
                if telling:
                    score = Sql(f"{score.text} + ts_rank(k.terms, ?::tsquery, 1)", (everything, telling))
                rows = self._ranked(tx, spec, scope, where, score, everything, limit + 1)
        items = [Candidate(point_id, float(value)) for point_id, value in rows[:limit]]
        return Candidates(items, exact=True, exhausted=len(rows) <= limit, plan="full text, ranked by ts_rank")

    def _ranked(
        self,
        tx: PostgresTransaction,
        spec: GenerationSpec,
        scope: Scope,
        where: Sql,
        score: Sql,
        asked: str,
        limit: int,
    ) -> list[tuple[Any, ...]]:
        ranked = f"SELECT k.point_id, {score.text} AS score FROM {spec.name}_terms k WHERE k.terms @@ ?::tsquery"
        if scope.filter is None and scope.point_ids is None and scope.tenant is None:
            # Ranked first and looked up in that order, as far as it takes.
            ranked += " ORDER BY score DESC OFFSET 0"
        return tx.execute(
            f"SELECT uuid_send(p.point_id), k.score FROM ({ranked}) k JOIN {spec.name} p USING (point_id) "
            f"WHERE {where.text} ORDER BY k.score DESC LIMIT ?",
            (*score.parameters, asked, *where.parameters, limit),
            prepare=False,
        ).fetchall()

    def _often(self, tx: PostgresTransaction, spec: GenerationSpec) -> Set[str]:
        """Stems that every tenth text of the generation has, as Postgres's own statistics say; remembered for minutes."""
        now = time.monotonic()
        known = self._common.get(spec.name)
        if known is None or now - known[0] > _COMMON_SECONDS:
            found = tx.execute(
                "SELECT most_common_elems::text::text[], most_common_elem_freqs::float8[] FROM pg_stats "
                "WHERE schemaname = current_schema() AND tablename = ? AND attname = 'terms'",
                (f"{spec.name}_terms",),
            ).fetchone()
            # Behind the frequencies of the stems stand the least and the greatest of them.
            pairs = zip(found[0], found[1], strict=False) if found and found[0] else ()
            known = self._common[spec.name] = (now, {stem for stem, share in pairs if share > _COMMON_SHARE})
        return known[1]

    @property
    def _lock(self) -> Lock:
        if self._pid != os.getpid():  # another thread of the parent may have held it at the fork
            self._own_lock, self._pid = Lock(), os.getpid()
        return self._own_lock

    def _way(
        self,
        tx: PostgresTransaction,
        spec: GenerationSpec,
        scope: Scope,
        where: Sql,
        params: SearchParams,
        facts: Facts,
        limit: int,
    ) -> Way:
        way = way_of(spec, scope, params, facts, limit)
        if way is None:
            way = way_by_matches(spec, scope, facts, limit, self._matching(tx, spec, scope, where))
        return way

    def _known(self, tx: PostgresTransaction, spec: GenerationSpec) -> Facts:
        now = time.monotonic()
        known = self._facts.get(spec.name)
        if known is None or now - known[0] > _FACTS_SECONDS:
            known = self._facts[spec.name] = (now, read_facts(tx, spec))
        return known[1]

    def _matching(self, tx: PostgresTransaction, spec: GenerationSpec, scope: Scope, where: Sql) -> int:
        """About how many rows match, as Postgres's own planner thinks; remembered for a minute."""
        now = time.monotonic()
        asked = (spec.name, scope.filter, scope.tenant)
        with self._lock:
            known = self._matches.get(asked)
        if known is not None and now - known[0] < _MATCHES_SECONDS:
            return known[1]
        (plan,) = tx.execute(
            f"EXPLAIN (FORMAT JSON) SELECT 1 FROM {spec.name} p WHERE {where.text}", where.parameters, prepare=False
        ).fetchone()
        matches = int(plan[0]["Plan"]["Plan Rows"])
        with self._lock:
            self._matches[asked] = (now, matches)
            while len(self._matches) > _MATCHES_KEPT:
                self._matches.popitem(last=False)
        return matches


def _nearness(row: Sequence[Any]) -> tuple[float, bytes]:
    return _finite(row[1]), row[0]


def _finite(distance: float) -> float:
    """pgvector's cosine distance of a vector whose square leaves float32 is NaN, and sorts last: as far as can be."""
    return distance if distance == distance else 2.0
