"""What a judge is asked, by versioned templates, and how its reply is read. Pure, but for the templates' files.

Answers under judgement are untrusted. They stand between lines that carry a code, which is a digest of all that is
shown: no answer can know it, so none can close its own frame. A reply counts only in the one form that was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any

from routing_service.errors import ConfigurationError

PAIRWISE, SCORE = "pairwise", "score"
FIRST, SECOND, TIE = "a", "b", "tie"  # verdicts on a pair, by the order in which its answers are shown
UNPARSED, UNANSWERED = "unparsed", "unanswered"  # a reply in no form that counts, and no reply at all

_PART = re.compile(r"\{(\w+)\}")
_SYSTEM_ENDS = "\n---\n"
_REPLIES = {
    PAIRWISE: re.compile(r"\[\[([ABC])\]\]"),
    SCORE: re.compile(r"\[\[([1-5])\]\]"),
}
_VERDICTS = {"A": FIRST, "B": SECOND, "C": TIE}


@dataclass(frozen=True, slots=True)
class Template:
    """A text with places in braces. `mode`: what is asked with it, and so which replies count."""

    name: str
    mode: str
    system: str
    user: str

    def messages(self, parts: Mapping[str, str]) -> list[dict[str, str]]:
        """The chat messages with these texts in their places. Braces within the texts stay as they are."""
        sizes = [f"{name} {len(text)}\n{text}\n" for name, text in sorted(parts.items())]
        code = blake2b("".join(sizes).encode(errors="surrogatepass"), digest_size=8).hexdigest()
        texts = {"code": code, **parts}
        filled = [_PART.sub(lambda place: texts[place[1]], text) for text in (self.system, self.user)]
        return [{"role": role, "content": text} for role, text in zip(("system", "user"), filled, strict=True)]


@cache
def template(name: str, mode: str) -> Template:
    """The template of that name. ConfigurationError where there is none for the mode."""
    known = sorted(template_names(mode))
    if name not in known:
        raise ConfigurationError(f"there is no template {name!r} for {mode} judgements. Known: {', '.join(known)}")
    text = (_directory() / f"{name}.txt").read_text(encoding="utf-8")
    system, _, user = text.strip().partition(_SYSTEM_ENDS)
    return Template(name, mode, system.strip(), user.strip())


def template_names(mode: str) -> list[str]:
    names = [file.name.removesuffix(".txt") for file in _directory().iterdir() if file.name.endswith(".txt")]
    return [name for name in names if name.startswith(f"{mode}-")]


def read_verdict(mode: str, reply: str) -> str:
    """What a judge's reply says: `a`, `b`, `tie`, or `1` to `5`; `unparsed` unless its last line is just that."""
    lines = reply.strip().splitlines()
    match = _REPLIES[mode].fullmatch(lines[-1].strip()) if lines else None
    if match is None:
        return UNPARSED
    return _VERDICTS.get(match[1], match[1])


def mode_of(name: str) -> str:
    """The mode of a template, by its name."""
    return name.partition("-")[0]


def question_of(body: Mapping[str, Any]) -> str:
    """What an answer answers: the text of the only message, else all messages, each under its role."""
    messages = [(message["role"], _text(message.get("content"))) for message in body["messages"]]
    if len(messages) == 1:
        return messages[0][1]
    return "\n\n".join(f"[{role}]\n{text}" for role, text in messages)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or [])


def _directory() -> Any:
    return files("training.label.judge") / "templates"
