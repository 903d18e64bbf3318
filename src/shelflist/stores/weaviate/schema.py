"""A generation as a class of Weaviate: how it is made, and what can be read of one that is there."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Any

from shelflist.core.errors import StoreError, StoreMismatch, UnsupportedIndex
from shelflist.core.types import Flat, Hnsw, Metric
from shelflist.stores.protocol import GenerationSpec, require_same_shape
from shelflist.stores.weaviate.filters import HAS, STATUS, TENANT, Shape, properties_of
from shelflist.stores.weaviate.session import NoSuchObject, Session

VECTOR = "default"
TERMS = "terms"
DOCUMENT = "document_id"
CHUNK = "chunk_id"
METADATA = "metadata"
HOME = "tenant"
MARKERS = "Sl_markers"
MARKED = "collection"
MARKED_BY = "ledger_id"

_SHAPE = re.compile(r"Shelflist generation of (\d+) dimensions under (\w+)")
_RESCORED = 1_000
"""Of a scan of sign bits, compared whole: with the server's own number four of ten neighbours came, of 128 random dimensions."""
_METRICS = {"cosine": "COSINE", "dot": "DOT", "l2": "L2_SQUARED"}
_PLAIN_TENANT = re.compile(r"[a-z0-9-]{1,60}")
_DYNAMIC_EF = (8, 100, 500)
"""The engine's own ef where none is set: so many times the limit, at least, at most."""


@dataclass(frozen=True, slots=True)
class Place:
    """A generation's class. `flat_below`: a search that fewer rows match is an exact scan; None: every search is."""

    name: str
    dimensions: int
    metric: Metric
    tenanted: bool
    compressed: bool
    flat_below: int | None
    ef: int

    def limit_for(self, ef: int | None, limit: int) -> int:
        """How many answers to ask for, so that the graph is walked with `ef`: a query cannot say it otherwise."""
        if ef is None or self.flat_below is None:
            return limit
        if self.ef > 0:
            return max(limit, ef) if ef > self.ef else limit
        factor, least, most = _DYNAMIC_EF
        if ef <= least:
            return limit
        return max(limit, ef if ef > most else -(-ef // factor))

    def plan(self, filtered: bool) -> str:
        """How the engine goes about a search, for people."""
        if self.flat_below is None:
            return "flat scan"
        return f"HNSW with the filter, exact scan below {self.flat_below} matches" if filtered else "HNSW"


def class_name(generation: str) -> str:
    return generation[:1].upper() + generation[1:]


def homes_name(generation: str) -> str:
    """The class that says which tenant a point belongs to: Store's methods by id do not."""
    return f"{class_name(generation)}_homes"


def tenant_name(tenant: str) -> str:
    """A legal name for any tenant, another one for each, whatever the file system thinks of upper case."""
    if _PLAIN_TENANT.fullmatch(tenant):
        return f"t-{tenant}"
    return "h-" + base64.b32encode(hashlib.sha256(tenant.encode()).digest()).decode().rstrip("=").lower()


def create(session: Session, spec: GenerationSpec) -> None:
    """Make the classes of a generation that are not there; UnsupportedIndex for one that this server cannot build."""

    def make(client: Any) -> None:
        from weaviate.classes.config import Configure, DataType, Property, StopwordsPreset, Tokenization

        if spec.tenanted:
            _made(
                client,
                homes_name(spec.name),
                description=f"Which tenant each point of {spec.name} belongs to.",
                properties=[_kept(HOME)],
                vector_config=Configure.Vectors.self_provided(vector_index_config=Configure.VectorIndex.flat()),
            )
        terms = Property(
            name=TERMS,
            data_type=DataType.TEXT,
            tokenization=Tokenization.WHITESPACE,
            index_filterable=False,
            index_searchable=True,
        )
        _made(
            client,
            class_name(spec.name),
            description=f"Shelflist generation of {spec.dimensions} dimensions under {spec.metric}.",
            properties=[
                *(_key(name, "text") for name in (STATUS, DOCUMENT, TENANT)),
                _key(HAS, "text[]"),
                *(_key(name, shape) for name, shape in properties_of(spec.fields)),
                _kept(CHUNK),
                _kept(METADATA),
                terms,
            ],
            vector_config=Configure.Vectors.self_provided(vector_index_config=_index(spec)),
            inverted_index_config=Configure.inverted_index(
                bm25_b=0.75,
                bm25_k1=1.2,
                stopwords_preset=StopwordsPreset.NONE,
                index_null_state=False,
                index_property_length=False,
                index_timestamps=False,
            ),
            multi_tenancy_config=Configure.multi_tenancy(
                enabled=spec.tenanted, auto_tenant_creation=spec.tenanted, auto_tenant_activation=spec.tenanted
            ),
        )

    try:
        session.rest(make)
    except StoreError as error:
        if "async indexing" in str(error):
            raise UnsupportedIndex(
                "indexing_threshold= is Weaviate's dynamic index, which a server has that runs with ASYNC_INDEXING=true; "
                f"the one at {session.address} does not. Leave it out, or set that in the server's environment."
            ) from error
        raise


def create_markers(session: Session) -> None:
    """Make the class that says which ledger each collection belongs to, if it is not there."""

    def make(client: Any) -> None:
        from weaviate.classes.config import Configure

        _made(
            client,
            MARKERS,
            description="Which Shelflist ledger each collection belongs to.",
            properties=[_kept(MARKED), _kept(MARKED_BY)],
            vector_config=Configure.Vectors.self_provided(vector_index_config=Configure.VectorIndex.flat()),
        )

    session.rest(make)


def add_properties(session: Session, old: GenerationSpec, new: GenerationSpec) -> None:
    """Give the class the properties of the fields that `new` declares beyond `old`."""
    known = dict(properties_of(old.fields))

    def add(client: Any) -> None:
        config = client.collections.get(class_name(new.name)).config
        there = {one.name for one in config.get().properties}
        for name, shape in properties_of(new.fields):
            if name not in known and name not in there:
                config.add_property(_key(name, shape))

    session.rest(add)


def drop(session: Session, generation: str) -> None:
    def delete(client: Any) -> None:
        for name in (class_name(generation), homes_name(generation)):
            client.collections.delete(name)

    session.rest(delete)


def read(session: Session, spec: GenerationSpec) -> Place:
    """What is in the place of a generation; StoreMismatch if somebody else made it, or with another shape."""
    name = class_name(spec.name)
    try:
        config = session.rest(lambda client: client.collections.get(name).config.get())
    except NoSuchObject:
        raise StoreError(
            f"{spec.name} is not in Weaviate at {session.address}. It was dropped, or --url is wrong."
        ) from None
    shape = _SHAPE.match(config.description or "")
    vectors = (config.vector_config or {}).get(VECTOR)
    if shape is None or vectors is None:
        raise StoreMismatch(
            f"Somebody else made the class {name} in Weaviate at {session.address}, and it holds no generation of "
            "Shelflist. Rename or remove it, or use another collection name."
        )
    require_same_shape(int(shape[1]), shape[2], spec, session.address)
    tenanted = bool(config.multi_tenancy_config.enabled)
    if tenanted != spec.tenanted:
        raise StoreMismatch(
            f"{spec.name} at {session.address} was made {'with' if tenanted else 'without'} tenants. Another ledger "
            "made it: check --ledger and --url."
        )
    index = vectors.vector_index_config
    graph = getattr(index, "hnsw", index)
    return Place(
        name=name,
        dimensions=int(shape[1]),
        metric=spec.metric,
        tenanted=tenanted,
        compressed=getattr(index, "quantizer", None) is not None or getattr(graph, "quantizer", None) is not None,
        flat_below=getattr(graph, "flat_search_cutoff", None),
        ef=int(getattr(graph, "ef", -1)),
    )


def _key(name: str, shape: Shape) -> Any:
    """A property that filters ask about."""
    from weaviate.classes.config import DataType, Property, Tokenization

    words = shape in ("text", "text[]")
    return Property(
        name=name,
        data_type=DataType("boolean" if shape == "bool" else shape),
        tokenization=Tokenization.FIELD if words else None,
        index_filterable=True,
        index_searchable=False if words else None,
        index_range_filters=shape in ("int", "number"),
    )


def _kept(name: str) -> Any:
    """A property that is only read."""
    from weaviate.classes.config import DataType, Property

    return Property(name=name, data_type=DataType.TEXT, index_filterable=False, index_searchable=False)


def _made(client: Any, name: str, **config: Any) -> None:
    from weaviate.exceptions import UnexpectedStatusCodeError

    if client.collections.exists(name):
        return
    try:
        client.collections.create(name, **config)
    except UnexpectedStatusCodeError:
        if not client.collections.exists(name):  # else another process made it meanwhile
            raise


def _index(spec: GenerationSpec) -> Any:
    from weaviate.classes.config import Configure, VectorDistances, VectorFilterStrategy

    metric = VectorDistances[_METRICS[spec.metric]]
    quantizers = Configure.VectorIndex.Quantizer
    index = spec.index
    if isinstance(index, Flat):
        return Configure.VectorIndex.flat(
            distance_metric=metric,
            quantizer=quantizers.bq(rescore_limit=_RESCORED) if index.quantization else quantizers.none(),
        )
    given = index if isinstance(index, Hnsw) else None
    quantization = given.quantization if given is not None else None
    # The server's own default may be a quantized index, which finds less: none unless it is asked for.
    quantizer = {None: quantizers.none, "scalar": quantizers.rq, "binary": quantizers.bq}[quantization]()
    graph = Configure.VectorIndex.hnsw(
        distance_metric=metric,
        max_connections=given.m if given is not None else None,
        ef_construction=given.ef_construction if given is not None else None,
        ef=given.ef_search if given is not None else None,
        flat_search_cutoff=given.full_scan_threshold if given is not None else None,
        filter_strategy=VectorFilterStrategy.ACORN,
        quantizer=quantizer,
    )
    if given is not None and given.indexing_threshold is not None:
        return Configure.VectorIndex.dynamic(
            distance_metric=metric,
            threshold=given.indexing_threshold,
            hnsw=graph,
            flat=Configure.VectorIndex.flat(distance_metric=metric, quantizer=quantizers.none()),
        )
    return graph
