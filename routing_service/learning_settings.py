"""The tables of routebatch.toml that say how answers are graded."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from routing_service.model_settings import Section


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
