"""Configuration: the sole reader of the environment and of routebatch.toml.

Every key of the file can also be set as `ROUTEBATCH_<SECTION>__<KEY>` (`ROUTEBATCH_BUDGET__DEFAULT_USD=2`); the
environment wins. The file is `$ROUTEBATCH_CONFIG`, else `./routebatch.toml` where that exists. Secrets are read from
the variables that `api_key_env` names, are kept as `SecretStr`, and never appear in a repr, a log or an error.

A class a table of the file, from the tables of a model to `Settings`, which holds them all.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from routing_service.errors import ConfigurationError


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


class GraderSettings(Section):
    """A grader of the operator's own: one of the keys says what it is. Nothing that a client sends can name one."""

    regex: str | None = Field(None, min_length=1)  # what of an answer is held against the gold answer
    entry_point: str | None = Field(None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")  # module:function
    json_field: str | None = Field(None, min_length=1)  # the path of a field: total.amount, items.0.name

    @field_validator("regex")
    @classmethod
    def _must_compile(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _be_one_thing(self) -> GraderSettings:
        if sum(value is not None for value in (self.regex, self.entry_point, self.json_field)) != 1:
            raise ValueError("name exactly one of regex, entry_point and json_field")
        return self


class JudgeSettings(Section):
    """The model that judges answers, and what it is asked."""

    model: str  # a key of [models]; it need not be a candidate
    budget_usd: PositiveUsd | None = None  # of one run of the judge; none: each must name one
    template: str = "pairwise-v1"
    score_template: str = "score-v1"
    max_tokens: int = Field(16, ge=1)  # of a reply: the verdict alone


class RefitSettings(Section):
    """The keys of [learning] on re-fits: when there is one, what is fitted, what it is judged on."""

    refit: str = "0 3 * * *"  # a crontab line in UTC; empty: by no clock
    refit_after: int = Field(1000, ge=0)  # comparisons since the last re-fit; 0: however many there are
    refit_check_s: float = Field(600, gt=0)  # between looks whether comparisons or drift ask for one
    drift_similarity_drop: float = Field(0.1, ge=0, le=1)  # of the last week's prompts to what was fitted on; 0: never
    drift_calibration_rise: float = Field(0.05, ge=0, le=1)  # of the win rates' error on new comparisons; 0: never
    methods: list[str] = Field(["gain"], min_length=1)  # each of them gives a candidate
    seed: int = Field(0, ge=0, lt=2**32)
    hold_out: float = Field(0.2, gt=0, lt=1)  # the newest share of the prompts, for judging
    least_pairs: int = Field(200, ge=1)  # held-out pairs of live traffic that are judged on alone
    benchmarks: dict[str, Path] = Field({})  # fixed sets by name: a directory of tables, or a file of comparisons
    benchmark_similarity: float = Field(0, ge=0, le=1)  # from which a prompt is too like a benchmark's; 0: the same
    benchmark_margin: float = Field(0.02, ge=0, le=1)  # by how much APGR may fall on one of them

    @field_validator("refit")
    @classmethod
    def _be_five_fields(cls, value: str) -> str:
        if value and not re.fullmatch(r"[\w*,/-]+( [\w*,/-]+){4}", value):
            raise ValueError("five fields are expected (minute hour day month weekday), as in 0 3 * * *")
        return value


class RoutingSettings(Section):
    candidates: tuple[str, ...] = ()  # cheapest first
    strong: str | None = None
    weak: str | None = None
    router: str = "auto"  # the active router version, else gain
    artifacts: dict[str, Path] = Field({})  # fitted routers by the name that batches give
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA where it is there
    seed: int = 0

    @model_validator(mode="after")
    def _name_a_pair_or_candidates(self) -> RoutingSettings:
        if (self.strong is None) != (self.weak is None):
            raise ValueError("strong and weak are named together")
        if self.strong is not None and self.candidates and set(self.candidates) != {self.weak, self.strong}:
            raise ValueError("name either candidates or a strong/weak pair, not both")
        return self

    @model_validator(mode="after")
    def _keep_names_of_versions(self) -> RoutingSettings:
        taken = [name for name in self.artifacts if name == "auto" or name.startswith("version-")]
        if taken:
            raise ValueError(f"artifacts cannot be called {taken[0]!r}: that names a router version")
        return self


class EmbeddingSettings(Section):
    """The encoder of prompts, for routers that compare vectors."""

    encoder: str = "minilm"  # minilm, static, a path or a hub name, or endpoint:MODEL
    precision: Literal["auto", "float", "int8"] = "auto"  # auto: int8 on a CPU, float on CUDA
    max_tokens: int = Field(256, ge=8, le=32_768)  # of longer prompts head and tail are read
    minibatch_tokens: int = Field(8192, ge=64)
    cache: Path | None = None  # a directory; None: the user's cache directory
    cache_bytes: int = Field(4_000_000_000, ge=0)  # 0: no cache
    base_url: HttpUrl | None = Field(None, repr=False)
    api_key_env: str | None = None
    usd_per_million: Usd = Decimal(0)
    timeout_s: float = Field(60, gt=0)


class BudgetSettings(Section):
    default_usd: PositiveUsd | None = None  # none: every batch must name one


class LimitSettings(Section):
    max_file_bytes: int = Field(1_000_000_000, ge=1)
    max_stored_bytes_per_key: int = Field(10_000_000_000, ge=1)  # of its uploads together
    max_lines: int = Field(1_000_000, ge=1)
    max_line_bytes: int = Field(1_000_000, ge=1)
    max_json_depth: int = Field(32, ge=2)
    max_listed_errors: int = Field(100, ge=1)


class ScoreSettings(Section):
    range_lines: int = Field(1024, ge=1)
    ranges_at_once: int = Field(16, ge=1)  # of one API key, in the queue and being scored
    max_attempts: int = Field(3, ge=1)
    fit_lengths_s: float = Field(600, gt=0)  # between looks whether output lengths are to be fitted again


class DispatchSettings(Section):
    claim_chunk: int = Field(128, ge=1)  # requests claimed and reserved in one transaction
    max_in_flight: int = Field(512, ge=1)  # calls of one pump
    claim_s: float = Field(30, gt=0)  # then it stops claiming, rings again, finishes what is in flight
    grace_s: float = Field(30, ge=0)  # of a worker that is stopped, for the calls it has in flight
    lease_s: float = Field(30, gt=0)
    renew_s: float = Field(10, gt=0)
    settle_interval_ms: int = Field(250, ge=1)
    settle_results: int = Field(256, ge=1)
    idle_s: float = Field(2, ge=0)  # how long an idle pump waits for retries that fall due
    max_attempts: int = Field(6, ge=1)
    reuse_answers_s: int = Field(604_800, ge=0)  # how old an answer may be that another batch of its key reuses
    backoff_base_s: float = Field(0.5, gt=0)
    backoff_max_s: float = Field(60, gt=0)
    max_response_bytes: int = Field(32_000_000, ge=1)
    max_held_response_bytes: int = Field(512_000_000, ge=1)  # of all answers of one pump that are not settled yet

    @model_validator(mode="after")
    def _renew_in_time(self) -> DispatchSettings:
        """A lease that runs out under a healthy pump has its calls charged in full and made again."""
        if self.renew_s > self.lease_s / 2:
            raise ValueError(f"renew_s ({self.renew_s:g}) is at most half of lease_s ({self.lease_s:g})")
        return self


class SweepSettings(Section):
    interval_s: float = Field(15, gt=0)
    announce_after_s: float = Field(30, gt=0)  # work that nobody announced or finished is announced again


class LearningSettings(RefitSettings):
    feedback_weight_per_key: float = Field(200, gt=0, allow_inf_nan=False)  # what a key's votes weigh together at most
    explore_share: float = Field(0, ge=0, le=1)  # of a batch's lines, asked of the other model too
    explore_budget_share: float = Field(0.05, gt=0, le=0.5)  # of a batch's budget, set aside for that
    graders: dict[str, GraderSettings] = Field({})  # the operator's own, by the name that `grade --grader` gives
    judge: JudgeSettings | None = None


class Settings(BaseSettings):
    """Everything that can be configured. `load_settings` makes one and checks it as a whole."""

    model_config = SettingsConfigDict(
        env_prefix="ROUTEBATCH_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    models: dict[str, ModelSettings] = Field(default_factory=dict)
    routing: RoutingSettings = RoutingSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    budget: BudgetSettings = BudgetSettings()
    limits: LimitSettings = LimitSettings()
    score: ScoreSettings = ScoreSettings()
    dispatch: DispatchSettings = DispatchSettings()
    sweep: SweepSettings = SweepSettings()
    learning: LearningSettings = LearningSettings()
    api_host: str = "127.0.0.1"  # loopback unless told otherwise
    api_port: int = Field(8080, ge=0, le=65535)
    artifact_url: str | None = Field(None, repr=False)  # where router versions are: a directory, or s3://...
    artifact_cache: Path | None = None  # a directory; None: in the user's cache directory
    database_url: SecretStr = SecretStr("postgresql+psycopg:///routebatch")
    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")

    @property
    def candidates(self) -> tuple[str, ...]:
        """The configured models that a batch may be spread over, cheapest first."""
        if self.routing.candidates:
            return self.routing.candidates
        if self.routing.weak and self.routing.strong:
            return (self.routing.weak, self.routing.strong)
        return tuple(self.models)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = config_file()
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, file)) if file else sources


def config_file() -> Path | None:
    """The configuration file in force: `$ROUTEBATCH_CONFIG`, else ./routebatch.toml, else none."""
    named = os.environ.get("ROUTEBATCH_CONFIG")
    if named:
        return Path(named)
    here = Path("routebatch.toml")
    return here if here.is_file() else None


def load_settings() -> Settings:
    """Read and check the configuration.

    Raises ConfigurationError naming the file and the key: unreadable file, unknown key, wrong value, a candidate that
    is no model, a missing key variable. (Prices are checked by `pricing.price_book`, which knows the price data.)
    """
    file = config_file()
    where = str(file) if file else "the environment (no routebatch.toml found)"
    if file and not file.is_file():
        raise ConfigurationError(f"{where}: there is no such file; ROUTEBATCH_CONFIG names it")
    try:
        settings = Settings()
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where}: not TOML: {error}") from None
    except (ValidationError, ValueError) as error:
        raise ConfigurationError(f"{where}: {_explain(error)}") from None
    _check_candidates(settings, where)
    return settings


@cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()


def _explain(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'routebatch'}: {e['msg']}" for e in error.errors())


def _check_candidates(settings: Settings, where: str) -> None:
    for name in settings.candidates:
        if name not in settings.models:
            known = ", ".join(settings.models) or "none"
            raise ConfigurationError(f"{where}: routing.candidates names {name!r}; configured models: {known}")
    judge = settings.learning.judge
    if judge is not None and judge.model not in settings.models:
        known = ", ".join(settings.models) or "none"
        raise ConfigurationError(f"{where}: learning.judge.model names {judge.model!r}; configured models: {known}")
    for name, model in settings.models.items():
        key = model.api_key()
        variable = f"{where}: models.{name}.api_key_env: the environment variable {model.api_key_env}"
        if model.api_key_env and key is None:
            raise ConfigurationError(f"{variable} is not set")
        # Anything else could not be sent in a header, and every call would break after its money was reserved.
        if key and not (key.get_secret_value().isascii() and key.get_secret_value().isprintable()):
            raise ConfigurationError(f"{variable} holds characters that a key cannot have")
