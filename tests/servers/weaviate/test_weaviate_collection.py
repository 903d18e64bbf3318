"""The promises of a collection on a real Weaviate server, with its ledger in SQLite."""

from __future__ import annotations

from collection_tests import *  # noqa: F403
