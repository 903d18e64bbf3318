"""`copy`: a collection into another store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from shelflist.cli.options import index_option, reported_errors
from shelflist.cli.output import log_to_stderr, print_json, say, warn
from shelflist.cli.progress import progress_listener
from shelflist.config import Settings, redact

if TYPE_CHECKING:
    from shelflist import CopyReport


@click.command("copy", short_help="Copy a collection from the store at SRC into the store at DST.")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option("--collection", metavar="NAME", help="Name of the collection (default: docs).")
@click.option("--to", metavar="NAME", help="Name of the copy (default: the same).")
@click.option("--ledger", metavar="URL", help="Where the ledger of SRC is, if not in its store.")
@click.option("--to-ledger", metavar="URL", help="Where the ledger of DST is or shall be, if not in its store.")
@index_option
@click.option(
    "--sample", type=click.IntRange(min=0), default=200, show_default=True, help="How many vectors to compare."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def copy_command(
    source: str,
    destination: str,
    collection: str | None,
    to: str | None,
    ledger: str | None,
    to_ledger: str | None,
    index: str | None,
    sample: int,
    as_json: bool,
) -> None:
    """Copy a collection from the store at SRC into the store at DST, vectors, ids and revisions as they are.

    Nothing is embedded. Ctrl-C keeps what was copied and the same command goes on; run later, it catches up with what
    has changed in SRC since. At the end both are compared: chunks, a sample of vectors, and answers.

    \b
    Example:
      shelflist copy file:./index qdrant://127.0.0.1:6333 --to-ledger sqlite:./ledger.db
    """
    import shelflist
    from shelflist.core.index_text import parse_index

    log_to_stderr()
    started = time.perf_counter()
    with reported_errors(as_json):
        here = Settings.resolve({"collection": collection})
        mine, its_ledger = _side(source, ledger, here)
        theirs, copy_ledger = _side(destination, to_ledger, here)
        with progress_listener() as listen:
            report = shelflist.copy(
                mine,
                theirs,
                here.collection,
                to=to,
                ledger=its_ledger,
                to_ledger=copy_ledger,
                index=None if index is None else parse_index(index),
                sample=sample,
                progress=listen,
            )
    seconds = time.perf_counter() - started
    name = to or here.collection
    for text in report.warnings:
        warn(text)
    if as_json:
        print_json({"collection": here.collection, "to": name, "seconds": round(seconds, 3), **report.to_dict()})
        return
    _print(report, seconds)
    say(
        f"The copy is {name!r} at {redact(theirs)}. Once nothing writes to the original, run the same command once more,"
    )
    say("then let your programs open the copy: url (and ledger) in shelflist.toml, or SHELFLIST_URL.")


def _side(url: str, ledger: str | None, here: Settings) -> tuple[str, str | None]:
    """URL and ledger of one side. The ledger that the settings name belongs to the store that they name, no other."""
    settings = Settings.resolve({"url": url, "ledger": ledger})
    return settings.require_url(), settings.ledger if ledger or settings.url == here.url else None


def _print(report: CopyReport, seconds: float) -> None:
    parts = (
        ("added", report.documents_added),
        ("changed", report.documents_changed),
        ("removed", report.documents_removed),
        ("there already", report.documents_unchanged),
    )
    say(f"Documents  {', '.join(f'{count:,} {name}' for name, count in parts if count) or 'none'}")
    say(f"Chunks     {report.added:,} written, {report.removed:,} removed")
    say(
        f"Compared   {report.documents:,} documents, {report.chunks:,} chunks, {report.vectors_checked:,} vectors, "
        f"{report.answers_checked:,} answers: equal"
    )
    rate = f", {report.added / seconds:,.0f} chunks/s" if report.added and seconds > 0.05 else ""
    say(f"{seconds:.2f} s{rate}", dim=True)
