"""`sync` and `plan`: the way in, done or only shown."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shelflist.cli.options import Invocation, as_typed, collection_options, tenant_option
from shelflist.cli.output import Failed, print_json, printable, say, warn
from shelflist.cli.progress import progress_listener
from shelflist.core.errors import InvalidInput, ShelflistError

if TYPE_CHECKING:
    from shelflist import Chunker, SyncReport
    from shelflist.core.types import Failure, Progress

_SHOWN_FAILURES = 20
_SHOWN_NAMES = 5
_CHUNK_FILES = (".jsonl", ".ndjson", ".parquet", ".pq")

_SOURCE_OPTIONS = (
    click.argument("paths", nargs=-1, required=True, metavar="PATH..."),
    click.option("--source", metavar="NAME", help="Name that these documents belong to (default: named after PATH)."),
    click.option("--prefix", metavar="TEXT", help="Put before each document id, for example handbook/."),
    click.option(
        "--chunk-size", type=click.IntRange(min=16), default=512, show_default=True, help="Tokens of a chunk."
    ),
    click.option(
        "--chunk-overlap",
        type=click.IntRange(min=0),
        default=50,
        show_default=True,
        help="Tokens that a chunk shares with the one before it.",
    ),
    click.option(
        "--include", multiple=True, metavar="GLOB", help="Only files like this, for example '*.md'. Repeatable."
    ),
    click.option("--exclude", multiple=True, metavar="GLOB", help="No files like this. Repeatable."),
    click.option(
        "--column",
        "columns",
        multiple=True,
        metavar="PART=NAME",
        help="In a file of chunks, the column that holds the PART (document_id, content, embedding, metadata, section, "
        "chunk_strategy, tenant) if its name is another; with nothing after the = the part is left out: tenant=. Repeatable.",
    ),
    click.option(
        "--delete-missing/--keep-missing",
        "delete_missing",
        default=None,
        help="Whether documents of the source that are not in PATH any more are removed "
        "(default: removed for a folder, kept for a file).",
    ),
    click.option("--allow-removal", is_flag=True, help="Allow to remove more than a third of the collection."),
    click.option(
        "--on-failed",
        type=click.Choice(["keep_old", "switch_without"]),
        default="keep_old",
        show_default=True,
        help="When a chunk fails: keep the document's old revision, or switch to the new one without the chunk.",
    ),
)


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SOURCE_OPTIONS):
        command = option(command)
    return command


@click.command("sync", short_help="Make the collection hold what PATH holds.")
@source_options
@click.option(
    "--wait",
    type=click.Choice(["searchable", "stored"]),
    default="searchable",
    show_default=True,
    help="What the end of the command means.",
)
@tenant_option
@collection_options
def sync_command(invocation: Invocation, paths: tuple[str, ...], **options: Any) -> None:
    """Make the collection hold what PATH holds: a folder, a JSONL or a Parquet file of chunks.

    What did not change costs nothing, what changed is switched document by document, and a second sync does nothing.
    Ctrl-C keeps what was acknowledged; the same command goes on from there.

    \b
    Example:
      shelflist sync ./docs --include '*.md' --exclude 'drafts/*'
    """
    _run(invocation, paths, planned=False, **options)


@click.command("plan", short_help="Show what sync would do; nothing is done.")
@source_options
@tenant_option
@collection_options
def plan_command(invocation: Invocation, paths: tuple[str, ...], **options: Any) -> None:
    """Show what `sync` with the same options would do: additions, removals, texts and tokens to embed. Nothing is done.

    \b
    Example:
      shelflist plan ./docs
    """
    _run(invocation, paths, planned=True, **options)


def _run(
    invocation: Invocation,
    paths: tuple[str, ...],
    *,
    planned: bool,
    source: str | None,
    prefix: str | None,
    chunk_size: int,
    chunk_overlap: int,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    columns: tuple[str, ...],
    delete_missing: bool | None,
    allow_removal: bool,
    on_failed: str,
    wait: str = "searchable",
) -> None:
    import shelflist
    from shelflist.cli.report import added_up
    from shelflist.indexing.sources import require_readable

    once: dict[str, str] = {}  # a second pass over the same place would count everything again
    for path in paths:
        once.setdefault(path and os.path.abspath(path), path)
    paths = tuple(once.values())
    if source is not None and len(paths) > 1:
        # Each path is a pass of its own: the second would remove what the first one brought.
        raise click.UsageError("--source names the documents of one PATH. Run the command once for each path.")
    if source == "":
        raise click.UsageError("--source is empty. Name the documents, or leave it out.")
    for path in paths:
        if not path:  # an unset variable of the shell, not the folder one stands in
            raise click.UsageError("PATH is empty. Give a folder, a .jsonl or a .parquet file; . is this folder.")
        require_readable(Path(path))
    try:
        chunker = shelflist.Chunker(chunk_size, chunk_overlap)
    except InvalidInput as error:
        raise click.BadParameter(str(error), param_hint="'--chunk-overlap'") from None
    parts: list[dict[str, Any]] = []
    reports: list[SyncReport] = []
    started = time.perf_counter()
    with _failures_told(reports, invocation.as_json), invocation.bound() as collection:
        for path in paths:
            opened = shelflist.open_source(path, **_source_options(path, prefix, include, exclude, columns, chunker))
            named = source or _source_name(opened.name, path, invocation.settings.file)
            removes = Path(path).is_dir() if delete_missing is None else delete_missing
            settings: dict[str, Any] = {
                "source": named,
                "delete": "missing" if removes else None,
                "allow_removal": allow_removal,
                "on_failed": on_failed,
            }
            with progress_listener() as listen:
                if planned:
                    report = collection.plan(opened, progress=listen, **settings)
                else:
                    report = collection.sync_all(opened, wait=wait, progress=listen, **settings)
            parts.append({"path": path, "source": named, **_counts(report)})
            reports.append(report)
        built = not planned and _waited_for_build(collection)
        name = collection.name
    total = added_up(reports)
    seconds = time.perf_counter() - started
    if invocation.as_json:
        print_json(
            {"collection": name, "planned": planned, "seconds": round(seconds, 3), **total.to_dict(), "sources": parts}
        )
    else:
        _print(total, seconds, planned, built)
    if total.failures:
        raise click.exceptions.Exit(1)


@contextmanager
def _failures_told(reports: Sequence[SyncReport], as_json: bool) -> Iterator[None]:
    """What failed before an error ended the run is told before the error: it is in no report that is printed."""
    try:
        yield
    except ShelflistError as error:
        from shelflist.cli.report import added_up

        told = added_up([*reports, *([] if error.report is None else [error.report])])
        if as_json and told.failures:
            raise Failed(error, str(error), as_json, {"failures": told.to_dict()["failures"]}) from error
        _print_failures(told.failures)
        raise


def _waited_for_build(collection: Any) -> bool:
    """Wait for a vector index that is being built; whether one was."""
    was_building = False
    with progress_listener() as listen:

        def hear(step: Progress) -> None:
            nonlocal was_building
            was_building = True
            if listen:
                listen(step)

        collection.wait_for_build(progress=hear)
    return was_building


def _counts(report: SyncReport) -> dict[str, int]:
    """The numbers of one source; what they count stands once, in the lists of the whole."""
    return {name: value for name, value in report.to_dict().items() if isinstance(value, int)}


def _source_options(
    path: str,
    prefix: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    columns: tuple[str, ...],
    chunker: Chunker,
) -> dict[str, Any]:
    """What `open_source` takes for what stands at the path."""
    options: dict[str, Any] = {} if prefix is None else {"prefix": prefix}
    is_table = Path(path).suffix.lower() in _CHUNK_FILES and not Path(path).is_dir()
    if columns and not is_table:
        raise click.UsageError(f"--column names a column of a .jsonl or .parquet file; {path} is none.")
    if Path(path).is_dir():
        return {**options, "chunker": chunker, "include": include or None, "exclude": exclude or None}
    if include or exclude:
        raise click.UsageError(f"--include and --exclude choose files of a folder; {path} is a file.")
    if is_table:
        return {**options, "columns": _columns(columns)}
    return {**options, "chunker": chunker}


def _columns(given: tuple[str, ...]) -> dict[str, str | None]:
    columns: dict[str, str | None] = {}
    for one in given:
        part, equals, name = (text.strip() for text in one.partition("="))
        if not part or not equals:
            raise click.BadParameter(
                f"{one!r} is not PART=NAME, for example content=body, or tenant= to leave the part out",
                param_hint="'--column'",
            )
        columns[part] = name or None
    return columns


def _source_name(name: str, path: str, settings_file: Path | None) -> str:
    """A source is named after its path as seen from the shelflist.toml: the same from whichever folder one works in."""
    if settings_file is None:
        return name
    kind = name.partition(":")[0]
    place = Path(os.path.abspath(path))
    inside = place.is_relative_to(settings_file.parent)
    return f"{kind}:{(place.relative_to(settings_file.parent) if inside else place).as_posix()}"


def _print(report: SyncReport, seconds: float, planned: bool, built: bool) -> None:
    from shelflist.cli.report import has_nothing_to_do, report_lines

    for line in report_lines(report, planned):
        say(line)
    if built:
        say("Built the vector index.")
    if planned and not has_nothing_to_do(report):
        say(f"Nothing was done. Do it with: shelflist sync {' '.join(as_typed(click.get_current_context()))}", dim=True)
    if not planned:
        chunks = report.added + report.unchanged + report.moved + report.metadata_only
        rate = f", {chunks / seconds:,.0f} chunks/s" if chunks and seconds > 0.05 else ""
        say(f"{seconds:.2f} s{rate}", dim=True)
    for text in report.warnings:
        warn(text)
    _print_failures(report.failures)


def _print_failures(all_failures: Sequence[Failure]) -> None:
    by_error: dict[str, list[Failure]] = {}
    for failure in all_failures:
        by_error.setdefault(failure.error, []).append(failure)
    for error, failures in list(by_error.items())[:_SHOWN_FAILURES]:
        names = [one.document_id + ("" if one.position is None else f", chunk {one.position}") for one in failures]
        more = f" and {len(names) - _SHOWN_NAMES:,} more" if len(names) > _SHOWN_NAMES else ""
        click.echo(printable(f"Failed: {'; '.join(names[:_SHOWN_NAMES])}{more}: {error}"), err=True)
    if len(by_error) > _SHOWN_FAILURES:
        click.echo(f"… and {len(by_error) - _SHOWN_FAILURES} other errors; --json lists all.", err=True)
