"""What README.md and docs/ say of the configuration is what the code knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from cli.main import COMMANDS
from routing_service.money.pricing import price_book
from routing_service.settings import JudgeSettings, ModelSettings, Settings, load_settings
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
GENERATED = "cli.md"
PAGES = [README] + [p.read_text(encoding="utf-8") for p in (ROOT / "docs").rglob("*.md") if p.name != GENERATED]
CONFIGURATION = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")


def keys(model: type[BaseModel]) -> dict[str, str]:
    """Every key of a table and its default, as the page writes it."""
    actual = {}
    for name, key in model.model_fields.items():
        default = key.default if not isinstance(key.default, bool) else str(key.default).lower()
        plain = "none" if key.default is None or key.default == () else f"`{default}`"
        actual[name] = "required" if key.is_required() else plain
    return actual


def documented(heading: str) -> dict[str, str]:
    section = CONFIGURATION.split(f"\n## `[{heading}]`")[1].split("\n## ")[0]
    return {row[1]: row[2] for row in re.finditer(r"^\| `(\w+)` \| (.+?) \|", section, re.MULTILINE)}


@pytest.mark.parametrize("section", ["routing", "budget", "limits", "score", "dispatch", "sweep", "learning"])
def test_every_key_of_a_section_is_documented_with_its_default(section: str) -> None:
    model = Settings.model_fields[section].annotation
    assert isinstance(model, type)
    assert documented(section) == keys(model)


def test_every_key_of_the_judge_is_documented_with_its_default() -> None:
    assert documented("learning.judge") == keys(JudgeSettings)


def test_every_key_of_a_model_is_documented_with_its_default() -> None:
    assert documented("models.X") == keys(ModelSettings)


def test_every_other_key_is_documented() -> None:
    for name in Settings.model_fields:
        assert f"`{name}`" in CONFIGURATION or f"`[{name}" in CONFIGURATION


def test_the_first_runs_configuration_loads_and_the_price_data_knows_its_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    Path("routebatch.toml").write_text(README.split("```toml\n")[1].split("```")[0])
    settings = load_settings()
    prices = price_book(settings)
    assert settings.candidates == ("weak", "strong")
    assert 0 < prices.price("weak", 0).output < prices.price("strong", 0).output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_shown_on_some_page(name: str) -> None:
    assert any(re.search(rf"\broutebatch {name}\b", page) for page in PAGES)


@pytest.mark.parametrize("name", ["docs/explanation/architecture.md", "docs/explanation/money.md", "CONTRIBUTING.md"])
def test_every_path_that_the_map_names_is_there(name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?|[a-z_]+\.py)`", page))
    near = [
        ROOT,
        ROOT / "routing_service",
        ROOT / "routing_service" / "dispatch",
        ROOT / "routing_service/openai_format",
    ]
    assert not {path for path in paths if not any((folder / path).exists() for folder in near)}


def test_every_code_that_a_client_may_be_refused_with_is_documented() -> None:
    errors = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    codes: set[str] = set()
    for package in ("api", "batches", "ingest", "openai_format", "plans"):
        for module in (ROOT / "routing_service" / package).rglob("*.py"):
            codes |= set(re.findall(r'(?:code=|LineError\(\s*)"([a-z_]+)"', module.read_text(encoding="utf-8")))
    assert not {code for code in codes if f"`{code}`" not in errors}


def test_every_route_of_the_api_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "http-api.md").read_text(encoding="utf-8")
    routes: set[str] = set()
    for module in (ROOT / "routing_service" / "api").glob("*.py"):
        source = module.read_text(encoding="utf-8")
        prefix = "".join(re.findall(r'APIRouter\(prefix="([^"]+)"\)', source))
        routes |= {f"{verb.upper()} {prefix}{path}" for verb, path in re.findall(r'@router\.(\w+)\("([^"]*)"', source)}
    assert len(routes) > 15
    short = re.sub(r"\{\w+(:path)?\}", "{}", page)
    for route in routes:
        verb, path = re.sub(r"\{\w+(:path)?\}", "{}", route).split()
        tail = path.rpartition("{}")[2]
        assert f"{verb} {path}" in short or (tail and f"`...{tail}`" in short), route
