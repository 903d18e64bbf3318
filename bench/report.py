"""What every benchmark prints and keeps: a table, targets met or missed, results/NAME.json and NAME.png."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

import data


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    cells = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for number, row in enumerate(cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def target(name: str, value: float, wanted: str, met: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "wanted": wanted, "met": bool(met)}


def noted(name: str, value: float) -> dict[str, Any]:
    """A number that stands beside the targets and is none."""
    return {"name": name, "value": value, "wanted": None, "met": None}


def print_targets(targets: Sequence[dict[str, Any]]) -> None:
    for one in targets:
        value = f"{one['value']:,.3f}".rstrip("0").rstrip(".")
        if one["met"] is None:
            print(f"[noted] {one['name']}: {value}")
        else:
            print(f"[{'met' if one['met'] else 'MISSED'}] {one['name']}: {value} (wanted {one['wanted']})")


def environment(packages: Iterable[str]) -> dict[str, Any]:
    """What a reader needs to judge the numbers; nothing that names a person or a machine."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"python": platform.python_version(), "cpus": os.cpu_count(), "packages": versions}


def write(name: str, summary: dict[str, Any]) -> None:
    data.RESULTS.mkdir(exist_ok=True)
    path = data.RESULTS / f"{name}.json"
    path.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"Wrote {path.relative_to(data.REPOSITORY)}")


def save_plot(figure: Any, name: str) -> None:
    data.RESULTS.mkdir(exist_ok=True)
    path = data.RESULTS / f"{name}.png"
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    print(f"Wrote {path.relative_to(data.REPOSITORY)}")
