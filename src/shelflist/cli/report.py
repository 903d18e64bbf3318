"""A sync report in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from shelflist.core.types import SyncReport


def added_up(reports: Sequence[SyncReport]) -> SyncReport:
    """One report for several passes."""
    total = SyncReport()
    for report in reports:
        for one in fields(SyncReport):
            setattr(total, one.name, getattr(total, one.name) + getattr(report, one.name))
    return total


def report_lines(report: SyncReport, planned: bool = False) -> list[str]:
    """Documents, chunks and embedding, a line each; counts of zero are left out."""
    would = "would be " if planned else ""
    documents = _counts(
        ("added", report.documents_added),
        ("changed", report.documents_changed),
        ("removed", report.documents_removed),
        ("unchanged", report.documents_unchanged),
        ("superseded", report.documents_superseded),
        ("failed", report.documents_failed),
    )
    chunks = _counts(
        ("added", report.added),
        ("removed", report.removed),
        ("moved", report.moved),
        ("with new metadata only", report.metadata_only),
        ("unchanged", report.unchanged),
        ("failed", sum(1 for failure in report.failures if failure.position is not None)),
    )
    lines = [f"Documents  {documents}", f"Chunks     {chunks}"]
    if report.embedded or report.cached:
        tokens = f" ({report.tokens:,} tokens)" if report.tokens else ""
        cached = f", {report.cached:,} known already" if report.cached else ""
        lines.append(f"Texts      {report.embedded:,} {would}embedded{tokens}{cached}")
    if report.files_skipped:
        names = ", ".join(report.skipped) + (", …" if report.files_skipped > len(report.skipped) else "")
        lines.append(
            f"Skipped    {report.files_skipped:,} of a kind that is not read: {names} (--include '*.SUFFIX' reads such text too)"
        )
    if has_nothing_to_do(report):
        others = report.embedded and not planned
        lines.append("Another sync wrote the same first." if others else "Nothing to do: the collection is up to date.")
    return lines


def has_nothing_to_do(report: SyncReport) -> bool:
    """Whether the pass changes no document, and none failed."""
    chunks = report.added + report.removed + report.moved + report.metadata_only
    documents = report.documents_added + report.documents_changed + report.documents_removed
    return not (chunks or documents or report.failures)


def _counts(*named: tuple[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in named if count) or "none"
