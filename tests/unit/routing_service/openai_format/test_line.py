"""Validation of one line: what passes, what is refused under which code, and that nothing else can come out."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from routing_service.openai_format.line import Line, LineError, parse_line, prompt_text, threshold_alias, upstream_body
from routing_service.settings import ModelSettings, Settings
from tests.support.factories import STRONG, make_settings

SETTINGS = make_settings(limits={"max_line_bytes": 20_000})
HELLO = [{"role": "user", "content": "hello"}]
TEXT_PART = {"type": "text", "text": "x"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def record(body: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    whole = {"model": "routebatch-auto", "messages": HELLO} | (body or {})
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": whole} | changes


def parse(value: Any, settings: Settings = SETTINGS) -> Line:
    return parse_line(value if isinstance(value, bytes) else json.dumps(value).encode(), settings)


def refused(value: Any) -> tuple[str, str | None]:
    with pytest.raises(LineError) as caught:
        parse(value)
    assert caught.value.message
    return caught.value.code, caught.value.param


def test_a_plain_line_is_kept_whole() -> None:
    line = parse(record({"temperature": 0.5, "max_tokens": 7, "n": 2}))
    assert json.loads(line.body) == record({"temperature": 0.5, "max_tokens": 7, "n": 2})["body"]
    assert (line.custom_id, line.alias, line.pinned, line.max_cost_nano) == ("a", "routebatch-auto", None, None)
    assert (line.output_cap, line.choices) == (7, 2)


def test_input_bytes_are_those_of_messages_tools_and_response_format() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}
    messages = [{"role": "user", "content": "Grüße, 世界"}]
    line = parse(record({"messages": messages, "tools": tools, "response_format": form, "user": "not counted"}))
    assert line.input_bytes == sum(len(orjson.dumps(part)) for part in (messages, tools, form))


@pytest.mark.parametrize(
    ("given_caps", "cap"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": 5, "max_completion_tokens": 3}, 3),
        ({"max_tokens": 10**15}, 2**31 - 1),
    ],
)
def test_the_smaller_cap_counts(given_caps: dict[str, Any], cap: int | None) -> None:
    assert parse(record(given_caps)).output_cap == cap


@pytest.mark.parametrize(
    ("name", "pinned"),
    [("routebatch-auto", None), ("strong", "strong"), ("sandbox-weak", "weak"), ("router-random-0.25", None)],
)
def test_a_configured_models_name_pins_the_line(name: str, pinned: str | None) -> None:
    line = parse(record({"model": name}))
    assert (line.alias, line.pinned) == (name, pinned)


def test_a_threshold_alias_names_router_and_threshold() -> None:
    assert threshold_alias("router-random-0.25", SETTINGS) == ("random", 0.25)
    assert threshold_alias("router-oracle-0.25", SETTINGS) is None
    assert threshold_alias("router-random-1.5", SETTINGS) is None


def test_a_lines_routing_pins_it_and_bounds_its_cost() -> None:
    line = parse(record(routing={"model": "sandbox-strong", "max_cost_usd": "0.002"}))
    assert (line.pinned, line.max_cost_nano) == ("strong", 2_000_000)
    assert parse(record(routing={"max_cost_usd": 0.1})).max_cost_nano == 100_000_000
    assert parse(record(routing=None)).pinned is None


def test_a_line_may_have_a_priority_of_its_own() -> None:
    assert [parse(record(routing=given)).priority for given in ({"priority": 0}, {"priority": 9}, {}, None)] == [
        0,
        9,
        5,
        5,
    ]


@pytest.mark.parametrize(
    ("routing", "param"),
    [
        ({"priority": 10}, "routing.priority"),
        ({"priority": -1}, "routing.priority"),
        ({"priority": True}, "routing.priority"),
        ({"priority": 3.0}, "routing.priority"),
        ({"priority": "3"}, "routing.priority"),
        ({"colour": 3}, "routing.colour"),
        ({"max_cost_usd": 0}, "routing.max_cost_usd"),
        ({"max_cost_usd": True}, "routing.max_cost_usd"),
        ({"max_cost_usd": "nan"}, "routing.max_cost_usd"),
        ({"max_cost_usd": "sNaN"}, "routing.max_cost_usd"),
        ({"max_cost_usd": "1e999999999"}, "routing.max_cost_usd"),
        ({"max_cost_usd": "1e-999999999"}, "routing.max_cost_usd"),
        ({"max_cost_usd": "ten"}, "routing.max_cost_usd"),
        ([], "routing"),
    ],
)
def test_bad_routing_of_a_line_is_refused(routing: Any, param: str) -> None:
    assert refused(record(routing=routing)) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"not json", b"[]", b"\x00\x01\xff", b'{"a":NaN}', b'{"a":"\\ud800"}', b'{"a":1e999}', b'"\xff"',
        b"[" * 5000 + b"]" * 5000, b'{"a":' * 400 + b"1" + b"}" * 400, b"\xef\xbb\xbf{}",
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_invalid(raw: bytes) -> None:
    assert refused(raw) == ("invalid_json_line", None)


def test_json_may_nest_to_the_limit_and_no_deeper() -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return record({"logit_bias": value})

    assert parse(nested(30)).custom_id == "a"  # the line and its body are two levels
    assert refused(nested(31)) == ("invalid_json_line", None)


def test_nul_is_refused_wherever_it_stands_and_its_spelling_is_not() -> None:
    assert refused(record(custom_id="a\0")) == ("invalid_json_line", None)
    assert refused(record({"messages": [{"role": "user", "content": "x\0"}]})) == ("invalid_json_line", None)
    assert refused(record({"a\0": 1})) == ("invalid_json_line", None)
    assert parse(record({"messages": [{"role": "user", "content": "\\u0000"}]})).custom_id == "a"


def test_a_line_over_the_limit_is_too_long() -> None:
    assert refused(b" " * 20_001) == ("line_too_long", None)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"custom_id": None}, "missing_required_parameter", "custom_id"),
        ({"custom_id": ""}, "missing_required_parameter", "custom_id"),
        ({"custom_id": 7}, "missing_required_parameter", "custom_id"),
        ({"custom_id": "x" * 513}, "unsupported_parameter", "custom_id"),
        ({"method": None}, "missing_required_parameter", "method"),
        ({"method": "GET"}, "unsupported_parameter", "method"),
        ({"url": "/v1/embeddings"}, "url_mismatch", "url"),
        ({"body": []}, "missing_required_parameter", "body"),
        ({"extra": 1}, "unsupported_parameter", "extra"),
    ],
)
def test_a_wrong_envelope_is_refused(change: dict[str, Any], code: str, param: str) -> None:
    assert refused(record() | change) == (code, param)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": None}, "missing_required_parameter", "body.model"),
        ({"model": "gpt-unheard-of"}, "model_not_found", "body.model"),
        ({"model": "router-oracle-0.5"}, "model_not_found", "body.model"),
        ({"messages": None}, "missing_required_parameter", "body.messages"),
        ({"messages": []}, "missing_required_parameter", "body.messages"),
        ({"messages": "hi"}, "unsupported_parameter", "body.messages"),
        ({"messages": ["hi"]}, "unsupported_parameter", "body.messages[0]"),
        ({"prediction": {}}, "unsupported_parameter", "body.prediction"),
        ({"service_tier": "flex"}, "unsupported_parameter", "body.service_tier"),
        ({"stream": True}, "unsupported_parameter", "body.stream"),
        ({"store": True}, "unsupported_parameter", "body.store"),
        ({"max_tokens": 0}, "unsupported_parameter", "body.max_tokens"),
        ({"max_tokens": True}, "unsupported_parameter", "body.max_tokens"),
        ({"max_tokens": 1.0}, "unsupported_parameter", "body.max_tokens"),
        ({"max_completion_tokens": "5"}, "unsupported_parameter", "body.max_completion_tokens"),
        ({"max_completion_tokens": 10**30}, "unsupported_parameter", "body.max_completion_tokens"),
        ({"n": 17}, "unsupported_parameter", "body.n"),
        ({"n": 0}, "unsupported_parameter", "body.n"),
        ({"n": True}, "unsupported_parameter", "body.n"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "body.tools[0]"),
        (
            {"tools": [{"type": "function", "function": {}}]},
            "missing_required_parameter",
            "body.tools[0].function.name",
        ),
        ({"tools": {}}, "unsupported_parameter", "body.tools"),
        ({"tool_choice": {"type": "allowed_tools"}}, "unsupported_parameter", "body.tool_choice"),
        ({"response_format": {"type": "image"}}, "unsupported_parameter", "body.response_format"),
    ],
)
def test_a_parameter_outside_the_allow_list_is_refused(change: dict[str, Any], code: str, param: str) -> None:
    assert refused(record(change)) == (code, param)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot", "content": "x"}, "role"),
        ({"role": [], "content": "x"}, "role"),
        ({"role": "user"}, "content"),
        ({"role": "assistant", "content": None}, "content"),
        ({"role": "user", "content": 5}, "content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "content[0]"),
        ({"role": "user", "content": [TEXT_PART, {"type": "input_audio"}]}, "content[1]"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, "content[0]"),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "content[0].text"),
        ({"role": "user", "content": [TEXT_PART | {"cache_control": {}}]}, "content[0].cache_control"),
        ({"role": "user", "content": "x", "audio": {"id": "a"}}, "audio"),
        ({"role": "assistant", "content": "x", "function_call": {}}, "function_call"),
        ({"role": "assistant", "tool_calls": [{"type": "custom"}]}, "tool_calls[0]"),
        ({"role": "user", "content": "x", "name": 3}, "name"),
    ],
)
def test_a_message_that_would_break_the_money_bound_is_refused(message: dict[str, Any], param: str) -> None:
    code, where = refused(record({"messages": [*HELLO, message]}))
    assert code in ("unsupported_parameter", "missing_required_parameter")
    assert where == f"body.messages[1].{param}"


def test_a_conversation_with_tools_passes() -> None:
    messages = [
        {"role": "developer", "content": [TEXT_PART]},
        {"role": "user", "content": "weather?", "name": "me"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "audio": None, "function_call": None},
        {"role": "tool", "tool_call_id": "c", "content": "rain"},
    ]
    choice = {"type": "function", "function": {"name": "f"}}
    tools = [{"type": "function", "function": {"name": "f", "strict": True}}]
    assert parse(record({"messages": messages, "tools": tools, "tool_choice": choice})).input_bytes > 0


def test_routers_see_the_last_user_message() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    conversation = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "x"},
    ]
    assert prompt_text({"messages": conversation}) == "one\ntwo"
    assert prompt_text({"messages": [{"role": "system", "content": "only"}]}) == "only"
    assert prompt_text({"messages": [{"role": "assistant", "content": None}]}) == ""


@pytest.mark.parametrize("parameter", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(("caps", "sent"), [({}, 512), ({"max_tokens": 9000}, 512), ({"max_completion_tokens": 8}, 8)])
def test_a_cap_is_always_sent_under_the_models_own_name(parameter: str, caps: dict[str, Any], sent: int) -> None:
    model = ModelSettings(**(STRONG | {"cap_parameter": parameter}))
    body = record({"stream": False, "store": None, "seed": None, "top_p": 1} | caps)["body"]
    assert upstream_body(body, model) == {
        "messages": HELLO,
        "model": "sandbox-strong",
        "top_p": 1,
        parameter: sent,
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["model", "messages", "n", "max_tokens", "tools", "tool_choice", "response_format", "stream", "stop"]
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "tool", "x"]),
            "content": st.text() | JSON | st.just([TEXT_PART]),
        },
        optional={"tool_calls": st.just([CALL]) | JSON, "name": JSON, "other": JSON},
    ),
    max_size=3,
)


@given(st.binary(max_size=200))
@example(b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"strong","messages":[{}]}}')
def test_any_bytes_give_a_line_or_a_line_error(raw: bytes) -> None:
    assert_line_or_error(raw)


@given(JSON, st.dictionaries(KEYS, JSON, max_size=3), MESSAGES, st.text(max_size=600), st.sampled_from([0, 1, 2]))
def test_any_json_gives_a_line_that_a_database_can_hold_or_a_line_error(
    routing: Any, body: dict[str, Any], messages: list[Any], custom_id: str, which: int
) -> None:
    wild: Any = [
        record(body),
        record(body | {"messages": messages}, custom_id=custom_id),
        record({"messages": messages}, routing=routing),
    ]
    assert_line_or_error(json.dumps(wild[which]).encode())


def assert_line_or_error(raw: bytes) -> None:
    try:
        line = parse_line(raw, SETTINGS)
    except LineError as error:
        for text in (error.code, error.message, error.param or ""):
            assert "\0" not in text
            text.encode()
        return
    for text in (line.custom_id, line.body, line.alias):
        assert "\0" not in text
        text.encode()
    body = orjson.loads(line.body)
    assert isinstance(prompt_text(body), str)
    sent = upstream_body(body, SETTINGS.models["strong"])
    assert 1 <= sent["max_completion_tokens"] <= 512
    assert 1 <= line.choices <= 16
    assert line.input_bytes >= sum(
        len(str(m.get("content") or "").encode()) for m in body["messages"] if isinstance(m.get("content"), str)
    )
