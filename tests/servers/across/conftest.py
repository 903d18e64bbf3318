"""Makes the engines of two stores importable here, for tests that need both."""

from __future__ import annotations

import sys
from pathlib import Path

_SERVERS = Path(__file__).parents[1]
sys.path[:0] = [str(_SERVERS / name) for name in ("postgres", "chroma")]

from postgres_engine import postgres  # noqa: E402

__all__ = ["postgres"]
