"""The table of a model in routebatch.toml, and what all tables of that file have in common."""

from __future__ import annotations

import hashlib
import os
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, HttpUrl, SecretStr, model_validator


class Section(BaseModel):
    """A table of routebatch.toml: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _decimal(value: Any) -> Any:
    """Floats by their shortest decimal form: 0.15 in TOML means exactly 0.15."""
    return Decimal(str(value)) if isinstance(value, float) else value


Usd = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, le=1_000_000)]
PositiveUsd = Annotated[Decimal, BeforeValidator(_decimal), Field(gt=0, le=1_000_000)]


class ModelSettings(Section):
    """One candidate model and the upstream that serves it."""

    name: str = Field(min_length=1)
    base_url: HttpUrl = Field(repr=False)  # may hold credentials
    api_key_env: str | None = None
    input_usd_per_million: Usd | None = None
    cached_input_usd_per_million: Usd | None = None
    output_usd_per_million: Usd | None = None
    max_output_tokens: int = Field(1024, ge=1)
    expected_output_tokens: int = Field(256, ge=1)  # the prior; the cap bounds it
    cap_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_completion_tokens"
    overhead_tokens: int = Field(16, ge=0)
    max_concurrency: int = Field(128, ge=1)
    requests_per_minute: int | None = Field(None, ge=1)  # of all pumps together; None: what the upstream says
    tokens_per_minute: int | None = Field(None, ge=1)
    rated_as: str | None = None  # what training data call this model; None: its key here, then its name
    tier: int | None = Field(None, ge=0, le=99)  # for routers that never saw it; 0 is the weakest tier
    bill_on_5xx: bool = True
    connect_timeout_s: float = Field(10, gt=0)
    read_timeout_s: float | None = Field(None, gt=0)  # of silence; None: only timeout_s counts
    timeout_s: float = Field(300, gt=0)

    def api_key(self) -> SecretStr | None:
        """The upstream's key, or None for an upstream that wants none."""
        value = os.environ.get(self.api_key_env, "").strip() if self.api_key_env else ""
        return SecretStr(value) if value else None

    @model_validator(mode="after")
    def _carry_one_credential(self) -> ModelSettings:
        if self.api_key_env and (self.base_url.username or self.base_url.password):
            raise ValueError("either base_url holds credentials or api_key_env names a key, not both")
        return self

    @property
    def bounds(self) -> str:
        """What a call's worst case rests on. A model that was billed above it stays stopped until this changes."""
        return f"{self.name}: {self.overhead_tokens} overhead, {self.cap_parameter} {self.max_output_tokens}"

    @property
    def fingerprint(self) -> str:
        """What its upstream answers to: another address, name or key may be served where this one is refused."""
        key = self.api_key()
        told = (str(self.base_url), self.name, key.get_secret_value() if key else "")
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]

    @property
    def origin(self) -> str:
        """The base URL without credentials, query or trailing slash: fit for logs."""
        url = self.base_url
        port = f":{url.port}" if url.port not in (None, 80, 443) else ""
        return f"{url.scheme}://{url.host}{port}{(url.path or '').rstrip('/')}"
