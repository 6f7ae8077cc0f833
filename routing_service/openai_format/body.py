"""A chat body: what of it is allowed, what bounds its cost, what routers see of it and what is sent upstream.

The allow-list keeps the money bound true: whatever could make a call dearer than its text and its cap say (images,
audio, files, hosted tools, service tiers, predictions, parameters nobody knows yet) is refused by name.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import orjson

from routing_service.settings import ModelSettings

MAX_CHOICES = 16
_MAX_INT = 2**31 - 1  # what the column holds; models allow far less

_CAPS = ("max_tokens", "max_completion_tokens")
_PARAMETERS = frozenset(
    [
        "messages",
        "model",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "n",
        "stop",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "response_format",
        "seed",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "user",
        "reasoning_effort",
        "verbosity",
        "stream",
        "store",
    ]
)
_NOT_FORWARDED = frozenset((*_CAPS, "model", "stream", "store"))
_ROLES = frozenset(("system", "developer", "user", "assistant", "tool"))
_MESSAGE_KEYS = frozenset(("role", "content", "name", "tool_calls", "tool_call_id", "refusal"))
_PART_KEYS = frozenset(("type", "text"))
_TOOL_KEYS = frozenset(("type", "function"))
_CALL_KEYS = frozenset(("id", "type", "function"))
_FUNCTION_KEYS = frozenset(("name", "description", "parameters", "strict", "arguments"))
_FORMATS = frozenset(("text", "json_object", "json_schema"))


class LineError(ValueError):
    """A line of a batch file is refused; becomes an entry of the batch's `errors`."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


def shown(value: object) -> str:
    """A client's value, fit for a message: quoted and short."""
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def check_body(body: dict[str, Any]) -> None:
    """LineError for the first thing in a chat body that is not allowed."""
    for key in body.keys() - _PARAMETERS:
        raise _unsupported(f"body.{key[:80]}")
    for key in ("stream", "store"):
        if body.get(key) not in (None, False):
            raise _unsupported(f"body.{key}", f"body.{key} must be false: batches do not {key}")
    messages = body.get("messages")
    if not messages and (messages is None or messages == []):
        raise LineError("missing_required_parameter", "body.messages is required: a list of messages", "body.messages")
    _check_objects(messages, "body.messages", _check_message)
    if body.get("tools") is not None:
        _check_objects(body["tools"], "body.tools", _check_tool)
    choice = body.get("tool_choice")
    if choice is not None and choice not in ("none", "auto", "required"):
        _check_tool(choice, "body.tool_choice")
    if body.get("response_format") is not None:
        _check_format(body["response_format"])


def output_cap(body: dict[str, Any]) -> int | None:
    """The client's own cap on a choice's tokens; the smaller one if both names are used."""
    caps = [_whole(body, name, 1, None) for name in _CAPS if body.get(name) is not None]
    return min(*caps, _MAX_INT) if caps else None


def choices(body: dict[str, Any]) -> int:
    return 1 if body.get("n") is None else _whole(body, "n", 1, MAX_CHOICES)


def input_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of the serialised parts that a model may read: no fewer than the input has tokens."""
    parts = (body.get(key) for key in ("messages", "tools", "tool_choice", "response_format"))
    return sum(len(orjson.dumps(part)) for part in parts if part is not None)


def prompt_text(body: dict[str, Any]) -> str:
    """What routers see: the text of the last user message, else of the last message that has any."""
    messages = body["messages"]
    users = [message for message in messages if message["role"] == "user"]
    for message in reversed(users or messages):
        content = message.get("content")
        if isinstance(content, str):
            return content
        if content:
            return "\n".join(part["text"] for part in content)
    return ""


def upstream_body(body: dict[str, Any], model: ModelSettings) -> dict[str, Any]:
    """What is sent to a model: its own name, and always a cap, so that the upstream cannot exceed what is reserved."""
    sent = {key: value for key, value in body.items() if key not in _NOT_FORWARDED and value is not None}
    sent["model"] = model.name
    sent[model.cap_parameter] = min(output_cap(body) or model.max_output_tokens, model.max_output_tokens)
    return sent


def call_digest(body: dict[str, Any]) -> bytes:
    """16 bytes that two bodies share only if the same call is sent to a model for both.

    The order of the body's own keys and of a message's does not count; that of a schema's does: answers follow it.
    """
    sent = {key: value for key, value in sorted(body.items()) if key not in _NOT_FORWARDED and value is not None}
    messages = orjson.dumps(sent.pop("messages"), option=orjson.OPT_SORT_KEYS)
    return blake2b(orjson.dumps([sent, output_cap(body)]) + messages, digest_size=16).digest()


def is_deterministic(body: dict[str, Any]) -> bool:
    """Whether the client asks for the same answer each time: temperature 0."""
    return type(body.get("temperature")) in (int, float) and body["temperature"] == 0


def _unsupported(param: str, message: str | None = None) -> LineError:
    return LineError("unsupported_parameter", message or f"{param} is not supported", param)


def _whole(body: dict[str, Any], name: str, least: int, most: int | None) -> int:
    value = body[name]
    if type(value) is not int or value < least or (most is not None and value > most):
        wanted = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
        raise _unsupported(f"body.{name}", f"body.{name} must be {wanted}, not {shown(value)}")
    return value


def _check_objects(value: Any, where: str, check: Any) -> None:
    if type(value) is not list:
        raise _unsupported(where, f"{where} must be a list of objects")
    for index, item in enumerate(value):
        check(item, f"{where}[{index}]")


def _object(value: Any, where: str, keys: frozenset[str]) -> dict[str, Any]:
    """The value as an object without unknown keys; a null counts as absent."""
    if type(value) is not dict:
        raise _unsupported(where, f"{where} must be an object")
    for key in value.keys() - keys:
        if value[key] is not None:
            raise _unsupported(f"{where}.{key[:80]}")
    return value


def _check_message(value: Any, where: str) -> None:
    message = _object(value, where, _MESSAGE_KEYS)
    role = message.get("role")
    if type(role) is not str or role not in _ROLES:
        raise _unsupported(f"{where}.role", f"{where}.role must be one of {', '.join(sorted(_ROLES))}")
    for key in ("name", "tool_call_id", "refusal"):
        if message.get(key) is not None and type(message[key]) is not str:
            raise _unsupported(f"{where}.{key}", f"{where}.{key} must be a string")
    calls = message.get("tool_calls")
    if calls is not None:
        _check_objects(calls, f"{where}.tool_calls", _check_call)
    content = message.get("content")
    if type(content) is str:
        return
    if content is None:
        if role == "assistant" and (calls or message.get("refusal")):
            return
        raise LineError("missing_required_parameter", f"{where}.content is required", f"{where}.content")
    _check_objects(content, f"{where}.content", _check_part)


def _check_part(value: Any, where: str) -> None:
    if type(value) is dict and value.get("type") != "text":
        raise _unsupported(where, f"{where}: only parts of type 'text' are supported, not {shown(value.get('type'))}")
    if type(_object(value, where, _PART_KEYS).get("text")) is not str:
        raise LineError("missing_required_parameter", f"{where}.text is required: a string", f"{where}.text")


def _check_tool(value: Any, where: str) -> None:
    if type(value) is dict and value.get("type") != "function":
        raise _unsupported(where, f"{where}: only the type 'function' is supported, not {shown(value.get('type'))}")
    _check_function(_object(value, where, _TOOL_KEYS), where)


def _check_call(value: Any, where: str) -> None:
    if type(value) is dict and value.get("type") != "function":
        raise _unsupported(where, f"{where}: only calls of type 'function' are supported")
    _check_function(_object(value, where, _CALL_KEYS), where)


def _check_function(value: dict[str, Any], where: str) -> None:
    function = _object(value.get("function"), f"{where}.function", _FUNCTION_KEYS)
    if type(function.get("name")) is not str:
        param = f"{where}.function.name"
        raise LineError("missing_required_parameter", f"{param} is required: a string", param)


def _check_format(value: Any) -> None:
    where = "body.response_format"
    kind = _object(value, where, frozenset(("type", "json_schema"))).get("type")
    if type(kind) is not str or kind not in _FORMATS:
        raise _unsupported(where, f"{where}.type must be one of {', '.join(sorted(_FORMATS))}")
