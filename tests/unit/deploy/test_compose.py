"""compose.yaml is valid by the compose specification, and runs what `routebatch up` runs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from deploy.processes import MIGRATE, PROCESSES
from tests.support.paths import ROOT

FILE = ROOT / "compose.yaml"
SERVERS = {"postgres", "redis"}
OURS = {process.service: process for process in (MIGRATE, *PROCESSES)}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    actual = yaml.safe_load(FILE.read_text())["services"]
    assert isinstance(actual, dict)
    return actual


def resolved(content: Any) -> str:
    """As compose sees it: anchors and merges expanded (by the YAML reader), variables replaced."""
    text = yaml.safe_dump(content, default_flow_style=False)
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    return re.sub(r"\$\{\w+:\?[^}]*\}", "secret", text)


def test_it_is_valid_by_the_compose_specification() -> None:
    compose = PyCompose.from_yaml(resolved(yaml.safe_load(FILE.read_text())))
    assert compose.services is not None
    assert set(compose.services) == SERVERS | OURS.keys()


def test_an_unknown_key_would_be_found() -> None:
    content = yaml.safe_load(FILE.read_text())
    content["services"]["api"]["comand"] = "routebatch api"
    with pytest.raises(ValueError, match="comand"):
        PyCompose.from_yaml(resolved(content))


@pytest.mark.parametrize("service", OURS)
def test_a_service_runs_the_command_that_up_runs(services: dict[str, dict[str, Any]], service: str) -> None:
    assert tuple(services[service]["command"]) == OURS[service].argv


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.name)
def test_a_service_gets_as_long_to_stop_as_under_up(services: dict[str, dict[str, Any]], process: Any) -> None:
    assert services[process.service].get("stop_grace_period", "10s") == f"{process.stop_seconds}s"


def test_only_the_api_is_published_and_that_on_loopback(services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["api"]
    (port,) = services["api"]["ports"]
    assert re.fullmatch(r"\$\{ROUTEBATCH_PUBLISH:-127\.0\.0\.1:\d+\}:8080", port)
    assert not any("network_mode" in service for service in services.values())


def test_every_lasting_service_has_a_healthcheck(services: dict[str, dict[str, Any]]) -> None:
    for name in services.keys() - {MIGRATE.service}:
        assert services[name]["healthcheck"]["test"]
    for process in PROCESSES:
        assert services[process.service]["healthcheck"]["test"][-1] == process.name


def test_secrets_must_come_from_the_environment(services: dict[str, dict[str, Any]]) -> None:
    text = FILE.read_text()
    for variable in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_PASSWORD"):
        uses = re.findall(r"\$\{" + variable + r"([^}]*)\}", text)
        assert uses
        assert all(use.startswith(":?") for use in uses)  # compose refuses to start without it
    assert services["flower"]["environment"]["FLOWER_BASIC_AUTH"].startswith("routebatch:${FLOWER_PASSWORD:?")


def test_our_services_wait_for_the_schema_and_see_the_configuration_read_only(
    services: dict[str, dict[str, Any]],
) -> None:
    for process in PROCESSES:
        service = services[process.service]
        assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        assert service["depends_on"]["redis"] == {"condition": "service_healthy"}
        assert any(volume.endswith("/routebatch.toml:ro") for volume in service["volumes"])
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_our_services_share_one_artifact_store(services: dict[str, dict[str, Any]]) -> None:
    for process in PROCESSES:
        service = services[process.service]
        url = yaml.safe_load(resolved(service["environment"]))["ROUTEBATCH_ARTIFACT_URL"]
        assert f"artifacts:{url}" in service["volumes"]
        assert url in FILE.with_name("deploy").joinpath("Dockerfile").read_text()  # with an owner who may write there
