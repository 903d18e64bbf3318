"""`search`, `why` and `count`: the way out. No table library here: a search is to answer at once."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from shelflist.cli.options import Invocation, collection_options, tenant_option, where_option
from shelflist.cli.output import as_written, body, one_line, print_json, print_table, say

if TYPE_CHECKING:
    from shelflist import Hit

_TEXT_SHOWN = 240
_DEFAULT_LIMIT = 10


vector_option = click.option(
    "--vector", metavar="FILE", help="Search by the vector in FILE (.npy, or JSON; - is stdin), not by QUERY."
)


@click.command("search", short_help="Find the chunks that answer QUERY, best first.")
@click.argument("query", required=False)
@vector_option
@click.option("--limit", type=click.IntRange(min=1), default=_DEFAULT_LIMIT, show_default=True, help="How many hits.")
@where_option
@click.option("--mode", type=click.Choice(["dense", "keyword", "hybrid"]), help="Which legs search (default: hybrid).")
@click.option(
    "--fusion",
    type=click.Choice(["convex", "rrf", "native"]),
    default="convex",
    show_default=True,
    help="How a hybrid search joins its legs; native leaves it to a store that can.",
)
@click.option("--alpha", type=click.FloatRange(0, 1), help="Weight of the dense leg (default: the embedder's own).")
@click.option("--min-score", type=float, help="Leave out hits that score lower.")
@click.option(
    "--group-by", type=click.Choice(["document_id"]), help="Only the best chunk of each, for example of each document."
)
@click.option("--exact", is_flag=True, help="Compare every vector, whatever the index.")
@click.option("--explain", is_flag=True, help="Show rank and score of each leg, and which way the search went.")
@tenant_option
@collection_options
def search_command(
    invocation: Invocation,
    query: str | None,
    vector: str | None,
    limit: int,
    where: str | None,
    mode: str | None,
    fusion: str,
    alpha: float | None,
    min_score: float | None,
    group_by: str | None,
    exact: bool,
    explain: bool,
) -> None:
    """Find the chunks that answer QUERY, best first.

    \b
    Example:
      shelflist search "how do I rotate keys" --limit 5 --where 'page_number < 10'
    """
    started = time.perf_counter()
    asked = _asked(query, vector)
    options: dict[str, Any] = {"limit": limit, "where": where, "mode": mode, "fusion": fusion}
    options.update(alpha=alpha, min_score=min_score, group_by=group_by)
    if exact:
        from shelflist import SearchParams

        options["params"] = SearchParams(exact=True)
    with invocation.bound() as collection:
        hits = collection.search(asked, **options)
        name, tenant = collection.name, invocation.settings.tenant
        is_empty = not hits and not collection.documents(limit=1)
    if invocation.as_json:
        print_json(
            {
                "collection": name,
                "query": query if vector is None else {"vector": vector},
                "plan": hits.plan,
                "exact": hits.exact,
                "refused": hits.refused,
                "seconds": round(time.perf_counter() - started, 4),
                "hits": [{"rank": rank, **asdict(hit)} for rank, hit in enumerate(hits, 1)],
            }
        )
        return
    if is_empty and tenant is not None:
        say(f"Nothing found: no document belongs to the tenant {tenant!r}. Check how it is spelt.")
    elif is_empty:
        say("Nothing found: the collection holds no document yet. Add some with: shelflist sync PATH")
    elif not hits:
        say("Nothing found." + (" The filter may match nothing: shelflist count --where …" if where else ""))
    for rank, hit in enumerate(hits, 1):
        print_hit(rank, hit, explain=explain)
    if explain:
        refused = f", {hits.refused} candidates refused by the ledger" if hits.refused else ""
        say(f"{hits.plan}{refused}; {'exact' if hits.exact else 'approximate'}", dim=True)


def _asked(query: str | None, vector: str | None) -> Any:
    """The text or the vector that is searched for; UsageError unless it is one of them."""
    if (query is None) == (vector is None):
        raise click.UsageError("Give either QUERY or --vector FILE.")
    return query if vector is None else _vector(vector)


def _vector(place: str) -> Any:
    """The numbers in a file; whether they fit the collection is checked by the search. BadParameter if there are none."""
    import numpy as np

    try:
        if place.lower().endswith(".npy"):
            return np.load(place, allow_pickle=False)
        with click.open_file(place, encoding="utf-8") as file:
            return np.asarray(json.load(file), dtype=np.float64)
    except (OSError, ValueError, TypeError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise click.BadParameter(
            f"{place} holds no vector ({reason}). Give a .npy file, or a JSON list of numbers.", param_hint="'--vector'"
        ) from None


def print_hit(rank: int, hit: Hit, *, explain: bool = False, length: int = _TEXT_SHOWN) -> None:
    """A hit in three lines: score and place, text, and what each leg said if wanted."""
    place = f"{hit.document_id} > {hit.section}" if hit.section else hit.document_id
    say(f"{rank:>2}. {hit.score:.3f}  ", nl=False, fg="green")
    say(one_line(place, 120), bold=True)
    say(f"    {one_line(body(hit.content, hit.section), length)}")
    if explain:
        why = hit.explanation
        parts = [_leg("dense", why.dense_rank, why.dense_score), _leg("keyword", why.keyword_rank, why.keyword_score)]
        parts += [f"distance {hit.distance:.3f}"] if hit.distance is not None else []
        parts += [f"rerank {why.rerank_score:.3f}"] if why.rerank_score is not None else []
        say("    " + ", ".join(parts), dim=True)
        if hit.metadata:
            say("    " + ", ".join(f"{key} {as_written(value)}" for key, value in hit.metadata.items()), dim=True)


def _leg(name: str, rank: int | None, score: float | None) -> str:
    if rank is None:
        return f"{name} -"
    return f"{name} {rank}" + (f" ({score:.3f})" if score is not None else "")


@click.command("count", short_help="Count the searchable chunks that match.")
@where_option
@tenant_option
@collection_options
def count_command(invocation: Invocation, where: str | None) -> None:
    """How many searchable chunks match.

    \b
    Example:
      shelflist count --where 'exists(page_number)'
    """
    with invocation.bound() as collection:
        count = collection.count(where)
        name = collection.name
    if invocation.as_json:
        print_json({"collection": name, "where": where, "count": count})
    else:
        say(str(count))


@click.command("why", short_help="Say why DOCUMENT is, or is not, found by QUERY.")
@click.argument("document")
@click.argument("query", required=False)
@vector_option
@where_option
@tenant_option
@collection_options
def why_command(
    invocation: Invocation, document: str, query: str | None, vector: str | None, where: str | None
) -> None:
    """Why DOCUMENT is, or is not, found by QUERY: each chunk's state, the filter, and its rank in every leg.

    \b
    Example:
      shelflist why handbook/keys.md "how do I rotate keys"
    """
    asked = _asked(query, vector)
    with invocation.bound() as collection:
        found = collection.why(document, asked, where)
        name = collection.name
    verdict = explain_why(
        found["chunks"],
        where is not None,
        has_embedder="dense" in found["legs"],
        has_words=vector is None,
        document=document,
    )
    if invocation.as_json:
        shown = {**found, "query": query if vector is None else {"vector": vector}}
        print_json({"collection": name, "where": where, "verdict": verdict, **shown})
        return
    columns = ("chunk", "section", "status", "filter", "dense", "keyword", "exact", "hybrid", "distance", "text")
    rows = [
        (
            chunk["position"],
            one_line(chunk["section"] or "", 30),
            chunk["index_status"] + (f" ({chunk['stale_reason']})" if chunk.get("stale_reason") else ""),
            "matches" if chunk["filter_matches"] else "no",
            *(chunk[f"{leg}_rank"] for leg in ("dense", "keyword", "exact", "hybrid")),
            chunk["distance"],
            one_line(body(chunk["content"], chunk["section"]), 50),
        )
        for chunk in found["chunks"]
    ]
    if rows:
        print_table(columns, rows)
    say(verdict)
    say(found["plan"], dim=True)


def _is_missed(chunk: Mapping[str, Any]) -> bool:
    came = _is_near(chunk["dense_rank"]) or _is_near(chunk["hybrid_rank"])
    return _is_near(chunk["exact_rank"]) and not came


def _is_near(rank: int | None) -> bool:
    return rank is not None and rank <= _DEFAULT_LIMIT


def _order(*ranks: int | None) -> float:
    return min((rank for rank in ranks if rank is not None), default=math.inf)


def explain_why(
    chunks: list[Mapping[str, Any]],
    filtered: bool,
    *,
    has_embedder: bool = True,
    has_words: bool = True,
    document: str = "DOCUMENT",
) -> str:
    """The first thing that keeps a document out of the answers, in a sentence; or its best rank."""
    if not chunks:
        return "The document has no chunks, so nothing can find it. Look at the file, then sync it again."
    indexed = [chunk for chunk in chunks if chunk["index_status"] == "indexed"]
    if not indexed:
        states = ", ".join(sorted({str(chunk["index_status"]) for chunk in chunks}))
        errors = [str(chunk["error"]) for chunk in chunks if chunk.get("error")]
        because = f" The error: {errors[0]}." if errors else ""
        return f"No chunk is searchable (index status: {states}).{because} Sync it again, or run: shelflist repair"
    matching = [chunk for chunk in indexed if chunk["filter_matches"]]
    if not matching:
        words = f"shelflist show {shlex.quote(document)}"
        return f"The filter keeps every chunk of the document out. Compare it with: {words}"
    narrower = "" if filtered else ", or narrow the search with --where"
    if has_words and not has_embedder:
        return _explain_keyword(_order(*(chunk["keyword_rank"] for chunk in matching)), narrower)
    if all(chunk["exact_rank"] is None and chunk["keyword_rank"] is None for chunk in matching):
        return "The chunks are indexed but no leg knows them. Check the collection with: shelflist verify"
    if not has_words:
        return _explain_dense(matching, narrower)
    # Ranks of different chunks side by side would describe a chunk that does not exist.
    best = min(matching, key=lambda chunk: _order(chunk["hybrid_rank"]))
    found = f"It is found: its best chunk is number {best['hybrid_rank']} in hybrid search ({_legs(best)})."
    if _is_near(best["hybrid_rank"]):
        return found
    if missed := _missed(matching):
        return missed
    nearest = min(matching, key=lambda chunk: _order(chunk["dense_rank"], chunk["keyword_rank"]))
    if _is_near(nearest["dense_rank"]) or _is_near(nearest["keyword_rank"]):
        leg = "dense" if _order(nearest["dense_rank"]) <= _order(nearest["keyword_rank"]) else "keyword"
        other = "keyword" if leg == "dense" else "dense"
        weight = "more" if leg == "dense" else "less"
        return (
            f"Its best chunk is number {nearest[f'{leg}_rank']} by the {leg} leg, and the {other} leg keeps it out of the first "
            f"{_DEFAULT_LIMIT} of a hybrid search ({_legs(nearest)}). Search with --mode {leg}, or give the dense leg {weight} "
            "weight with --alpha."
        )
    if best["hybrid_rank"] is not None:
        return f"{found} Ask for more with --limit {best['hybrid_rank']}{narrower}."
    best = min(matching, key=lambda chunk: _order(chunk["exact_rank"], chunk["keyword_rank"]))
    return f"Its best chunk is too far down in every leg ({_legs(best)}): search with a higher --limit or other words."


def _missed(matching: Sequence[Mapping[str, Any]]) -> str | None:
    """A near chunk that the vector index does not bring; None if it brings them all."""
    missed = [chunk["exact_rank"] for chunk in matching if _is_missed(chunk)]
    if not missed:
        return None
    return (
        f"The vector index misses it: compared with every vector it is number {min(missed)}, and the index does not bring it. "
        "Search with --exact, aim at a higher target_recall, or see how often that happens with collection.recall()."
    )


def _explain_dense(matching: Sequence[Mapping[str, Any]], narrower: str) -> str:
    """What is to be said of a search by a vector, which has no words for the other leg."""
    rank = _order(*(chunk["dense_rank"] for chunk in matching))
    found = f"It is found: its best chunk is number {rank} in dense search."
    if rank <= _DEFAULT_LIMIT:
        return found
    if missed := _missed(matching):
        return missed
    if rank < math.inf:
        return f"{found} Ask for more with --limit {rank}{narrower}."
    exact = _order(*(chunk["exact_rank"] for chunk in matching))
    return f"Its best chunk is too far down (number {exact} of all): search with a higher --limit{narrower}."


def _explain_keyword(rank: float, narrower: str) -> str:
    """What is to be said where vectors are given: hybrid search, the usual one, cannot be asked with words."""
    only = "The collection has no embedder, so words find it by keyword only"
    if rank == math.inf:
        return f"{only}, and it shares no word with the query. Use other words, or search by a vector (--vector FILE)."
    found = f"{only}: its best chunk is number {rank} with --mode keyword."
    return found if rank <= _DEFAULT_LIMIT else f"{found} Ask for more with --limit {rank}{narrower}."


def _legs(chunk: Mapping[str, Any]) -> str:
    dense, keyword = chunk["exact_rank"], chunk["keyword_rank"]
    return (
        f"dense {'-' if dense is None else dense}, "
        f"keyword {'- (shares no word with the query)' if keyword is None else keyword}"
    )
