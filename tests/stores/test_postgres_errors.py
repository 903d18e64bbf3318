"""What libpq says on several lines, as one sentence of ours. No server and no driver is needed to read a text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from shelflist.core.errors import StoreDenied, StoreUnavailable
from shelflist.postgres.errors import mapped, refused

AT = "pgvector://db:5432/docs"


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        (
            'connection to server at "::1", port 1 failed: Connection refused\n'
            "\tIs the server running on that host and accepting TCP/IP connections?\n"
            'connection to server at "127.0.0.1", port 1 failed: Connection refused\n'
            "\tIs the server running on that host and accepting TCP/IP connections?",
            StoreUnavailable,
            f"{AT} cannot be reached (Connection refused). Check that the server runs and that host and port are right, "
            "then run this again.",
        ),
        (
            "connection failed: FATAL:  sorry, too many clients already\nDETAIL:  Wait.\nHINT:  Or raise the limit.",
            StoreUnavailable,
            "(sorry, too many clients already; DETAIL: Wait; HINT: Or raise the limit). Check",
        ),
        (
            'connection failed: FATAL:  password authentication failed for user "ada"',
            StoreDenied,
            '(password authentication failed for user "ada"). Check',
        ),
    ],
)
def test_a_connection_that_was_not_made(lines: str, kind: type[Exception], said: str) -> None:
    error = refused(Exception(lines), AT, 3.0)  # type: ignore[arg-type]
    assert type(error) is kind and said in str(error)
    assert "Is the server running" not in str(error)


def test_a_line_that_goes_on_is_no_sentence_of_its_own() -> None:
    pytest.importorskip("psycopg")

    class Lost(Exception):
        sqlstate = None
        diag = SimpleNamespace(message_primary=None)

    lines = (
        "consuming input failed: server closed the connection unexpectedly\n"
        "\tThis probably means the server terminated abnormally\n\tbefore or while processing the request."
    )
    error = mapped(Lost(lines), AT, lock_seconds=1.0, lost=True)  # type: ignore[arg-type]
    assert (
        "(consuming input failed: server closed the connection unexpectedly; This probably means the server terminated "
        "abnormally before or while processing the request). What was acknowledged is kept" in str(error)
    )
