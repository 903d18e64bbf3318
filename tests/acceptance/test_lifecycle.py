"""A real change of a documentation set, on a sample: what is embedded, what is served after it, what is seen during it.

The whole set is `python bench/lifecycle.py`; this test runs the same code.
"""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
DOCUMENTS = 300
QUERIES = 400


@pytest.fixture(scope="module")
def lifecycle() -> Any:
    # On the path for good: the second process, which is spawned, imports the same modules.
    sys.path.insert(0, str(BENCH))
    module = importlib.import_module("lifecycle")
    if not (module.data.data_directory() / "lifecycle_cfn").is_dir():
        pytest.skip(f"no documentation versions in {module.data.data_directory()} (set SHELFLIST_DATA)")
    return module


@pytest.fixture(scope="module")
def versions(lifecycle: Any) -> tuple[Any, Any]:
    return lifecycle.data.load_version(lifecycle.OLD), lifecycle.data.load_version(lifecycle.NEW)


@pytest.fixture(scope="module")
def outcome(lifecycle: Any, versions: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    old, new = lifecycle.sampled(*versions, DOCUMENTS)
    questions = lifecycle.questions(old, new)
    asked = random.Random(5).sample(questions, min(QUERIES, len(questions)))
    # The pause keeps the change going for long enough to be looked at.
    return lifecycle.change(str(tmp_path_factory.mktemp("lifecycle")), old, new, asked, pause=0.3)


def test_the_versions_differ_as_the_data_says(lifecycle: Any, versions: tuple[Any, Any]) -> None:
    old, new = versions
    reference = lifecycle.data.reference_difference(lifecycle.OLD, lifecycle.NEW)
    assert len(lifecycle._texts(new) - lifecycle._texts(old)) == reference["distinct_new_texts_to_embed"] == 1469


def test_exactly_the_new_texts_are_embedded(outcome: Any) -> None:
    assert outcome.expected_texts
    assert sorted(outcome.embedded_texts) == sorted(outcome.expected_texts)
    assert outcome.report["embedded"] == len(outcome.expected_texts)


def test_nothing_of_the_old_version_is_served(outcome: Any) -> None:
    assert outcome.queries > 1000
    assert outcome.foreign_hits == []
    assert outcome.counted == outcome.expected_count
    assert outcome.verify["ok"]


def test_another_process_sees_each_document_old_or_new(outcome: Any) -> None:
    assert outcome.watch.mixed == []
    assert outcome.watch.old > 0 and outcome.watch.new > 0, (
        "the second process did not look on both sides of the change"
    )
