"""Postgres with pgvector, newest and oldest supported version: one server a worker process, a new database a test."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), *(str(_TESTS / name) for name in ("collection", "ledger", "acceptance"))]

from postgres_engine import oldest_postgres, postgres  # noqa: E402

__all__ = ["oldest_postgres", "postgres"]
