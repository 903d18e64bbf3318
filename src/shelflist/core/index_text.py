"""The text form of a vector index, for the command line, shelflist.toml and `open`: `hnsw(m=16, ef_construction=128)`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, get_args

from shelflist.core.errors import ConfigError
from shelflist.core.fields import whole
from shelflist.core.types import Flat, Hnsw, IndexSpec, Ivf, Quantization

_KINDS: Mapping[str, type[Flat] | type[Ivf] | type[Hnsw]] = {"flat": Flat, "ivf": Ivf, "hnsw": Hnsw}
_LEAST = {"full_scan_threshold": 0, "indexing_threshold": 0, "m": 2}
"""Of each number; 1 of the others. A graph of one link a node leads nowhere, and ends FAISS."""
_FORM = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*", re.DOTALL)
_EXAMPLE = "Write for example: hnsw(m=16, ef_construction=128)"


def parse_index(text: str) -> IndexSpec | None:
    """The index that the text names; None for `auto`, the best that a store has. ConfigError says what is wrong."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ConfigError(f"The index {text!r} is not KIND or KIND(NAME=VALUE, …). {_EXAMPLE}")
    kind, inside = found[1].lower(), found[2]
    if kind == "auto" and inside is None:
        return None
    if kind not in _KINDS:
        raise ConfigError(
            f"There is no index {kind!r}.{_near(kind, _KINDS)} Kinds: auto, {', '.join(sorted(_KINDS))}. {_EXAMPLE}"
        )
    options: dict[str, Any] = {}
    known = _options(_KINDS[kind])
    for part in (inside or "").split(",") if (inside or "").strip() else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise ConfigError(f"The index {text!r}: {part.strip()!r} is not NAME=VALUE. {_EXAMPLE}")
        if name not in known:
            raise ConfigError(
                f"The index {kind} has no option {name!r}.{_near(name, known)} Options: {', '.join(known)}."
            )
        if name in options:
            raise ConfigError(f"The index {text!r} gives {name} twice. Keep one of them.")
        options[name] = _value(name, value)
    return _KINDS[kind](**options)


def given_index(index: object) -> IndexSpec | None:
    """The index that a caller gives as an object or as text; ConfigError for anything else."""
    if index is None:
        return None
    if isinstance(index, (Flat, Ivf, Hnsw)):
        numbers: dict[str, Any] = {}
        for name in _options(type(index)):
            value = getattr(index, name)
            if name != "quantization" and value is not None and (number := _require_whole(name, value)) is not value:
                numbers[name] = number
        return replace(index, **numbers) if numbers else index
    if isinstance(index, str):
        return parse_index(index)
    raise ConfigError(f"index={index!r} is no index. Give Flat(), Ivf(), Hnsw() or its text, such as 'hnsw(m=16)'.")


def index_text(index: IndexSpec | None) -> str:
    """The text that `parse_index` reads back; options that are left to the store are left out."""
    if index is None:
        return "auto"
    given = {name: getattr(index, name) for name in _options(type(index))}
    inside = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return f"{index.kind}({inside})" if inside else index.kind


def _options(kind: type[IndexSpec]) -> list[str]:
    return [one.name for one in fields(kind) if one.name != "kind"]


def _value(name: str, text: str) -> int | str:
    if name == "quantization":
        choices = get_args(Quantization)
        if text not in choices:
            raise ConfigError(f"quantization={text} is not known.{_near(text, choices)} Choices: {', '.join(choices)}.")
        return text
    return _require_whole(name, int(text) if text.isascii() and text.isdigit() else text)


def _require_whole(name: str, value: object) -> int:
    least, number = _LEAST.get(name, 1), whole(value)
    if number is None or number < least:
        raise ConfigError(f"The option {name}={value} of an index is not a whole number from {least} up.")
    return number


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
