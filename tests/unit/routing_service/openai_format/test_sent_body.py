"""What is sent is what was bounded: no accepted line makes a call dearer than its reservation."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing_service.money.pricing import output_bound
from routing_service.openai_format.line import Line, parse_line, upstream_body
from tests.support.factories import chat_line, make_settings

SETTINGS = make_settings()
WEAK = SETTINGS.models["weak"]
# Everything else in a body steers the answer and is no text that a model reads.
STEERING = {
    "model", "temperature", "top_p", "n", "stop", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs",
    "top_logprobs", "seed", "parallel_tool_calls", "user", "reasoning_effort", "verbosity", WEAK.cap_parameter,
}  # fmt: skip


def _sent(line: Line) -> dict[str, Any]:
    """The body as the upstream reads it."""
    sent: dict[str, Any] = orjson.loads(orjson.dumps(upstream_body(orjson.loads(line.body), WEAK)))
    return sent


def _assert_bounded(line: Line) -> None:
    sent = _sent(line)
    assert sum(len(orjson.dumps(value)) for key, value in sent.items() if key not in STEERING) <= line.input_bytes
    most = output_bound(line.output_cap, line.choices, WEAK)
    assert sent[WEAK.cap_parameter] * sent.get("n", 1) <= most <= WEAK.max_output_tokens * line.choices


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT, st.lists, max_leaves=5
)
FUNCTION = st.fixed_dictionaries({"name": TEXT}, optional={"description": TEXT, "parameters": JSON})
TOOL = st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION})
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user"]), "content": TEXT},
    optional={"name": TEXT, "audio": st.none()},
)
CAP = st.none() | st.integers(1, 2**70)
BODY = st.fixed_dictionaries(
    {"model": st.just("routebatch-auto"), "messages": st.lists(MESSAGE, min_size=1, max_size=3)},
    optional={
        "max_tokens": CAP,
        "max_completion_tokens": CAP,
        "n": st.none() | st.integers(1, 16),
        "tools": st.none() | st.lists(TOOL, max_size=2),
        "tool_choice": st.sampled_from([None, "auto", "required"]) | TOOL,
        "response_format": st.fixed_dictionaries({"type": st.just("json_schema"), "json_schema": JSON}),
        "stop": JSON,
        "user": JSON,
        "store": st.sampled_from([None, False]),
    },
)


@given(body=BODY)
def test_whatever_is_accepted_is_sent_within_its_bounds(body: dict[str, Any]) -> None:
    try:
        raw = orjson.dumps(chat_line(body=body))
    except TypeError:  # an integer of more than 64 bits
        return
    _assert_bounded(parse_line(raw, SETTINGS))


@pytest.mark.parametrize(
    "twice",
    [
        b'"max_tokens":1,"max_tokens":400',
        b'"max_tokens":400,"max_tokens":null',
        b'"n":1,"n":16',
        b'"messages":[{"role":"user","content":"short"}]',
        b'"messages":[{"role":"user","content":"short","content":"%s"}]' % (b"long" * 100),
        b'"tools":null,"tools":[{"type":"function","function":{"name":"a","description":"%s"}}]' % (b"long" * 100),
    ],
)
def test_a_key_given_twice_counts_as_it_is_sent(twice: bytes) -> None:
    raw = orjson.dumps(chat_line(content="x" * 200)).replace(b'"messages":', twice + b',"messages":', 1)
    line = parse_line(raw, SETTINGS)
    _assert_bounded(line)
    assert line.body.count('"messages"') == 1
