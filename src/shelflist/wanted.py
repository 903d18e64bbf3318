"""The options with which a collection is wanted, compared with those of the one that is there; what to type instead."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from shelflist.config import StoreUrl, has_secret
from shelflist.core.errors import CollectionMismatch
from shelflist.core.fields import Fields
from shelflist.core.types import IndexSpec, Metric, Tenancy
from shelflist.embedders.protocol import Embedder
from shelflist.ledger.catalog import CollectionRecord


class _UnsetType(Enum):
    UNSET = "unset"


UNSET = _UnsetType.UNSET
Unset = Literal[_UnsetType.UNSET]
"""An option that was not given, where None means something."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of `open`, as given."""

    embedder: str | Embedder | Unset | None = UNSET
    fields: Mapping[str, Any] | None = None
    index: IndexSpec | None = None
    tenancy: Tenancy | None = None
    metric: Metric | None = None
    fingerprint: str | None = None
    dimensions: int | None = None
    target_recall: float | None = None


def typed(commands: Sequence[str], name: str, place: StoreUrl, ledger: str | None) -> str:
    """The commands, to be pasted as they are, each with the options that say which collection.

    A secret is not shown: a variable is to hold it.
    """
    options, hidden = [], []
    for flag, url in (("url", place.raw), ("ledger", ledger)):
        if url is not None and has_secret(url):
            hidden.append(f"SHELFLIST_{flag.upper()}")
        elif url is not None:
            options.append(f"--{flag} {shlex.quote(url)}")
    where = " ".join([*options, f"--collection {shlex.quote(name)}"])
    secret = f" (with the secret URL in {' and '.join(hidden)})" if hidden else ""
    return " && ".join(f"{command} {where}" for command in commands) + secret


def compare(
    record: CollectionRecord, wanted: Wanted, embedder: Embedder | None, place: StoreUrl, ledger: str | None
) -> None:
    """Raise CollectionMismatch, listing every option that differs from what is stored."""
    differences: list[str] = []

    def differ(option: str, stored: object, given: object, fix: str) -> None:
        differences.append(f"{option}: stored {stored}, asked for {given}. {fix}")

    if wanted.fields is not None and (fields := Fields(wanted.fields)).to_json() != record.fields.to_json():
        new = [name for name in fields if name not in record.fields]
        adding = [f"shelflist fields add {one} {shlex.quote(fields[one].value)}" for one in new]
        leave = "Leave fields= (--field) out."
        fix = leave if not new else f"{leave} To add what is new: {typed(adding, record.name, place, ledger)}"
        differ("fields", record.fields.to_json(), fields.to_json(), fix)
    if wanted.index is not None and wanted.index != record.index:
        differ("index", record.index or "auto", wanted.index, "Leave index= (--index) out.")
    if wanted.tenancy is not None and wanted.tenancy != record.tenancy:
        differ("tenancy", record.tenancy, wanted.tenancy, "It is fixed at creation: make a new collection.")
    if wanted.metric is not None and wanted.metric != record.metric:
        differ("metric", record.metric, wanted.metric, "It is fixed at creation: make a new collection.")
    if wanted.target_recall is not None and wanted.target_recall != record.target_recall:
        differ("target_recall", record.target_recall, wanted.target_recall, "Leave target_recall= out.")
    if wanted.embedder is not UNSET:
        given = None if embedder is None else embedder.fingerprint
        stored = None if record.embedder is None else record.fingerprint
        if given != stored:
            another = "."
            if isinstance(wanted.embedder, str) and not has_secret(wanted.embedder):
                init = f"shelflist init --embedder {shlex.quote(wanted.embedder)}"
                another = f": {typed([init], f'{record.name}-2', place, ledger)}"
            differ(
                "embedder",
                stored or f"none (given vectors, {record.fingerprint})",
                given or "none (given vectors)",
                "Vector spaces never mix: open it with its own embedder (leave embedder= out, and --embedder), or make a "
                f"new collection{another}",
            )
    if wanted.fingerprint is not None and wanted.fingerprint != record.fingerprint:
        differ("fingerprint", record.fingerprint, wanted.fingerprint, "Make a new collection for another vector space.")
    if wanted.dimensions is not None and wanted.dimensions != record.dimensions:
        differ("dimensions", record.dimensions, wanted.dimensions, "Make a new collection for another vector space.")
    if differences:
        raise CollectionMismatch(
            f"The collection {record.name!r} exists with other options:\n  " + "\n  ".join(differences)
        )
