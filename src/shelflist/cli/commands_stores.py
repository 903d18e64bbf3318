"""`stores`: what each store can do."""

from __future__ import annotations

import click

from shelflist.cli.options import reported_errors
from shelflist.cli.output import print_json, say


@click.command("stores", short_help="Show which stores there are and what each can do.")
@click.argument("names", nargs=-1, metavar="[STORE]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def stores_command(names: tuple[str, ...], as_json: bool) -> None:
    """Which stores there are, how to reach and install each, and what it can do. Of all, or of each STORE named.

    The table is printed from what the code itself asks. What a store does not claim raises an error, except that filters
    and keyword search work everywhere: the ledger answers what a store cannot.

    \b
    Example:
      shelflist stores qdrant pgvector
    """
    from shelflist.stores.matrix import described, rows_of, text_table

    with reported_errors(as_json):
        stores = described(names)
    if as_json:
        print_json({"stores": [rows_of(one) for one in stores]})
        return
    say(text_table(stores))
