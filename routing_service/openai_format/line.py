"""One line of a batch file: `parse_line` gives a checked Line or raises LineError, whatever the bytes are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from routing_service.money.pricing import to_nano
from routing_service.openai_format.body import (
    LineError,
    call_digest,
    check_body,
    choices,
    input_bytes,
    is_deterministic,
    output_cap,
    prompt_text,
    shown,
    upstream_body,
)
from routing_service.routers.registry import canonical, router_names
from routing_service.settings import Settings

ENDPOINT = "/v1/chat/completions"
AUTO = "routebatch-auto"  # the batch decides
MAX_CUSTOM_ID = 512
MAX_COST_USD = 1_000_000
DETERMINISTIC, SHARED = "deterministic", ("batch", "key")  # values of `dedupe`: which answers may serve other lines
DEEPEST_JSON = 200  # what the JSON library can write again, with room to spare

_LINE_KEYS = frozenset(("custom_id", "method", "url", "body", "routing"))
_ROUTING_KEYS = frozenset(("model", "max_cost_usd", "priority"))
NORMAL = 5  # the priority of a line that names none, from 0 to 9
_THRESHOLD_ALIAS = re.compile(r"router-(.{1,60})-([01](?:\.[0-9]{1,15})?)")

__all__ = ["AUTO", "ENDPOINT", "Line", "LineError", "parse_line", "prompt_text", "threshold_alias", "upstream_body"]


@dataclass(frozen=True, slots=True)
class Line:
    """What is kept of a valid line."""

    custom_id: str
    body: str  # compact JSON, as given
    alias: str  # the model it names
    pinned: str | None  # the configuration key of the model that must answer it
    max_cost_nano: int | None
    input_bytes: int
    output_cap: int | None
    choices: int
    call: bytes | None = None  # `call_digest` of its body, where its answer may serve others as well
    priority: int = NORMAL  # within its batch


def parse_line(raw: bytes, settings: Settings, dedupe: str = "off") -> Line:
    """Check one line, without its line break. LineError names code, message and parameter of the first fault.

    `dedupe`: the batch's option of that name.
    """
    if len(raw) > settings.limits.max_line_bytes:
        raise line_too_long(settings)
    record = _load(raw, settings.limits.max_json_depth)
    for key in record.keys() - _LINE_KEYS:
        raise LineError("unsupported_parameter", f"{key[:80]} is not a key of a line", key[:80])
    custom_id = _custom_id(record)
    _check_target(record)
    body = _required(record, "body", dict, "an object")
    alias: str = _required(body, "model", str, "a string", "body.model")
    pinned = resolve_model(alias, settings, "body.model")
    check_body(body)
    routing_model, max_cost_nano, priority = _routing(record.get("routing"), settings)
    return Line(
        custom_id=custom_id,
        body=orjson.dumps(body).decode(),
        alias=alias,
        pinned=routing_model or pinned,
        max_cost_nano=max_cost_nano,
        input_bytes=input_bytes(body),
        output_cap=output_cap(body),
        choices=choices(body),
        call=call_digest(body) if dedupe in SHARED or (dedupe == DETERMINISTIC and is_deterministic(body)) else None,
        priority=priority,
    )


def line_too_long(settings: Settings) -> LineError:
    most = settings.limits.max_line_bytes
    return LineError("line_too_long", f"The line is longer than the {most:,} bytes that a line may have.")


def resolve_model(name: str, settings: Settings, param: str) -> str | None:
    """The configuration key that a model name pins, or None for a name that leaves the choice to the batch."""
    if name == AUTO:
        return None
    if name in settings.models:
        return name
    for key in (*settings.candidates, *settings.models):
        if settings.models[key].name == name:
            return key
    if threshold_alias(name, settings) is not None:
        return None
    known = ", ".join((AUTO, *settings.models))
    raise LineError("model_not_found", f"There is no model {shown(name)}. Models: {known}.", param)


def threshold_alias(name: str, settings: Settings) -> tuple[str, float] | None:
    """Router and threshold of a `router-<method>-<threshold>` name, if it is one of a router that exists."""
    match = _THRESHOLD_ALIAS.fullmatch(name)
    if match is None or canonical(match[1]) not in router_names(settings) or float(match[2]) > 1:
        return None
    return canonical(match[1]), float(match[2])


def _load(raw: bytes, max_depth: int) -> dict[str, Any]:
    """The line's JSON object, with strings that a database can hold and no deeper than allowed."""
    try:
        record = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise LineError("invalid_json_line", f"The line is not valid JSON: {error.msg}.") from None
    if type(record) is not dict:
        raise LineError("invalid_json_line", "The line is not a JSON object.")
    depth = min(max_depth, DEEPEST_JSON)
    # So few brackets cannot nest too deeply: the usual line is not walked at all.
    if raw.count(b"{") + raw.count(b"[") > depth and _deeper(record, depth):
        raise LineError("invalid_json_line", f"The line's JSON is nested more than {depth} levels deep.")
    if b"\\u0000" in raw and _holds_nul(record):
        raise LineError("invalid_json_line", "The line holds a NUL character (\\u0000), which text cannot store.")
    return record


def _deeper(value: Any, levels: int) -> bool:
    if type(value) is dict:
        value = value.values()
    elif type(value) is not list:
        return False
    return levels == 0 or any(_deeper(item, levels - 1) for item in value)


def _holds_nul(value: Any) -> bool:
    if type(value) is str:
        return "\0" in value
    if type(value) is dict:
        return any("\0" in key or _holds_nul(item) for key, item in value.items())
    return type(value) is list and any(_holds_nul(item) for item in value)


def _required(holder: dict[str, Any], key: str, kind: type, what: str, param: str | None = None) -> Any:
    value = holder.get(key)
    if type(value) is not kind or value == "":
        name = param or key
        raise LineError("missing_required_parameter", f"{name} is required: {what}", name)
    return value


def _custom_id(record: dict[str, Any]) -> str:
    custom_id: str = _required(record, "custom_id", str, "a string that is not empty")
    if len(custom_id) > MAX_CUSTOM_ID:
        message = f"custom_id has {len(custom_id)} characters; at most {MAX_CUSTOM_ID} are allowed"
        raise LineError("unsupported_parameter", message, "custom_id")
    return custom_id


def _check_target(record: dict[str, Any]) -> None:
    method = _required(record, "method", str, "POST")
    if method != "POST":
        raise LineError("unsupported_parameter", f"method must be POST, not {shown(method)}", "method")
    url = _required(record, "url", str, ENDPOINT)
    if url != ENDPOINT:
        raise LineError("url_mismatch", f"url must be the batch's endpoint {ENDPOINT}, not {shown(url)}", "url")


def _routing(routing: Any, settings: Settings) -> tuple[str | None, int | None, int]:
    """The line's own routing: the model it is pinned to, the most it may cost, and its priority."""
    if routing is None:
        return None, None, NORMAL
    if type(routing) is not dict:
        raise LineError("unsupported_parameter", "routing must be an object", "routing")
    for key in routing.keys() - _ROUTING_KEYS:
        param = f"routing.{key[:80]}"
        raise LineError("unsupported_parameter", f"{param} is not supported per line", param)
    pinned = None
    if routing.get("model") is not None:
        name = _required(routing, "model", str, "the name of a model", "routing.model")
        pinned = resolve_model(name, settings, "routing.model")
    cost = routing.get("max_cost_usd")
    priority = NORMAL if routing.get("priority") is None else routing["priority"]
    if type(priority) is not int or not 0 <= priority <= 9:
        message = f"routing.priority must be a whole number from 0 to 9, not {shown(priority)}"
        raise LineError("unsupported_parameter", message, "routing.priority")
    return pinned, None if cost is None else _max_cost(cost), priority


def _max_cost(value: Any) -> int:
    if type(value) in (int, float, str) and len(str(value)) <= 40:
        try:
            usd = Decimal(str(value))
        except InvalidOperation:
            usd = Decimal(0)
        nano = to_nano(usd) if usd.is_finite() and 0 < usd <= MAX_COST_USD else 0
        if nano > 0:
            return nano
    message = f"routing.max_cost_usd must be a number of dollars above 0, at most {MAX_COST_USD:,}, not {shown(value)}"
    raise LineError("unsupported_parameter", message, "routing.max_cost_usd")
