"""OpenAI's chat completion shapes: the request read and checked, the answer and the error written.

Tokens are four UTF-8 bytes each, begun ones counted: no tokenizer is worth its time here. What matters is that a count
never exceeds the bytes, as with real byte-level tokenizers, and that an answer can be cut to a cap exactly.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import orjson

MAX_CHOICES = 128
MAX_MODEL_NAME = 256
BYTES_PER_TOKEN = 4


class Refusal(Exception):
    """A call that is answered with an OpenAI error, and not billed."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(message, code=code, param=param, kind=kind or "invalid_request_error")


def error_body(message: str, *, code: str | None, param: str | None, kind: str) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


@dataclass(frozen=True, slots=True)
class ChatCall:
    model: str
    prompt: str
    """The text of the last user message, stripped."""
    messages: bytes
    """All messages, serialised compactly."""
    cap: int | None
    choices: int


def parse_call(raw: bytes) -> ChatCall:
    """Read a chat completion request; what is wrong with it is a `Refusal` with status 400."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"The body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise Refusal(400, "The body must be a JSON object.", code="invalid_type")
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_NAME:
        raise Refusal(400, "'model' must be the name of a model.", param="model", code="missing_required_parameter")
    if body.get("stream"):
        raise Refusal(
            400, "The sandbox does not stream; send 'stream': false.", param="stream", code="unsupported_value"
        )
    messages = body.get("messages")
    prompt = _last_user_text(messages)
    return ChatCall(model=model, prompt=prompt, messages=orjson.dumps(messages), cap=_cap(body), choices=_choices(body))


def _last_user_text(messages: Any) -> str:
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "'messages' must be a non-empty array.", param="messages", code="missing_required_parameter")
    texts: list[str] = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal(
                400, "A message must be an object with a role.", param=f"messages[{index}]", code="invalid_type"
            )
        text = _text(message.get("content"), index)
        if message["role"] == "user":
            texts.append(text)
    if not texts:
        raise Refusal(400, "'messages' holds no user message.", param="messages", code="invalid_value")
    return texts[-1].strip()


def _text(content: Any, index: int) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(content):
            return "".join(texts)
    raise Refusal(
        400,
        "The sandbox reads text only: 'content' must be a string or an array of text parts.",
        param=f"messages[{index}].content",
        code="invalid_type",
    )


def _cap(body: dict[str, Any]) -> int | None:
    given = [name for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    if not given:
        return None
    if len(given) == 2:
        raise Refusal(
            400,
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            param="max_tokens",
            code="invalid_parameter_combination",
        )
    return _whole_number(body[given[0]], given[0])


def _choices(body: dict[str, Any]) -> int:
    wanted = body.get("n")
    return 1 if wanted is None else _whole_number(wanted, "n", at_most=MAX_CHOICES)


def _whole_number(value: Any, name: str, at_most: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refusal(400, f"'{name}' must be an integer.", param=name, code="invalid_type")
    if value < 1 or (at_most is not None and value > at_most):
        limit = f" and at most {at_most}" if at_most else ""
        raise Refusal(400, f"'{name}' must be at least 1{limit}, but is {value}.", param=name, code="invalid_value")
    return value


@dataclass(frozen=True, slots=True)
class Completion:
    body: bytes
    output_tokens: int


def completion(
    call: ChatCall, answers: list[str], *, call_id: str, input_tokens: int, fingerprint: str, says_usage: bool = True
) -> Completion:
    """A `chat.completion` with one choice per answer, each cut to the call's cap."""
    choices: list[dict[str, Any]] = []
    output_tokens = 0
    for index, answer in enumerate(answers):
        content, tokens, was_cut = cut_to_cap(answer, call.cap)
        output_tokens += tokens
        choices.append(
            {
                "index": index,
                "message": {"role": "assistant", "content": content, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "length" if was_cut else "stop",
            }
        )
    body: dict[str, Any] = {
        "id": f"chatcmpl-{call_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.model,
        "choices": choices,
        "system_fingerprint": fingerprint,
    }
    if says_usage:
        body["usage"] = {
            "prompt_tokens": input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
    return Completion(orjson.dumps(body), output_tokens)


def count_tokens(data: bytes) -> int:
    """Tokens in `data`: at least 1, so that every call costs something, and for non-empty data at most its bytes."""
    return max(1, -(-len(data) // BYTES_PER_TOKEN))


def cut_to_cap(text: str, cap: int | None) -> tuple[str, int, bool]:
    """The text cut to at most `cap` tokens, its tokens, and whether anything was cut off."""
    data = text.encode()
    if cap is None or len(data) <= cap * BYTES_PER_TOKEN:
        return text, count_tokens(data), False
    start = data[: cap * BYTES_PER_TOKEN].decode(errors="ignore")
    return start, cap, True
