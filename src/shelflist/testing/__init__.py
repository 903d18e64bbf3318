"""The conformance suites that Shelflist runs on its own stores, for anybody's store.

from shelflist.testing import StoreSuite

class TestMyStore(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path):
        store = MyStore(tmp_path)
        yield store
        store.close()
"""

from __future__ import annotations

from shelflist.core.errors import MissingDependency

try:
    import hypothesis  # noqa: F401
    import pytest
except ImportError as error:
    raise MissingDependency.for_extra(error.name or "pytest", "test", "The conformance suite") from error

# Without this a failing assertion in an installed package would show no values.
pytest.register_assert_rewrite(
    *(
        f"shelflist.testing.store_{part}"
        for part in ("base", "rows", "search", "keywords", "filters", "tenants", "durability", "threads")
    )
)

from shelflist.testing.store_suite import StoreSuite  # noqa: E402

__all__ = ["StoreSuite"]
