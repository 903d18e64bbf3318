"""The promises of a collection on a real Milvus server, with its ledger, and so its keyword leg, in SQLite."""

from __future__ import annotations

from collection_tests import *  # noqa: F403
