"""Tests against real engines, which they start themselves. Each file runs in one worker and starts its own server."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
