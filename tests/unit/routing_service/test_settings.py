"""What of a configuration is refused at the start, so that no call breaks on it later."""

from __future__ import annotations

from pathlib import Path

import pytest

from routing_service.errors import ConfigurationError
from routing_service.settings import Settings, load_settings
from tests.support.factories import make_settings

MODEL = """
[models.only]
name = "m"
base_url = "{url}"
api_key_env = "UPSTREAM_KEY"
"""


def _load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, key: str | None) -> Settings:
    file = tmp_path / "routebatch.toml"
    file.write_text(MODEL.format(url=url))
    monkeypatch.setenv("ROUTEBATCH_CONFIG", str(file))
    monkeypatch.delenv("UPSTREAM_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("UPSTREAM_KEY", key)
    return load_settings()


def test_a_key_is_taken_without_the_white_space_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _load(tmp_path, monkeypatch, "http://127.0.0.1:9/v1", " secret-key\n")
    key = settings.models["only"].api_key()
    assert key is not None
    assert key.get_secret_value() == "secret-key"


@pytest.mark.parametrize("key", [None, "", " \n", "two\nlines", "schlüssel", "a\udcff"])
def test_a_key_that_cannot_be_sent_is_named_by_its_variable_only(
    key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match=r"routebatch\.toml: models\.only\.api_key_env: .*UPSTREAM_KEY") as e:
        _load(tmp_path, monkeypatch, "http://127.0.0.1:9/v1", key)
    assert not (key or "").strip() or (key or "").strip() not in str(e.value)


def test_credentials_in_a_url_and_a_key_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"models\.only: .*not both") as caught:
        _load(tmp_path, monkeypatch, "http://user:hidden@127.0.0.1:9/v1", "secret-key")
    assert "hidden" not in str(caught.value)
    assert "secret-key" not in str(caught.value)


def test_what_a_killed_worker_had_is_taken_up_within_a_minute_unless_configured_otherwise() -> None:
    settings = make_settings()
    assert settings.dispatch.lease_s + settings.sweep.interval_s <= 60


def test_a_lease_is_renewed_before_it_can_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTEBATCH_DISPATCH__LEASE_S", "12")
    with pytest.raises(ConfigurationError, match=r"dispatch: .*renew_s \(10\) is at most half of lease_s \(12\)"):
        load_settings()
    monkeypatch.setenv("ROUTEBATCH_DISPATCH__RENEW_S", "4")
    assert load_settings().dispatch.renew_s == 4


def test_a_judge_must_be_a_configured_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "routebatch.toml"
    monkeypatch.setenv("ROUTEBATCH_CONFIG", str(file))
    model = MODEL.format(url="http://127.0.0.1:9/v1").replace('api_key_env = "UPSTREAM_KEY"', "")
    file.write_text(model + '[learning.judge]\nmodel = "only"\n')
    judge = load_settings().learning.judge
    assert judge is not None
    assert judge.model == "only"
    file.write_text(model + '[learning.judge]\nmodel = "other"\n')
    with pytest.raises(ConfigurationError, match=r"learning\.judge\.model names 'other'; configured models: only"):
        load_settings()
