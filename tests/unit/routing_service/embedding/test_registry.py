"""Encoders by name: what a name means, one a process, and artifacts that insist on theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing_service.embedding.base import parse
from routing_service.embedding.registry import check_identity, identify, make_encoder, saved_encoder
from routing_service.errors import ArtifactError, ConfigurationError
from routing_service.settings import EmbeddingSettings, RoutingSettings, Settings
from tests.support.routers.tiny_encoder import texts, write_encoder


def settings(tmp_path: Path, **embedding: Any) -> Settings:
    return Settings(
        embedding=EmbeddingSettings(**{"cache": tmp_path / "cache", **embedding}), routing=RoutingSettings(device="cpu")
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("minilm", "minilm@auto,256"),
        ("minilm@float", "minilm@float,256"),
        ("minilm@int8,64", "minilm@int8,64"),
        ("minilm@64", "minilm@auto,64"),
        ("org/model-v2", "org/model-v2@auto,256"),
        ("/at/me@home", "/at/me@home@auto,256"),
        ("static", "static@256"),
        ("static:/some/where@32", "static:/some/where@32"),
        ("endpoint:e5", "endpoint:e5@256"),
        ("endpoint:org/e5:latest@512", "endpoint:org/e5:latest@512"),
    ],
)
def test_a_name_says_what_the_settings_would(text: str, whole: str) -> None:
    assert str(parse(text, Settings())) == whole
    assert str(parse(whole, Settings(embedding=EmbeddingSettings(max_tokens=9, precision="float")))) == whole


@pytest.mark.parametrize("text", ["", "@int8", "minilm@4", "minilm@99999", "endpoint:", "a\nb", "x" * 2000])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        parse(text, Settings())


@given(st.text(max_size=60))
def test_any_text_is_a_name_that_stays_the_same_or_an_error(text: str) -> None:
    try:
        parsed = parse(text, Settings())
    except ConfigurationError:
        return
    assert parse(str(parsed), Settings()) == parsed


def test_auto_is_int8_on_a_cpu_where_the_model_allows_it(directory: Path, tmp_path: Path) -> None:
    other = write_encoder(tmp_path / "other", hidden_act="relu")
    assert make_encoder(settings(tmp_path), str(directory)).spec == f"{directory}@int8,64"  # it has 64 positions
    assert make_encoder(settings(tmp_path), str(other)).spec == f"{other}@float,64"


def test_a_process_has_one_encoder_of_a_name(directory: Path, tmp_path: Path) -> None:
    configured = settings(tmp_path, encoder=str(directory))
    made = make_encoder(configured)
    assert make_encoder(configured) is made
    assert make_encoder(configured, made.spec) is made
    assert make_encoder(configured, f"{directory}@float") is not made


def test_what_an_artifact_keeps_gives_the_same_encoder_under_other_settings(directory: Path, tmp_path: Path) -> None:
    made = make_encoder(settings(tmp_path, encoder=str(directory), max_tokens=16))
    rebuilt = saved_encoder(settings(tmp_path, precision="float", max_tokens=32), identify(made))
    assert rebuilt.identity == made.identity
    some = texts(5, longest=40)
    assert (rebuilt.encode(some) == made.encode(some)).all()


def test_an_artifact_of_another_encoder_is_refused(directory: Path, tmp_path: Path) -> None:
    saved = identify(make_encoder(settings(tmp_path), str(directory)))
    check_identity(make_encoder(settings(tmp_path), str(directory)), saved)
    with pytest.raises(ArtifactError, match="fit the router again"):
        check_identity(make_encoder(settings(tmp_path), f"{directory}@float"), saved)
    changed = write_encoder(tmp_path / "changed", seed=1)
    with pytest.raises(ArtifactError, match="fit the router again"):
        saved_encoder(settings(tmp_path), saved | {"spec": str(changed)})


def test_an_artifact_whose_encoder_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such directory"):
        saved_encoder(settings(tmp_path), {"spec": str(tmp_path / "gone"), "identity": "local-0"})


@pytest.mark.parametrize("saved", [None, [], {}, {"spec": "minilm"}, {"spec": "minilm", "identity": 7}])
def test_an_artifact_that_names_no_encoder_is_refused(saved: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not say which encoder"):
        saved_encoder(settings(tmp_path), saved)


def test_a_model_of_the_hub_that_cannot_be_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match="nobody/has-this"):
        make_encoder(settings(tmp_path), "nobody/has-this")


def test_an_identity_is_known_without_loading_anything(directory: Path, tmp_path: Path) -> None:
    made = make_encoder(settings(tmp_path), str(directory))
    (directory / "tokenizer.json").write_text("{}")  # what an encoder would stumble over
    assert made.identity.startswith("local-")
    with pytest.raises(ConfigurationError, match="tokenizer"):
        made.encode(["w1"])
