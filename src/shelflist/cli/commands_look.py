"""`status`, `documents` and `show`: what is there."""

from __future__ import annotations

import click

from shelflist.cli.options import Invocation, collection_options, tenant_option
from shelflist.cli.output import as_written, print_facts, print_json, print_table, say, when


@click.command("status", short_help="Show how much is there, in which state, and how it was made.")
@tenant_option
@collection_options
def status_command(invocation: Invocation) -> None:
    """How many documents and chunks there are and in which state, and how the collection was made.

    \b
    Example:
      shelflist status --json
    """
    with invocation.bound() as collection:
        status = collection.status()
    if invocation.as_json:
        print_json(status)
    else:
        print_facts(status)
        if status["store"].get("snapshot_rows", 0) is None:
            say(
                "The snapshot of the vectors cannot be used; the next sync builds it anew, at once does: shelflist repair",
                fg="red",
            )
        if status["store"].get("keyword_rows", 0) is None:
            say(
                "The keyword index cannot be used; searches and syncs mend it, at once does: shelflist repair", fg="red"
            )


@click.command("documents", short_help="List the documents of the collection.")
@click.option("--prefix", metavar="TEXT", help="Only document ids that start with TEXT.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@tenant_option
@collection_options
def documents_command(invocation: Invocation, prefix: str | None, limit: int) -> None:
    """The documents of the collection, by id; of all tenants, unless --tenant names one.

    \b
    Example:
      shelflist documents --prefix handbook/
    """
    with invocation.bound() as collection:
        # One more than asked tells whether there are more.
        found = collection.documents(limit=limit + 1, prefix=prefix)
        name = collection.name
    documents, more = found[:limit], len(found) > limit
    if invocation.as_json:
        print_json({"collection": name, "documents": documents, "more": more})
        return
    if not documents:
        say(
            "No documents"
            + (f" whose id starts with {prefix!r}." if prefix else ". Add some with: shelflist sync PATH")
        )
        return
    columns = [column for column in documents[0] if column != "tenant" or any(one["tenant"] for one in documents)]
    rows = [[when(one[c]) if c == "updated_at" else one[c] for c in columns] for one in documents]
    print_table(columns, rows)
    if more:
        say(f"There are more than {limit}: see them with --limit, or narrow with --prefix.", dim=True)


@click.command("show", short_help="Show a document with its chunks.")
@click.argument("document")
@tenant_option
@collection_options
def show_command(invocation: Invocation, document: str) -> None:
    """A document with its chunks: text, metadata and index status of each.

    \b
    Example:
      shelflist show handbook/keys.md
    """
    with invocation.bound() as collection:
        found = collection.show(document)
        name = collection.name
    if invocation.as_json:
        print_json({"collection": name, **found})
        return
    facts = {key: value for key, value in found.items() if key not in ("chunks", "document_id")}
    print_facts({**facts, "updated_at": when(found["updated_at"])}, title=document)
    for chunk in found["chunks"]:
        say()
        say(f"Chunk {chunk['position']}  ", nl=False, bold=True)
        say(" · ".join(part for part in (str(chunk["index_status"]), chunk.get("section"), chunk["chunk_id"]) if part))
        if chunk.get("error"):
            say(f"  error: {chunk['error']}", fg="red")
        if chunk["metadata"]:
            print_facts({key: as_written(value) for key, value in chunk["metadata"].items()})
        say(chunk["content"].strip())
    if not found["chunks"]:
        say("It has no chunks.")
