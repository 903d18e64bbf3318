"""Progress goes to a terminal on stderr, and nowhere else."""

from __future__ import annotations

import io
import re

import pytest

from shelflist.cli.progress import progress_listener
from shelflist.core.types import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress_listener() as listen:
        assert listen is None


def test_a_terminal_shows_stage_count_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stderr", terminal)
    with progress_listener() as listen:
        assert listen is not None
        for done in range(4):
            listen(Progress("syncing [bold]", done, 4, "documents"))
        listen(Progress("removing", 1, None, "documents"))
        listen(Progress("syncing [bold]", 4, 4, "documents"))
    shown = terminal.getvalue()
    assert "syncing [bold]" in shown and "4/4" in shown and "documents/s" in shown
    assert "removing" in shown and "1/?" in shown


@pytest.mark.parametrize(("total", "remaining"), [(10, {"0:00:06"}), (7_210, {"2:00:06"}), (None, set())])
def test_the_remaining_time_is_shown_where_the_total_is_known(
    total: int | None, remaining: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stderr", terminal)
    clock = [0.0]
    monkeypatch.setattr("rich.console.monotonic", lambda: clock[0])
    with progress_listener() as listen:
        assert listen is not None
        for done in range(5):  # one a second
            listen(Progress("syncing", done, total, "documents"))
            clock[0] += 1.0
    last = terminal.getvalue().rpartition("syncing")[2]
    assert ("4/?" in last) == (total is None) and "1 documents/s" in last
    assert set(re.findall(r"\d+:\d\d:\d\d", last)) == remaining
    assert "-:--:--" not in last
