"""The tests of a collection's promises, to be run once more with a real engine as the place.

A file of a store imports everything from here and brings its own fixture `place`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "collection"))

from test_search import *  # noqa: F403
from test_sync import *  # noqa: F403
from test_sync_all import *  # noqa: F403
from test_tenancy import *  # noqa: F403
from test_under_a_handle import *  # noqa: F403
