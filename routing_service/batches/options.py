"""What routing adds to a batch: its options, from `routing` or from the same keys as strings in `metadata`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from routing_service.errors import InvalidRequestError
from routing_service.money.pricing import format_usd, format_usd_up
from routing_service.settings import Settings

MAX_BUDGET_USD = 1_000_000
LEAST_BUDGET_USD = Decimal("0.000000001")  # one nano-dollar
NOT_YET = {"plan_id": "; POST /v1/batches/{id}/approve runs a plan"}
MODE_OPTIONS = {"target_quality": "target_quality", "strong_share": "share", "threshold": "threshold"}


def _number(value: Any) -> Any:
    """Numbers, or strings that hold one. A float counts as its shortest decimal form: 0.1 means exactly 0.1."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError("must be a number")
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError("must be a number") from None
    if not number.is_finite() or not -MAX_BUDGET_USD <= number <= MAX_BUDGET_USD:
        raise ValueError(f"must be a number of at most {MAX_BUDGET_USD}")
    return number


def _whole(value: Any) -> Any:
    number = _number(value)
    if number != int(number):
        raise ValueError("must be a whole number")
    return int(number)


Dollars = Annotated[Decimal, BeforeValidator(_number)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]


class BatchOptions(BaseModel):
    """The options of a batch. Stored as JSON with the budget as a string, filled in unless it is a preview's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    budget_usd: Dollars | None = None
    mode: Literal["plan", "target_quality", "share", "threshold"] = "plan"
    target_quality: Share | None = None
    strong_share: Share | None = None
    threshold: Share | None = None
    router: str | None = Field(None, min_length=1, max_length=100)
    on_budget: Literal["stop", "wait"] = "stop"
    on_failure: Literal["fail", "fallback"] = "fail"
    dedupe: Literal["off", "deterministic", "batch", "key"] = "deterministic"
    priority: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=9)] = 5
    explore_share: Share | None = None  # stored filled in

    @property
    def budget(self) -> Decimal:
        """The budget in dollars; 0 for a preview without one."""
        return self.budget_usd if self.budget_usd is not None else Decimal(0)


def parse_options(
    routing: Mapping[str, Any] | None,
    metadata: Mapping[str, str] | None,
    settings: Settings,
    *,
    needs_budget: bool = True,
) -> BatchOptions:
    """The options a client asked for; `routing` wins over `metadata`, whose other keys are the client's own.

    Raises InvalidRequestError: an unknown key, a bad value, an option of another mode, a budget that is missing
    (`budget_required`) or no budget at all (`invalid_budget`), what this version does not support.
    """
    known = (*BatchOptions.model_fields, *NOT_YET)
    given = {f"metadata.{k}": (k, v) for k, v in (metadata or {}).items() if k in known}
    given |= {f"routing.{k}": (k, v) for k, v in (routing or {}).items() if v is not None}
    values = {key: (where, value) for where, (key, value) in given.items()}
    for key, (where, _) in values.items():
        if key in NOT_YET:
            raise InvalidRequestError(
                f"{where} is not supported by this version{NOT_YET.get(key, '')}",
                code="unsupported_parameter",
                param=where,
            )
    options = _validate(values)
    _check_mode(options, values)
    budget = batch_budget(options.budget_usd, settings) if needs_budget or options.budget_usd is not None else None
    explored = options.explore_share if options.explore_share is not None else settings.learning.explore_share
    return options.model_copy(update={"budget_usd": budget, "explore_share": explored})


def parse_budget(value: Any) -> Decimal:
    """An amount of dollars that stands for itself. InvalidRequestError (`invalid_budget`) where it is none."""
    return _in_range(_validate({"budget_usd": ("budget_usd", value)}).budget)


def _validate(values: Mapping[str, tuple[str, Any]]) -> BatchOptions:
    try:
        return BatchOptions.model_validate({key: value for key, (_, value) in values.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        where = values[key][0]
        if first["type"] == "extra_forbidden":
            known = ", ".join(BatchOptions.model_fields)
            message = f"{where}: there is no such option; known are {known}"
            raise InvalidRequestError(message, code="unknown_parameter", param=where) from None
        code = "invalid_budget" if key == "budget_usd" else "invalid_value"
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidRequestError(f"{where}: {message}", code=code, param=where) from None


def _check_mode(options: BatchOptions, values: Mapping[str, tuple[str, Any]]) -> None:
    for option, mode in MODE_OPTIONS.items():
        if options.mode == mode and getattr(options, option) is None:
            raise InvalidRequestError(
                f"mode {mode} needs routing.{option}", code="missing_required_parameter", param=f"routing.{option}"
            )
        if options.mode != mode and getattr(options, option) is not None:
            where = values[option][0]
            raise InvalidRequestError(
                f"{where} belongs to mode {mode}, but the mode is {options.mode}", code="invalid_value", param=where
            )


def too_small(limit_nano: int, least_nano: int) -> str:
    """What a client is told whose budget is below the least."""
    return (
        f"The budget of ${format_usd(limit_nano)} is too small for this batch even at its cheapest;"
        f" the least that will do is ${format_usd_up(least_nano)}."
    )


def batch_budget(asked: Decimal | None, settings: Settings) -> Decimal:
    """The budget asked for, else the configured one. InvalidRequestError: `budget_required`, `invalid_budget`."""
    budget = asked if asked is not None else settings.budget.default_usd
    if budget is None:
        raise InvalidRequestError(
            "this batch needs a budget: give routing.budget_usd (or metadata.budget_usd), in dollars",
            code="budget_required",
            param="routing.budget_usd",
        )
    return _in_range(budget)


def _in_range(budget: Decimal) -> Decimal:
    if not LEAST_BUDGET_USD <= budget <= MAX_BUDGET_USD:
        raise InvalidRequestError(
            f"a budget is more than 0 and at most {MAX_BUDGET_USD} dollars", code="invalid_budget", param="budget_usd"
        )
    return budget
