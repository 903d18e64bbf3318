"""What crosses collections, generations and both legs, on the server's own core; see `qdrant_core`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from collection_tests import test_the_stores_own_fusion_keeps_every_promise_or_is_refused  # noqa: F401
from copy_tests import *  # noqa: F403
from qdrant_core import serving
from repair_tests import *  # noqa: F403


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("qdrant") / "shards") as (url, _):
        yield url
