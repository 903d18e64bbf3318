"""The compose file: every image pinned, every port on loopback, every service with a health check and a profile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = yaml.safe_load((Path(__file__).parent.parent / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]


def test_there_is_a_service_for_each_server() -> None:
    assert set(SERVICES) == {"postgres", "qdrant", "weaviate", "chroma", "milvus"}
    assert set(FILE["volumes"]) == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_private_and_checked(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+(-pg\d+)?", service["image"]), (
        "an image by its bare name, at a version"
    )
    assert service["profiles"] == [name, "all"]
    assert service["ports"] and all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in service["ports"])
    assert {"test", "interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])
    assert [volume.partition(":")[0] for volume in service["volumes"]] == [name]


def test_the_versions_are_those_that_the_stores_are_made_for() -> None:
    from shelflist.stores.registry import STORES, capabilities

    images = {name: service["image"].partition(":")[2].removeprefix("v") for name, service in SERVICES.items()}
    for scheme, claims in zip(STORES, capabilities(), strict=True):
        if claims.versions:
            version = images["postgres" if scheme == "pgvector" else scheme]
            series = [".".join(one.split(".")[:2]) for one in re.findall(r"\d+(?:\.\d+)+", claims.versions)]
            assert ".".join(version.split("-")[0].split(".")[:2]) in series, f"{scheme}: {version}, {claims.versions}"


def test_no_two_services_share_a_port() -> None:
    ports = [port for service in SERVICES.values() for port in service["ports"]]
    assert len(ports) == len(set(ports))
