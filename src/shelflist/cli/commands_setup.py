"""`init`, `fields` and `drop`: a collection comes, gets fields, goes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shelflist.cli.options import Invocation, collection_options, index_option
from shelflist.cli.output import print_json, print_table, relative, say, warn
from shelflist.config import (
    FILE_NAME,
    Settings,
    command_anew,
    has_secret,
    parse_url,
    read_file,
    redact,
    render_file,
    url_path,
)
from shelflist.core.errors import CollectionNotFound, ConfigError, ShelflistError
from shelflist.core.fields import Fields

if TYPE_CHECKING:
    from shelflist import Collection


def _declared_fields(given: tuple[str, ...]) -> dict[str, str] | None:
    declared: dict[str, str] = {}
    for one in given:
        name, equals, kind = (part.strip() for part in one.partition("="))
        if not equals or not name or not kind:
            raise click.BadParameter(f"{one!r} is not NAME=TYPE, for example page_number=int", param_hint="'--field'")
        if name in declared:
            raise click.BadParameter(f"{name!r} is declared twice", param_hint="'--field'")
        declared[name] = kind
    return _checked(declared, "'--field'") if declared else None


def _checked(declared: Mapping[str, str], given_as: str) -> dict[str, str]:
    """Fields as they are written down; wrong usage for a name or a type that there cannot be."""
    try:
        return Fields(declared).to_json()
    except ConfigError as error:
        raise click.BadParameter(str(error), param_hint=given_as) from None


@click.command("init", short_help="Create a collection, and a shelflist.toml that names it.")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME=TYPE",
    help="A metadata field to filter on; TYPE is str, int, float, bool, datetime or list[str]. Repeatable.",
)
@click.option("--tenancy", type=click.Choice(["none", "required"]), help="Whether every document belongs to a tenant.")
@click.option(
    "--metric", type=click.Choice(["cosine", "dot", "l2"]), help="How vectors are compared (default: cosine)."
)
@click.option(
    "--fingerprint", metavar="TEXT", help="With --embedder none: the name of the model that made the vectors."
)
@click.option("--dimensions", type=click.IntRange(min=1), help="With --embedder none: the length of the vectors.")
@index_option
@click.option("--force", is_flag=True, help=f"Replace a {FILE_NAME} that says something else.")
@collection_options
def init_command(invocation: Invocation, fields: tuple[str, ...], force: bool, **options: Any) -> None:
    """Create a collection, and a shelflist.toml here so that later commands find it.

    In a folder whose shelflist.toml is there already, for example a fresh clone, plain `shelflist init` creates the
    collection that the file describes. With another --collection NAME it creates that one beside it and keeps the file.

    \b
    Example:
      shelflist init --url file:./index --field page_number=int --field "tags=list[str]"
      shelflist init --url qdrant://127.0.0.1:6333 --ledger sqlite:./ledger.db --index "hnsw(m=32)"
    """
    import shelflist

    here = Path.cwd()
    path = here / FILE_NAME
    flags = {**invocation.flags, **options, "fields": _declared_fields(fields)}
    before = None
    if path.is_file():
        try:
            before = read_file(path)
        except ConfigError:
            if not force:
                raise
    # Only a file in this very folder counts: one further up describes another collection.
    beside = before is not None and not force and flags.get("collection") not in (None, before.collection)
    base = before or Settings()
    if beside:  # the file describes another collection of this index: it stays, and lends no more than the place
        base = Settings(url=base.url, ledger=base.ledger)
    settings = Settings.resolve(flags, directory=here, base=base)
    if before is not None and not force and not beside and not _same(before, settings):
        raise ConfigError(
            f"{relative(path)} says something else: {_differences(before, settings)}. "
            "Leave the options out to use it as it is, or replace it with --force."
        )
    if settings.url is None and before is None and path.is_file():
        raise ConfigError(
            f"{relative(path)} cannot be used, and --force needs to be told where the index is: {command_anew(path)}"
        )
    url = settings.require_url()
    if parse_url(url).scheme == "memory":
        raise ConfigError(
            "memory: ends with the process, so no later command would find it. Use file:DIRECTORY, or the URL of a server."
        )
    extra: dict[str, Any] = {
        key: getattr(settings, key)
        for key in ("tenancy", "metric", "fingerprint", "dimensions", "fields")
        if getattr(settings, key) is not None
    }
    if settings.embedder is not None:
        extra["embedder"] = None if settings.embedder == "none" else settings.embedder
    if settings.index is not None:
        from shelflist.core.index_text import parse_index

        extra["index"] = parse_index(settings.index)
    with shelflist.open(url, settings.collection, ledger=settings.ledger, **extra) as collection:
        facts: dict[str, Any] = {
            "collection": collection.name,
            "url": redact(url),
            "fields": {name: str(kind) for name, kind in collection.fields.items()},
            "tenancy": collection.tenancy,
            "dimensions": collection.dimensions,
            "metric": collection.metric,
        }
    wrote = not beside and (before is None or not _same(before, settings))
    if wrote:
        places: dict[str, Any] = {
            key: flags.get(key) or _from_here(getattr(settings, key), here) for key in ("url", "ledger")
        }
        _write(path, replace(settings, **places))
    if invocation.as_json:
        print_json({**facts, "file": str(path), "file_written": wrote})
        return
    declared = ", ".join(f"{name} ({kind})" for name, kind in facts["fields"].items()) or "none"
    say(f"The collection {collection.name!r} is ready at {redact(url)}. Fields: {declared}.")
    say(f"{'Wrote' if wrote else 'Kept'} {relative(path)}. Next:")
    for key in ("url", "ledger"):
        if has_secret(getattr(settings, key) or "") and f"SHELFLIST_{key.upper()}" not in os.environ:
            say(f"  export SHELFLIST_{key.upper()}='{redact(getattr(settings, key))}'   # with the secret")
    what = "./chunks.jsonl" if settings.embedder == "none" else "./docs"
    say(f"  shelflist sync {what}{f' --collection {settings.collection}' if beside else ''}")


def _same(one: Settings, other: Settings) -> bool:
    return not _differing(one, other)


def _differing(one: Settings, other: Settings) -> list[str]:
    keys = ("url", "collection", "ledger", "embedder", "tenancy", "metric", "index", "fingerprint", "dimensions")
    different = [key for key in keys if getattr(one, key) != getattr(other, key)]
    return different + (["fields"] if dict(one.fields or {}) != dict(other.fields or {}) else [])


def _differences(one: Settings, other: Settings) -> str:
    said = []
    for key in _differing(one, other):
        there, here = (getattr(settings, key) for settings in (one, other))
        if key in ("url", "ledger"):
            there, here = (value and redact(value) for value in (there, here))
        said.append(f"{key} is {_said(there)} there, {_said(here)} here")
    return "; ".join(said)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {kind}" for name, kind in value.items()) or "none"
    return "not given" if value is None else str(value)


def _from_here(url: str | None, here: Path) -> str | None:
    """A directory below `here` as a relative URL, so that the folder can be moved or cloned."""
    if url is None or has_secret(url):
        return url
    parsed = parse_url(url)
    if parsed.scheme not in ("file", "sqlite") or not Path(parsed.path).is_relative_to(here) or parsed.query:
        return url
    return f"{parsed.scheme}:./{url_path(str(Path(parsed.path).relative_to(here)))}"


def _write(path: Path, settings: Settings) -> None:
    for key in ("url", "ledger"):
        value = getattr(settings, key)
        if value is not None and has_secret(value):
            warn(
                f"{key} holds a secret, so it is not written to {relative(path)}. Set SHELFLIST_{key.upper()} instead."
            )
            settings = replace(settings, url=None) if key == "url" else replace(settings, ledger=None)
    try:
        path.write_text(render_file(settings), encoding="utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"{relative(path)} cannot hold a name that is not valid Unicode.") from None


class _ListByDefault(click.Group):
    """`shelflist fields` lists them, as `shelflist fields list` does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("fields", cls=_ListByDefault, short_help="List or add the metadata fields that filters can use.")
def fields_command() -> None:
    """List or add the metadata fields that filters can use.

    \b
    Example:
      shelflist fields list
    """


@fields_command.command("list")
@collection_options
def fields_list(invocation: Invocation) -> None:
    """The declared fields and their types.

    \b
    Example:
      shelflist fields list --json
    """
    with invocation.collection() as collection:
        declared = {name: str(kind) for name, kind in collection.fields.items()}
    if invocation.as_json:
        print_json({"collection": collection.name, "fields": declared})
    elif declared:
        print_table(("field", "type"), list(declared.items()))
    else:
        say("No fields are declared. Add one with: shelflist fields add NAME TYPE")


@fields_command.command("add")
@click.argument("name")
@click.argument("type_name", metavar="TYPE")
@collection_options
def fields_add(invocation: Invocation, name: str, type_name: str) -> None:
    """Declare a field to filter on, for the chunks that are there too.

    TYPE is str, int, float, bool, datetime or list[str]. If a stored value has another type, nothing is changed.

    \b
    Example:
      shelflist fields add page_number int
    """
    kind = _checked({name: type_name}, "'NAME TYPE'")[name]
    with invocation.collection(compare=False) as collection:
        collection.add_field(name, kind)
        declared = {one: str(kind) for one, kind in collection.fields.items()}
    file = invocation.settings.file
    wrote = invocation.settings.described and file is not None and _declare_in_file(file, name, declared[name])
    if invocation.as_json:
        print_json({"collection": collection.name, "added": name, "fields": declared, "file_written": wrote})
    else:
        also = f", and in {relative(file)}" if wrote and file is not None else ""
        say(f"Declared {name} ({declared[name]}) in {collection.name!r}{also}.")


def _declare_in_file(path: Path, name: str, kind: str) -> bool:
    """Add the field to a shelflist.toml without touching its other lines. False if the file says it already."""
    if name in (read_file(path).fields or {}):
        return False
    text = path.read_text(encoding="utf-8")
    line = f'{name} = "{kind}"'
    table = re.search(r"^[ \t]*\[[ \t]*fields[ \t]*\][^\n]*$", text, re.MULTILINE)
    if table is None:
        changed = f"{text.rstrip()}\n\n[fields]\n{line}\n"
    else:
        changed = f"{text[: table.end()]}\n{line}{text[table.end() :]}"
    path.write_text(changed, encoding="utf-8")
    try:
        read_file(path)
    except ShelflistError:
        path.write_text(text, encoding="utf-8")
        warn(f"{relative(path)} writes its fields in a way of its own. Add the line yourself: {line}")
        return False
    return True


@contextmanager
def _there_to_drop(invocation: Invocation) -> Iterator[Collection]:
    """The collection; one that is not there is not to be made by who wants it gone."""
    try:
        with invocation.collection(compare=False, emptied=True) as collection:
            yield collection
    except CollectionNotFound:
        from shelflist.opening import collection_names

        settings = invocation.settings
        url = settings.require_url()
        names = collection_names(url, settings.ledger)
        there = f" There is: {', '.join(names)}." if names else ""
        raise CollectionNotFound(
            f"No collection {settings.collection!r} at {redact(url)}, so nothing was removed.{there}"
        ) from None


@click.command("drop", short_help="Remove a collection with everything in it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@collection_options
def drop_command(invocation: Invocation, yes: bool) -> None:
    """Remove a collection with everything in it. The files that it was made from stay.

    \b
    Example:
      shelflist drop --collection docs --yes
    """
    with _there_to_drop(invocation) as collection:
        documents = collection.status()["documents"]
        place = f"the collection {collection.name!r} at {redact(invocation.settings.url or '')}"
        if not yes:
            try:
                click.confirm(f"Remove {place} with {documents:,} documents?", abort=True, err=True)
            except click.Abort as refused:
                if isinstance(refused.__cause__, KeyboardInterrupt):
                    raise
                raise ConfigError(f"Nothing was removed: {place} stays. Give --yes to remove it.") from None
        collection.drop()
    if invocation.as_json:
        print_json({"collection": collection.name, "dropped": True, "documents": documents})
    else:
        say(f"Removed {place} with {documents:,} documents.")
