"""`shelflist demo`: the whole way in a minute, on Shelflist's own handbook: index, ask, edit, sync again, prove."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shelflist.cli.commands_search import print_hit
from shelflist.cli.options import reported_errors
from shelflist.cli.output import log_to_stderr, one_line, print_json, print_table, say
from shelflist.cli.report import report_lines
from shelflist.core.errors import ConfigError

if TYPE_CHECKING:
    from shelflist import Collection, Hits

FIELDS = {"topic": "str", "page_number": "int", "tags": "list[str]", "updated": "datetime"}
QUESTION = "What happens when a process is killed in the middle of a sync?"
FILTERED_QUESTION = "What is a ghost?"
FILTER = 'topic == "operations"'
COMPARED_QUESTION = "How do I keep one customer's pages away from another customer?"
EDITED_PAGE = "getting-started.md"
NEW_PARAGRAPH = (
    "The reading room closes at a quarter to ten. Whoever leaves last hands the brass key to the night porter, "
    "who keeps it in the drawer below the globe."
)
NEW_QUESTION = "Who keeps the brass key of the reading room?"
_SOURCE = "handbook"
_OWN_FOLDER = (
    "shelflist init --url file:./index",
    "shelflist sync ./docs",
    'shelflist search "your question"',
)


@click.command("demo", short_help="See it all in a minute, on Shelflist's own handbook.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Work in DIR, which must be empty or new, and leave pages and index there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def demo_command(keep: Path | None, as_json: bool) -> None:
    """Index Shelflist's own handbook, ask it questions, edit a page and sync again. Nothing leaves this machine.

    \b
    Example:
      shelflist demo --keep ./demo
    """
    log_to_stderr()
    with reported_errors(as_json), _workplace(keep) as folder:
        demo = Demo(folder, quiet=as_json)
        told = demo.run()
        if as_json:
            print_json(told)
        else:
            demo.farewell(keep is not None)
    if not told["ok"]:
        raise click.exceptions.Exit(1)


@contextmanager
def _workplace(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="shelflist-demo-") as folder:
            yield Path(folder)
        return
    if keep.exists() and any(keep.iterdir()):
        raise ConfigError(f"{keep} is not empty. Give an empty or a new folder with --keep, or leave it out.")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep


class Demo:
    """One run. Every step prints what it sees, unless `quiet`, and returns it for `--json`."""

    def __init__(self, folder: Path, *, quiet: bool) -> None:
        self.pages = folder / "handbook"
        self.url = f"file:{(folder / 'index').as_posix()}"
        self.quiet = quiet

    def run(self) -> dict[str, Any]:
        import shelflist

        started = time.perf_counter()
        told: dict[str, Any] = {"pages": self._lay_out()}
        with shelflist.open(self.url, "handbook", fields=FIELDS) as collection:
            told["first_sync"] = self._index(collection)
            told["questions"] = [
                self._ask(collection, QUESTION),
                self._ask(collection, FILTERED_QUESTION, where=FILTER),
                *self._compare(collection),
            ]
            told["edit"] = self._edit(collection)
            told["verify"] = self._verify(collection)
        told["seconds"] = round(time.perf_counter() - started, 3)
        edit = told["edit"]
        told["ok"] = bool(
            told["verify"]["ok"]
            and edit["new_text_found"]
            and edit["old_text_found_before"]
            and not edit["old_text_found"]
        )
        return told

    def farewell(self, kept: bool) -> None:
        self._step("Your own folder")
        for line in _OWN_FOLDER:
            say(f"  {line}", bold=True)
        if kept:
            say()
            say(f"The demo's pages and index are in {self.pages.parent}.", dim=True)

    def _say(self, text: str = "", **style: Any) -> None:
        if not self.quiet:
            say(text, **style)

    def _step(self, title: str) -> None:
        self._say()
        self._say(title, bold=True, fg="cyan")

    def _lay_out(self) -> int:
        self.pages.mkdir()
        packaged = [
            one for one in resources.files("shelflist").joinpath("handbook").iterdir() if one.name.endswith(".md")
        ]
        for page in packaged:
            (self.pages / page.name).write_bytes(page.read_bytes())
        return len(packaged)

    def _index(self, collection: Collection) -> dict[str, Any]:
        self._step(f"Index {len(list(self.pages.iterdir()))} pages of Shelflist's handbook")
        report, seconds = self._sync(collection)
        return {**report.to_dict(), "seconds": seconds}

    def _sync(self, collection: Collection) -> tuple[Any, float]:
        import shelflist

        started = time.perf_counter()
        report = collection.sync_all(shelflist.Folder(self.pages, name=_SOURCE), delete="missing")
        seconds = round(time.perf_counter() - started, 3)
        for line in report_lines(report):
            self._say(f"  {line}")
        self._say(f"  Pages      {report.documents_parsed} parsed, in {seconds:.2f} s")
        return report, seconds

    def _ask(self, collection: Collection, query: str, where: str | None = None) -> dict[str, Any]:
        self._step(f"Ask: {query}" + (f"   (only where {where})" if where else ""))
        started = time.perf_counter()
        hits = collection.search(query, limit=3, where=where)
        milliseconds = (time.perf_counter() - started) * 1000
        if not self.quiet:
            for rank, hit in enumerate(hits, 1):
                print_hit(rank, hit, length=160)
        matching = (
            ""
            if where is None
            else f"; the filter matches {collection.count(where):,} of {collection.count():,} chunks"
        )
        self._say(f"    {milliseconds:.1f} ms{matching}", dim=True)
        return {"query": query, "where": where, "mode": "hybrid", "hits": _places(hits)}

    def _compare(self, collection: Collection) -> list[dict[str, Any]]:
        self._step(f"Ask in three ways: {COMPARED_QUESTION}")
        answers: list[dict[str, Any]] = []
        for mode in ("keyword", "dense", "hybrid"):
            hits = collection.search(COMPARED_QUESTION, limit=3, mode=mode)
            answers.append({"query": COMPARED_QUESTION, "where": None, "mode": mode, "hits": _places(hits)})
        if not self.quiet:
            columns = [[_place(hit) for hit in answer["hits"]] for answer in answers]
            rows = [[rank + 1, *(c[rank] if rank < len(c) else "" for c in columns)] for rank in range(3)]
            print_table(("", "keyword (BM25)", "dense (vectors)", "hybrid (both)"), rows)
        return answers

    def _edit(self, collection: Collection) -> dict[str, Any]:
        page = self.pages / EDITED_PAGE
        text = page.read_text(encoding="utf-8")
        old = first_paragraph(text)
        found_before = self._finds(collection, old)
        page.write_text(text.replace(old, NEW_PARAGRAPH, 1), encoding="utf-8")
        self._step(f"Edit one paragraph of {EDITED_PAGE} and sync again")
        self._say(f"  - {one_line(old)}", fg="red")
        self._say(f"  + {one_line(NEW_PARAGRAPH)}", fg="green")
        report, seconds = self._sync(collection)
        self._say(f"  Embedded again: {report.embedded} of {report.added + report.unchanged + report.moved} chunks")
        old_found = self._finds(collection, old)
        new_hits = collection.search(NEW_QUESTION, limit=3)
        new_found = _holds(new_hits, NEW_PARAGRAPH)
        self._say()
        before = "found before the sync" if found_before else "NOT FOUND BEFORE THE SYNC"
        self._say(
            f"  The old text, asked for word by word: {before}, {'STILL FOUND' if old_found else 'not found'} now"
        )
        self._say(f"  The new text, asked “{NEW_QUESTION}”: {'found' if new_found else 'NOT FOUND'}")
        if not self.quiet and new_hits:
            print_hit(1, new_hits[0], length=160)
        return {
            "page": EDITED_PAGE,
            "old_text": old,
            "new_text": NEW_PARAGRAPH,
            "old_text_found_before": found_before,
            "old_text_found": old_found,
            "new_text_found": new_found,
            "sync": {**report.to_dict(), "seconds": seconds},
        }

    def _finds(self, collection: Collection, text: str) -> bool:
        # Every chunk is asked for, not only the best few: the old text must be nowhere.
        return _holds(collection.search(text, limit=max(collection.count(), 1)), text)

    def _verify(self, collection: Collection) -> dict[str, Any]:
        self._step("Verify: ledger against store, both ways")
        found = collection.verify()
        self._say(f"  {found['ledger']:,} chunks in the ledger, {found['store']:,} in the store, ", nl=False)
        self._say(f"{found['vectors_checked']:,} vectors compared: ", nl=False)
        self._say("they agree." if found["ok"] else "THEY DIFFER.")
        return found


def first_paragraph(page: str) -> str:
    """The first paragraph of plain prose of a Markdown page, as it stands there."""
    body = page.partition("\n---\n")[2] if page.startswith("---\n") else page
    fenced = False
    for block in body.split("\n\n"):
        block = block.strip("\n")
        inside, fenced = fenced, fenced ^ (block.count("```") % 2 == 1)
        if not inside and len(block) > 80 and block[:1].isalpha() and "```" not in block:
            return block
    raise ConfigError(f"{EDITED_PAGE} of the packaged handbook has no paragraph to edit. Install shelflist again.")


def _holds(hits: Hits, text: str) -> bool:
    wanted = " ".join(text.split())
    return any(wanted in " ".join(hit.content.split()) for hit in hits)


def _places(hits: Hits) -> list[dict[str, Any]]:
    return [
        {"document_id": hit.document_id, "section": hit.section, "score": round(hit.score, 4), "chunk_id": hit.chunk_id}
        for hit in hits
    ]


def _place(hit: dict[str, Any]) -> str:
    section = (hit["section"] or "").rpartition(" > ")[2]
    return one_line(f"{hit['document_id']} > {section}" if section else hit["document_id"], 38)
