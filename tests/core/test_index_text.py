"""The text form of an index: read strictly, written in one spelling."""

from __future__ import annotations

import numpy as np
import pytest

from shelflist.core.errors import ConfigError
from shelflist.core.index_text import given_index, index_text, parse_index
from shelflist.core.types import Flat, Hnsw, IndexSpec, Ivf


@pytest.mark.parametrize(
    ("text", "index", "spelled"),
    [
        ("auto", None, "auto"),
        ("flat", Flat(), "flat"),
        ("flat()", Flat(), "flat"),
        ("HNSW", Hnsw(), "hnsw(m=16, ef_construction=128)"),
        (" hnsw( m = 32 ,ef_search=200) ", Hnsw(m=32, ef_search=200), "hnsw(m=32, ef_construction=128, ef_search=200)"),
        ("ivf(nlist=100, quantization=binary)", Ivf(nlist=100, quantization="binary"), None),
        ("hnsw(full_scan_threshold=0)", Hnsw(full_scan_threshold=0), None),
    ],
)
def test_what_is_written_is_read(text: str, index: IndexSpec | None, spelled: str | None) -> None:
    assert parse_index(text) == index
    assert parse_index(index_text(index)) == index
    assert spelled is None or index_text(index) == spelled


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hnws", "no index 'hnws'. Did you mean 'hnsw'?"),
        ("", "is not KIND"),
        ("hnsw m=16", "is not KIND"),
        ("hnsw(m=16", "is not KIND"),
        ("auto(m=1)", "no index 'auto'"),
        ("hnsw(ef_constuction=100)", "Did you mean 'ef_construction'?"),
        ("hnsw(kind=flat)", "no option 'kind'"),
        ("flat(m=16)", "has no option 'm'"),
        ("hnsw(m)", "'m' is not NAME=VALUE"),
        ("hnsw(m=16,)", "'' is not NAME=VALUE"),
        ("hnsw(m=16, m=17)", "gives m twice"),
        ("hnsw(m=0)", "m=0 of an index is not a whole number from 2 up"),
        ("ivf(nlist=0)", "nlist=0 of an index is not a whole number from 1 up"),
        ("hnsw(m=-1)", "not a whole number"),
        ("hnsw(m=1.5)", "not a whole number"),
        ("hnsw(m=²)", "not a whole number"),
        ("hnsw(quantization=halv)", "Did you mean 'half'?"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_index(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "index",
    [Hnsw(m=1), Hnsw(m=2.5), Hnsw(m="a"), Hnsw(m=True), Hnsw(ef_search=-5), Ivf(nlist=0), Ivf(nprobe=-4)],
    ids=str,  # type: ignore[arg-type]
)
def test_an_object_is_checked_as_a_text_is(index: IndexSpec) -> None:
    with pytest.raises(ConfigError, match="of an index is not a whole number from"):
        given_index(index)
    sound = Hnsw(m=2, ef_search=None, indexing_threshold=0)
    assert given_index(sound) is sound
    counted = given_index(Hnsw(m=np.int64(24), ef_search=np.uint8(64)))  # type: ignore[arg-type]
    assert index_text(counted) == "hnsw(m=24, ef_construction=128, ef_search=64)"
    assert isinstance(counted, Hnsw) and type(counted.m) is type(counted.ef_search) is int
