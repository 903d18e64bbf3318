"""How a generation's collection is made in Qdrant: vectors, index, quantization, payload indexes; and what is found there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from shelflist.core.errors import StoreMismatch
from shelflist.core.fields import FieldType
from shelflist.core.types import Flat, Hnsw
from shelflist.stores.protocol import GenerationSpec, require_same_shape
from shelflist.stores.qdrant.points import (
    AVERAGE_LENGTH,
    DENSE,
    DOCUMENT,
    PRESENT,
    SPARSE,
    STATUS,
    TENANT,
    is_parted,
    part_key,
    value_key,
)

if TYPE_CHECKING:
    from qdrant_client import models

_ENABLE_HNSW = (1, 17)
"""The first server that can be told to build no links for a payload index."""
_QUERY_ENCODING = (1, 15)
"""The first server that compares stored bits with a query of eight bits a number."""
_LEAST_SCAN_KB = 10
"""The server takes no smaller `full_scan_threshold`."""
_LINKS = 16


def kilobytes(rows: int, dimensions: int) -> int:
    """A number of rows as Qdrant counts thresholds: kilobytes of float32 vectors."""
    return math.ceil(rows * dimensions * 4 / 1024)


def collection_options(
    spec: GenerationSpec, version: tuple[int, int], shards: int | None, replicas: int | None
) -> dict[str, Any]:
    """The arguments of `create_collection`."""
    from qdrant_client import models

    distance = {"cosine": models.Distance.COSINE, "dot": models.Distance.DOT, "l2": models.Distance.EUCLID}[spec.metric]
    quantized = _quantization(spec, version)
    dense = models.VectorParams(size=spec.dimensions, distance=distance, quantization_config=quantized)
    sparse = models.SparseVectorParams(modifier=models.Modifier.IDF)
    return {
        "vectors_config": {DENSE: dense},
        "sparse_vectors_config": {f"{SPARSE}{AVERAGE_LENGTH}": sparse},
        "hnsw_config": _hnsw(spec),
        "optimizers_config": _optimizers(spec),
        "shard_number": shards,
        "replication_factor": replicas,
        # Acknowledged means searchable: whichever replica answers the next search, it has the points.
        "write_consistency_factor": replicas,
        # Where a cluster turns strict mode on: filters that order texts read a payload without an index in a tie, and a
        # search that comes back short is repeated exactly.
        "strict_mode_config": models.StrictModeConfig(unindexed_filtering_retrieve=True, search_allow_exact=True),
    }


def _hnsw(spec: GenerationSpec) -> models.HnswConfigDiff:
    from qdrant_client import models

    index = spec.index
    if isinstance(index, Flat):
        return models.HnswConfigDiff(m=0, payload_m=0)
    links = index.m if isinstance(index, Hnsw) else _LINKS
    # A tenanted collection is searched per tenant only, so each tenant gets a graph of its own and the whole gets none.
    graph = models.HnswConfigDiff(m=0 if spec.tenanted else links, payload_m=links if spec.tenanted else None)
    if isinstance(index, Hnsw):
        graph.ef_construct = index.ef_construction
        if index.full_scan_threshold is not None:
            graph.full_scan_threshold = max(_LEAST_SCAN_KB, kilobytes(index.full_scan_threshold, spec.dimensions))
    return graph


def _optimizers(spec: GenerationSpec) -> models.OptimizersConfigDiff | None:
    from qdrant_client import models

    if isinstance(spec.index, Flat) and spec.index.quantization is None:
        return models.OptimizersConfigDiff(indexing_threshold=0)
    if isinstance(spec.index, Hnsw) and spec.index.indexing_threshold is not None:
        threshold = max(1, kilobytes(spec.index.indexing_threshold, spec.dimensions))  # 0 would mean: never
        return models.OptimizersConfigDiff(indexing_threshold=threshold)
    return None


def _quantization(
    spec: GenerationSpec, version: tuple[int, int]
) -> models.ScalarQuantization | models.BinaryQuantization | None:
    from qdrant_client import models

    match spec.index.quantization if spec.index is not None else None:
        case "scalar":
            config = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
            return models.ScalarQuantization(scalar=config)
        case "binary":
            query = models.BinaryQuantizationQueryEncoding.SCALAR8BITS if version >= _QUERY_ENCODING else None
            binary = models.BinaryQuantizationConfig(always_ram=True, query_encoding=query)
            return models.BinaryQuantization(binary=binary)
    return None


def payload_indexes(spec: GenerationSpec, version: tuple[int, int]) -> Iterator[tuple[str, Any]]:
    """The payload indexes of a generation: key and kind."""
    from qdrant_client import models

    def keyword(**options: Any) -> models.KeywordIndexParams:
        return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, **options)

    def integer(lookup: bool, range: bool) -> models.IntegerIndexParams:
        return models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=lookup, range=range)

    # Of what nearly every point has in common, links in the graph would be of no use.
    common = {"enable_hnsw": False} if version >= _ENABLE_HNSW else {}
    yield STATUS, keyword(**common)
    yield PRESENT, keyword(**common)
    yield DOCUMENT, keyword(**common)
    yield TENANT, keyword(is_tenant=True) if spec.tenanted else keyword()
    for name, kind in spec.fields.items():
        match kind:
            case FieldType.STR | FieldType.LIST:
                yield value_key(name), keyword()
            case FieldType.BOOL:
                yield value_key(name), models.PayloadSchemaType.BOOL
            case _:
                yield value_key(name), integer(lookup=True, range=kind is FieldType.INT)
        if is_parted(kind):
            yield part_key(name, 0), integer(lookup=False, range=True)


def average_length(info: models.CollectionInfo, spec: GenerationSpec, address: str) -> int:
    """The average length that the collection's BM25 weights are computed with.

    StoreMismatch unless the collection is Shelflist's, of the dimensions and metric that are expected.
    """
    vectors = info.config.params.vectors
    dense = vectors.get(DENSE) if isinstance(vectors, dict) else vectors
    sparse = [name for name in info.config.params.sparse_vectors or {} if name.startswith(SPARSE)]
    if dense is not None:
        metric = {"Cosine": "cosine", "Dot": "dot", "Euclid": "l2"}.get(str(dense.distance.value), dense.distance.value)
        require_same_shape(dense.size, metric, spec, address)
    if not isinstance(vectors, dict) or dense is None or len(sparse) != 1:
        raise StoreMismatch(
            f"The collection {spec.name} at {address} was not made by Shelflist: it has no vector {DENSE!r} beside one of "
            f"{SPARSE!r}. Rename it, or check --url."
        )
    return int(sparse[0].removeprefix(SPARSE))
