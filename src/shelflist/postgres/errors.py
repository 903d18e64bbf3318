"""Psycopg's errors as ours, in one place. No text of the server or of libpq that could hold a secret gets through."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shelflist.core.errors import (
    LedgerBusy,
    ShelflistError,
    StoreDamaged,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreReadOnly,
    StoreTimeout,
    StoreUnavailable,
)

if TYPE_CHECKING:
    import psycopg

_POINTS = re.compile(r'relation "(sl_\w+_\d+(?:_terms)?)" does not exist')
"""A table of a generation. Those of the ledger end in no number."""
_FOREIGN = ("expected authentication request", "response to ssl negotiation", "response to gssapi negotiation")
"""What libpq says to an answer that no Postgres gives."""

_STARTING = ("starting up", "shutting down", "not yet accepting", "recovery mode")
_DENIED = (
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "permission denied",
    "is not permitted to log in",
    "certificate authentication",
    "peer authentication",
)


def is_starting(error: psycopg.Error) -> bool:
    """Whether the server is there and will take connections in a moment."""
    return any(part in str(error) for part in _STARTING)


def refused(error: psycopg.Error, address: str, seconds: float) -> ShelflistError:
    """The error of a connection that was not made."""
    text = _on_one_line(str(error))
    lower = text.lower()
    if "timeout expired" in lower or "timed out" in lower:
        return StoreTimeout(
            f"{address} did not answer within {seconds:g} s. Check host, port and firewall, or give it longer: "
            "?connect_timeout=SECONDS"
        )
    if any(part in lower for part in _FOREIGN):
        return StoreError(
            f"{address} is not Postgres: something else listens there. Check host and port; Postgres's own port is 5432."
        )
    if any(part in lower for part in _DENIED) or ("role" in lower and "does not exist" in lower):
        return StoreDenied(
            f"{address} refuses the user or the password ({_fatal(text)}). Check both in the URL, or PGUSER and "
            "PGPASSWORD; characters such as @ : / ? # in a password are written %40 %3A %2F %3F %23."
        )
    if "database" in lower and "does not exist" in lower:
        return StoreError(f"{address}: {_fatal(text)}. Make it with: createdb NAME, or name another one in the URL.")
    if "ssl" in lower or "certificate" in lower:
        return StoreError(
            f"{address}: TLS cannot be agreed on ({_fatal(text)}). Check sslmode and sslrootcert of the URL against what "
            "the server offers."
        )
    return StoreUnavailable(
        f"{address} cannot be reached ({_fatal(text)}). Check that the server runs and that host and port are right, "
        "then run this again."
    )


def mapped(error: psycopg.Error, address: str, *, lock_seconds: float, lost: bool) -> ShelflistError:
    """The error of a statement. `lost`: the connection did not survive it."""
    import psycopg.errors as known

    state = error.sqlstate or ""
    text = (error.diag.message_primary or _on_one_line(str(error))).rstrip(".")
    if isinstance(error, known.LockNotAvailable):
        return LedgerBusy(
            f"Another writer has held a lock in {address} for more than {lock_seconds:g} s. Wait for it to finish, or stop "
            "it, then run this again."
        )
    if isinstance(error, (known.DeadlockDetected, known.SerializationFailure)):
        return LedgerBusy(
            f"{address}: two writers were in each other's way ({text}). Nothing was written: run this again."
        )
    if state == "57014":
        return StoreTimeout(f"{address} did not finish a statement in time ({text}). Give it longer: ?timeout=SECONDS")
    if state == "53100" or _is_full(text):
        return StoreFull(
            f"{address}: no space is left ({text}). Everything acknowledged before is kept. Free some space on the server "
            "and run the same command again."
        )
    if state == "53200":
        return StoreUnavailable(f"{address} is out of memory ({text}). Run this again when it has less to do.")
    if lost or state[:2] in ("08", "57") or state == "53300":
        return StoreUnavailable(
            f"{address} has cut the connection ({text}). What was acknowledged is kept; run the same command again."
        )
    if state == "25006":
        return StoreReadOnly(f"{address} takes no writes ({text}): a standby? Name the primary in the URL.")
    missing = _POINTS.search(text) if state == "42P01" else None
    if missing is not None:
        return StoreMismatch(
            f"{address} has no table {missing[1]} any more, which held a part of the collection. Make it anew from the "
            "ledger: shelflist repair"
        )
    if state in ("42501", "28000", "28P01"):
        return StoreDenied(f"{address}: {text}. Grant the user of the URL what it lacks, or use another one.")
    if state[:2] in ("XX", "58"):
        return StoreDamaged(f"{address}: the server reports {text} ({state}). Look into its log.")
    return StoreError(f"{address}: {text} ({state or type(error).__name__}).")


def _is_full(text: str) -> bool:
    return "No space left on device" in text or "could not extend file" in text


def _on_one_line(text: str) -> str:
    """The lines of libpq as one, each a part of its own; what it asks the reader is left out, our advice says it."""
    joined = ""
    for line in text.splitlines():
        words = " ".join(line.split())
        if not words or words.startswith("Is the server running"):
            continue
        goes_on = (line[0].isspace() and words[0].islower()) or joined.endswith(":")
        joined = words if not joined else f"{joined} {words}" if goes_on else f"{joined.rstrip('.')}; {words}"
    return joined


def _fatal(text: str) -> str:
    """What the server or the system says, without the attempts and addresses that libpq puts in front."""
    for mark in ("FATAL:", "ERROR:"):
        if mark in text:
            return text.rpartition(mark)[2].strip().rstrip(".")
    return text.rpartition("failed: ")[2].strip().rstrip(".") if "failed: " in text else text.rstrip(".")
