"""What the commands share: the options that say which collection, how it is opened, and how errors are reported."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from shelflist.cli.output import Failed, log_to_stderr, warn
from shelflist.config import Settings, has_secret
from shelflist.core.errors import ConfigError, ShelflistError

if TYPE_CHECKING:
    from shelflist import Collection

Command = TypeVar("Command", bound=Callable[..., Any])


class Invocation:
    """One run of a command: its flags (None: not given), its settings, and whether it answers in JSON."""

    def __init__(self, flags: Mapping[str, Any], as_json: bool) -> None:
        self.flags = flags
        self.as_json = as_json

    @functools.cached_property
    def settings(self) -> Settings:
        return Settings.resolve(self.flags)

    @contextmanager
    def collection(self, *, compare: bool = True, emptied: bool = False) -> Iterator[Collection]:
        """The existing collection that the settings name. CollectionNotFound if there is none.

        `compare`: warn if the shelflist.toml in use declares other fields. `emptied`: see `shelflist.open`.
        """
        import shelflist

        settings = self.settings
        url = settings.require_url()
        options: dict[str, Any] = {}
        if settings.embedder is not None:
            options["embedder"] = None if settings.embedder == "none" else settings.embedder
        opened = shelflist.open(
            url, settings.collection, ledger=settings.ledger, create=False, emptied=emptied, **options
        )
        with opened as collection:
            if compare:
                self._compare_with_file(collection)
            yield collection

    @contextmanager
    def bound(self) -> Iterator[Any]:
        """The collection, bound to the tenant if one is given."""
        with self.collection() as collection:
            yield collection if self.settings.tenant is None else collection.tenant(self.settings.tenant)

    def _compare_with_file(self, collection: Collection) -> None:
        """A file that says something else than the collection is obeyed by nobody: say so."""
        if not self.settings.described or not self.settings.fields:
            return
        there = {name: str(kind) for name, kind in collection.fields.items()}
        for name, kind in self.settings.fields.items():
            if name not in there:
                warn(
                    f"{self.settings.file} declares the field {name!r}, the collection {collection.name!r} does not. "
                    f"Add it with: shelflist fields add {name} {shlex.quote(kind)}"
                )
            elif there[name] != kind:
                warn(f"{self.settings.file} declares {name!r} as {kind}; in {collection.name!r} it is {there[name]}.")


@contextmanager
def reported_errors(as_json: bool) -> Iterator[None]:
    """Expected errors become one line and exit code 1; anything else is a bug and keeps its traceback."""
    try:
        yield
    except ShelflistError as error:
        raise Failed(error, str(error), as_json) from error
    except UnicodeEncodeError as error:  # a shell passes bytes, and those that are not UTF-8 come as lone surrogates
        text = f"{error.object[:80]!r} is not valid Unicode (character {error.start}). Give it as UTF-8."
        raise Failed(error, text, as_json) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise Failed(error, f"{place}{error.strerror or error}", as_json) from error


def collection_options(command: Command) -> Command:
    """Adds --url, --collection, --ledger, --embedder and --json; the command gets an `Invocation` first."""

    @functools.wraps(command)
    def run(
        *args: Any,
        url: str | None,
        collection: str | None,
        ledger: str | None,
        embedder: str | None,
        as_json: bool,
        **own: Any,
    ) -> Any:
        log_to_stderr()
        with reported_errors(as_json):
            flags = {"url": url, "collection": collection, "ledger": ledger, "embedder": embedder}
            flags["tenant"] = own.pop("tenant", None)
            return command(Invocation(flags, as_json), *args, **own)

    for option in reversed(_PLACE):
        run = option(run)
    return run  # type: ignore[return-value]


_PLACE: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.option("--url", metavar="URL", help="Where the index is: file:./index, qdrant://HOST:6333, pgvector://…"),
    click.option("--collection", metavar="NAME", help="Name of the collection (default: docs)."),
    click.option(
        "--ledger", metavar="URL", help="Where the ledger is, if not in the store: sqlite:FILE, postgresql://…"
    ),
    click.option("--embedder", metavar="SPEC", help="Embedder, if not the one that the collection was made with."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs."),
)


def as_typed(context: click.Context) -> list[str]:
    """The arguments and options of this run as words for a shell, but for --json; a URL with a secret is left out."""
    words: list[str] = []
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE or name == "as_json":
            continue
        if isinstance(parameter, click.Option) and parameter.is_flag:
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if name in ("url", "ledger") and has_secret(one):
                continue
            flag = [parameter.opts[0]] if isinstance(parameter, click.Option) else []
            words += [*flag, shlex.quote(str(one))]
    return words


def _one_spelling(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    from shelflist.core.index_text import index_text, parse_index

    try:
        return index_text(parse_index(text))
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


index_option = click.option(
    "--index",
    metavar="KIND",
    callback=_one_spelling,
    help="Vector index: auto (the store's best), flat, hnsw or ivf; with options: 'hnsw(m=16, ef_construction=128)'.",
)
tenant_option = click.option("--tenant", metavar="ID", help="The tenant, in a collection that has tenants.")
where_option = click.option(
    "--where", metavar="FILTER", help="Condition on metadata, for example 'page_number < 10 and \"api\" in tags'."
)
