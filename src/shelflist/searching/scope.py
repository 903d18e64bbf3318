"""What a search is restricted to: the filter as far as the store can take it, and what the ledger must resolve.

Every operator works on every store: the parts of a filter that a store cannot compile are answered by the ledger, and the
store is given the ids.
"""

from __future__ import annotations

from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import FilterTooBroad
from shelflist.core.fields import Fields
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Or
from shelflist.ledger.ledger import Ledger
from shelflist.stores.protocol import GenerationSpec, Scope, Store

MOST_IDS = 10_000


def scope_of(
    store: Store, ledger: Ledger, spec: GenerationSpec, generation_id: int, filter: Filter | None, tenant: str | None
) -> Scope:
    """`filter` is checked and normalised. FilterTooBroad if the ledger's part of it matches more than 10,000 chunks."""
    if filter is None:
        return Scope(tenant=tenant)
    parts = list(filter.parts) if isinstance(filter, And) else [filter]
    foreign = [part for part in parts if unclaimed(part, spec.fields, store.capabilities)]
    if not foreign:
        return Scope(filter=filter, tenant=tenant)
    own = [part for part in parts if part not in foreign]
    resolved = foreign[0] if len(foreign) == 1 else And(tuple(foreign))
    ids = ledger.documents.matching(generation_id, resolved, tenant, MOST_IDS + 1)
    if len(ids) > MOST_IDS:
        operator = unclaimed(resolved, spec.fields, store.capabilities)[0]
        total = ledger.documents.count_matching(generation_id, resolved, tenant)
        raise FilterTooBroad(
            f"The {store.capabilities.store} store has no {operator.operator.value!r} on {operator.field!r} "
            f"({spec.fields.require(operator.field).value}), and the ledger finds {total:,} chunks for it; it can name "
            f"{MOST_IDS:,} to the store. Add a condition that fewer chunks match."
        )
    rest = None if not own else own[0] if len(own) == 1 else And(tuple(own))
    return Scope(filter=rest, tenant=tenant, point_ids=ids)


def unclaimed(filter: Filter, fields: Fields, capabilities: Capabilities) -> list[Comparison]:
    """The comparisons of a filter that the store cannot compile."""
    if isinstance(filter, Comparison):
        kind = fields.require(filter.field)
        return [] if capabilities.has_operator(filter.operator, kind) else [filter]
    if isinstance(filter, Not):
        return unclaimed(filter.part, fields, capabilities)
    if isinstance(filter, (And, Or)):
        return [one for part in filter.parts for one in unclaimed(part, fields, capabilities)]
    return []
