"""`verify`, `repair` and `purge`: is what is searched what was written, and if not, make it so."""

from __future__ import annotations

from typing import Any

import click

from shelflist.cli.options import Invocation, collection_options
from shelflist.cli.output import counted, print_json, say
from shelflist.cli.progress import progress_listener

_SHOWN = 10
_DIFFERENCES_FOUND = 3
_REPAIR_SAMPLE = 1_000


@click.command("verify", short_help="Compare ledger, store and vectors; exit code 3 if they differ.")
@click.option(
    "--sample", type=click.IntRange(min=0), default=200, show_default=True, help="How many vectors to compare."
)
@collection_options
def verify_command(invocation: Invocation, sample: int) -> None:
    """Compare ledger and store both ways, and a sample of vectors. Exit code 3 if they differ.

    \b
    Example:
      shelflist verify --sample 1000
    """
    with invocation.collection() as collection:
        with progress_listener() as listen:
            found = collection.verify(sample, progress=listen)
        name = collection.name
    if invocation.as_json:
        print_json({"collection": name, **found})
    else:
        _print(found, sample)
    if not found["ok"]:
        raise click.exceptions.Exit(_DIFFERENCES_FOUND)


def _print(found: dict[str, Any], sample: int) -> None:
    say(f"Ledger     {counted(found['ledger'], 'chunk')} expected")
    say(f"Store      {counted(found['store'], 'chunk')} found")
    say(f"Vectors    {found['vectors_checked']:,} compared")
    for key, meaning in (
        ("missing", "in the ledger, not in the store"),
        ("ghosts", "in the store, unknown to the ledger"),
        ("hidden", "hidden in the store, though the ledger shows them"),
        ("vectors_different", "with another vector than was embedded"),
    ):
        ids = found.get(key)
        if isinstance(ids, list) and ids:
            more = ", …" if len(ids) > _SHOWN else ""
            say(f"{counted(len(ids), 'chunk')} {meaning}: {', '.join(map(str, ids[:_SHOWN]))}{more}", fg="red")
    if found.get("doubled"):
        say(f"{counted(found['doubled'], 'chunk')} in the store twice.", fg="red")
    documents = found.get("missing_documents")
    if isinstance(documents, list) and documents:
        say(f"They belong to: {', '.join(map(str, documents[:_SHOWN]))}{', …' if len(documents) > _SHOWN else ''}")
    if found.get("keywords_ok") is False:
        say("The keyword index does not hold the same chunks.", fg="red")
    if found.get("snapshot_ok") is False:
        say("The snapshot of the vectors is damaged. Nothing is lost, and searches go on without it.", fg="red")
    for key, meaning in (("condemned", "waiting for purge"), ("unfinished", "interrupted")):
        if found.get(key):
            noun = "chunk" if key == "condemned" else "document"
            say(f"{counted(found[key], noun)} {meaning} (this is not a difference)", dim=True)
    if found["ok"]:
        say("What is searched is what was written.", fg="green")
    else:
        say(f"Put it right with: shelflist repair{f' --sample {sample}' if sample > _REPAIR_SAMPLE else ''}")


@click.command("repair", short_help="Put right what verify finds.")
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=_REPAIR_SAMPLE,
    show_default=True,
    help="How many vectors to compare.",
)
@click.option("--emptied", is_flag=True, help="The store has lost the whole collection: fill it again from the ledger.")
@collection_options
def repair_command(invocation: Invocation, sample: int, emptied: bool) -> None:
    """Restore what `verify` misses from the ledger, delete what must not be there, rebuild damaged caches.

    Neither the sources nor, as far as vectors are cached, the embedder are asked again. A store that has nothing of the
    collection may be another one than is meant: it is filled only with --emptied.

    \b
    Example:
      shelflist repair
    """
    with invocation.collection(emptied=emptied) as collection:
        with progress_listener() as listen:
            done = collection.repair(sample, progress=listen)
            collection.wait_for_build(progress=listen)
        name = collection.name
    if invocation.as_json:
        print_json({"collection": name, **done})
    else:
        for action in done["actions"]:
            say(f"{action.rstrip('.')}.")
        if not done["actions"]:
            say("Nothing to repair.")
    lost = done.get("lost")
    if lost:
        # Given vectors that neither ledger nor store has any more cannot be made here.
        click.echo(f"Not restored: {', '.join(map(str, lost[:_SHOWN]))}. Sync these documents again.", err=True)
        raise click.exceptions.Exit(1)


@click.command("purge", short_help="Delete condemned chunks whose grace has passed.")
@collection_options
def purge_command(invocation: Invocation) -> None:
    """Delete condemned chunks whose grace has passed. `sync` does the same at its end.

    \b
    Example:
      shelflist purge
    """
    with invocation.collection() as collection:
        purged = collection.purge()
        name = collection.name
    if invocation.as_json:
        print_json({"collection": name, "purged": purged})
    else:
        say(f"Purged {counted(purged, 'condemned chunk')}.")
