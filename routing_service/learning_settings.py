"""Tables of routebatch.toml on learning: how answers are graded and judged, and when routers are fitted again."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from routing_service.model_settings import PositiveUsd, Section


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
