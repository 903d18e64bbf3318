"""The conformance suite of a store: what `Capabilities` claims must work, what it does not claim must be refused."""

from __future__ import annotations

from shelflist.testing.store_batches import BatchTests
from shelflist.testing.store_durability import DurabilityTests
from shelflist.testing.store_filters import FilterTests
from shelflist.testing.store_keywords import KeywordTests
from shelflist.testing.store_rows import RowTests
from shelflist.testing.store_search import SearchTests
from shelflist.testing.store_tenants import TenantTests
from shelflist.testing.store_threads import ThreadTests


class StoreSuite(
    RowTests, BatchTests, SearchTests, KeywordTests, FilterTests, TenantTests, DurabilityTests, ThreadTests
):
    """Subclass it as `Test…` and override the fixture `store`: yield a fresh, empty store, close it at the end.

    A durable store overrides `reopen` too: return a callable that opens the same place once more, whether the
    first handle is still open or closed. There is no list of skips: to pass with less, claim less.
    """
