"""Embedders: texts in, vectors out. `resolve_embedder` opens one by its text or completes the user's own object."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from shelflist.core.errors import ConfigError
from shelflist.embedders.defaults import SMALLEST, WHOLE, AdaptedEmbedder, EmbedderDefaults, has_member
from shelflist.embedders.protocol import Embedder

__all__ = ["Embedder", "EmbedderDefaults", "resolve_embedder"]

_CHOICES = (
    "static (bundled, offline)",
    "fastembed:MODEL",
    "sentence-transformers:MODEL_OR_PATH",
    "openai:MODEL?base_url=…&dimensions=…&api_key_env=NAME",
    "an object with fingerprint, dimensions, embed_documents and embed_query",
)
_NUMBERS = frozenset({"dimensions", "max_tokens", "batch_size"})
_PROMPTS = frozenset({"query_prefix", "document_prefix"})
_OPTIONS = {
    "fastembed": _PROMPTS | {"path"},
    "sentence-transformers": _PROMPTS | {"device"},
    "openai": _PROMPTS | {"base_url", "dimensions", "api_key_env", "max_tokens", "batch_size"},
}


def resolve_embedder(spec: str | Embedder) -> Embedder:
    """The embedder that `spec` names, or `spec` itself, completed if it has only the smallest set of members.

    Raises ConfigError for an unknown or malformed spec, MissingDependency if its package is not installed.
    No model is loaded and nothing is sent before the embedder is first asked something.
    """
    if not isinstance(spec, str):
        return _own(spec)
    scheme, _, rest = spec.partition(":")
    if spec == "static":
        from shelflist.embedders.static import StaticEmbedder

        return StaticEmbedder()
    if scheme == "custom":
        raise ConfigError(
            f"The embedder {spec!r} is an object of your own program: pass the same object again with embedder=…"
        )
    if scheme not in _OPTIONS:
        raise ConfigError(f"Unknown embedder {_shown(spec)}. {_choices()}")
    model, _, query = rest.partition("?")
    if not model:
        raise ConfigError(f"The embedder {_shown(spec)} names no model: write {scheme}:MODEL. {_choices()}")
    options = _parsed(spec, scheme, query)
    if scheme == "fastembed":
        from shelflist.embedders.fastembed import FastembedEmbedder

        return FastembedEmbedder(model, **options)
    if scheme == "sentence-transformers":
        from shelflist.embedders.sentence_transformers import SentenceTransformersEmbedder

        return SentenceTransformersEmbedder(model, **options)
    from shelflist.embedders.openai import OpenAIEmbedder

    return OpenAIEmbedder(model, **options)


def _own(thing: Any) -> Embedder:
    missing = [name for name in SMALLEST if not has_member(thing, name)]
    if isinstance(thing, type) or missing:
        what = (
            f"the class {thing.__qualname__}, not an instance"
            if isinstance(thing, type)
            else repr(type(thing).__name__)
        )
        lacks = f" It lacks {', '.join(missing)}." if missing and not isinstance(thing, type) else ""
        raise ConfigError(f"This is no embedder: {what}.{lacks} {_choices()}")
    if all(has_member(thing, name) for name in WHOLE):
        whole: Embedder = thing
        return whole
    return AdaptedEmbedder(thing)


def _parsed(spec: str, scheme: str, query: str) -> dict[str, Any]:
    known = _OPTIONS[scheme]
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in ("api_key", "key", "token"):
            raise ConfigError(
                f"The embedder {_shown(spec)} holds a key. Specs are stored and shown: put the key in an environment "
                "variable and name that with api_key_env=NAME."
            )
        if name not in known:
            raise ConfigError(
                f"The embedder {_shown(spec)} has the unknown option {name!r}. Options: {', '.join(sorted(known))}."
            )
        if name in _NUMBERS:
            if not (value.isascii() and value.isdigit() and int(value) > 0):
                raise ConfigError(f"The option {name} of {_shown(spec)} must be a whole number of 1 or more.")
            options[name] = int(value)
        else:
            options[name] = value
    return options


def _shown(spec: str) -> str:
    """The spec without its options: they may hold what should not be shown."""
    return repr(spec.partition("?")[0] + ("?…" if "?" in spec else ""))


def _choices() -> str:
    return "Choose one of: " + "; ".join(_CHOICES) + "."
