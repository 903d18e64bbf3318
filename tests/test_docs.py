"""What the documents say is executed or generated: README examples, the capability table, the links.

The examples of the other pages run in `test_docs_examples.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "src/shelflist/handbook").glob("*.md")),
]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("number", range(len(BLOCK.findall((ROOT / "README.md").read_text()))))
def test_readme_examples_run(number: int, tmp_path: Path) -> None:
    code = BLOCK.findall((ROOT / "README.md").read_text())[number]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "assert" in code


def test_links_lead_somewhere() -> None:
    links = [(page, link) for page in [*PAGES, ROOT / "CONTRIBUTING.md"] for link in LINK.findall(page.read_text())]
    assert links
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_the_readme_has_its_two_commands() -> None:
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [command.rsplit("&& ", 1)[1] for command in commands] == [
        ".venv/bin/shelflist demo",
        ".venv/bin/python -m pytest -q",
    ]


def test_the_capability_table_is_the_code() -> None:
    # In a process of its own: the tests register a store that is none of ours.
    printed = subprocess.run(
        [sys.executable, "-m", "shelflist.stores.matrix"], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert (ROOT / "docs" / "stores.md").read_text(encoding="utf-8") == printed.stdout


def test_the_handbook_is_whole() -> None:
    pages = sorted((ROOT / "src/shelflist/handbook").glob("*.md"))
    assert len(pages) >= 15
    numbers = [int(match[1]) for page in pages if (match := re.search(r"^page_number: (\d+)$", page.read_text(), re.M))]
    assert sorted(numbers) == list(range(1, len(pages) + 1))
