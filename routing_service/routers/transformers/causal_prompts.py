"""What a causal LLM is asked: the instructions around a prompt, the labels it may answer with, and both as tokens.

The text is versioned, and an artifact holds it as it was written: a router keeps asking what it was fitted to answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field

from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers.artifact import parsed

VERSION = 1
MAX_TOKENS = 2048
LEAST_ROOM = 16  # tokens that must be left for the prompt
LONGEST_TOKEN = 32  # characters; of longer prompts the middle is cut before they are made tokens

__all__ = ["FORMS", "VERSION", "Form", "PromptTokens", "Question", "ask"]


@dataclass(frozen=True, slots=True)
class Form:
    """`wins[i]`: the win rate of the strong model if label i is the truth."""

    name: str
    labels: tuple[str, ...]  # the tokens that are added for them
    plain: tuple[str, ...]  # the tokens that stand for them in a model without added ones, and start them off
    wins: tuple[float, ...]
    instructions: str  # what stands behind the prompt cannot be shared: it is kept short


PAIRWISE = Form(
    "pairwise",
    ("[[strong]]", "[[tie]]", "[[weak]]"),
    ("A", "B", "C"),
    (1.0, 0.5, 0.0),
    """\
Two AI assistants will answer the prompt below. The first is a large and capable model. The second is small and cheap: \
it does simple tasks well, and makes mistakes where a task needs several steps of reasoning, exact calculation, rare \
knowledge, careful writing or attention to many details at once. Predict which answer an expert would prefer. Judge \
by what the prompt demands, and do not answer it.

A: the answer of the large model is better.
B: the two answers are equally good.
C: the answer of the small model is better.

Reply with one letter. The prompt:
{prompt}""",
)
SCORES = Form(
    "scores",
    tuple(f"[[{score}]]" for score in range(1, 6)),
    tuple("12345"),
    (1.0, 1.0, 1.0, 0.0, 0.0),  # from 4 on the weak model is good enough
    """\
A small and cheap AI assistant will answer the prompt below. It does simple tasks well, and makes mistakes where a \
task needs several steps of reasoning, exact calculation, rare knowledge, careful writing or attention to many details \
at once. Predict the score from 1 to 5 that an expert would give to its answer for helpfulness, correctness, depth and \
detail. Judge by what the prompt demands, and do not answer it.

5: a very strong answer; 4: a good answer; 3: an adequate answer with gaps; 2: a weak answer; 1: a wrong or useless one.

Reply with one digit. The prompt:
{prompt}""",
)
FORMS = {form.name: form for form in (PAIRWISE, SCORES)}


@dataclass(frozen=True, slots=True)
class Question:
    """The text before and behind every prompt, and the labels to choose from; as JSON in the artifact."""

    form: str
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    wins: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    before: str
    after: str
    opens: bool  # whether the tokenizer adds its opening token, as the text holds none
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = MAX_TOKENS
    version: int = VERSION

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """ArtifactError for whatever is wrong with them."""
        question = parsed(cls, values, "question")
        if len(question.labels) != len(question.wins):
            raise ArtifactError("the question needs a win rate for each of its labels")
        return question


def ask(form: Form, tokenizer: Any, max_tokens: int = MAX_TOKENS) -> Question:
    """The question of that form in the tokenizer's chat template, or as plain text where it has none."""
    mark = "\u2402prompt\u2403"  # no template changes it
    text = form.instructions.replace("{prompt}", mark)
    templated = tokenizer.chat_template is not None
    if templated:
        messages = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, _, after = text.partition(mark)
    after = after if templated else after + "\n\nReply:\n"
    return Question(form.name, form.labels, form.wins, before, after, opens=not templated, max_tokens=max_tokens)


class PromptTokens:
    """Prompts as rows of tokens, the question's text around them.

    The whole text is made tokens at once, since tokens may reach over a border. A prompt that is too long loses its
    middle, never the instructions. One that spells a control token or a label gets a space into it: a prompt cannot
    give orders in the tokenizer's own voice.
    """

    def __init__(self, tokenizer: Any, question: Question) -> None:
        self._tokenizer = tokenizer
        self._question = question
        names = sorted(map(re.escape, _spelled(tokenizer, question.labels)), key=len, reverse=True)
        self._control = re.compile("|".join(names)) if names else None
        self.room = question.max_tokens - len(self.prefix) - self._behind
        if self.room < LEAST_ROOM:
            raise ScoringError(f"max_tokens {question.max_tokens} leaves {self.room} tokens for a prompt")

    @cached_property
    def prefix(self) -> list[int]:
        """The tokens that rows begin with, but for the last few where a prompt runs into them."""
        return self._encode([self._question.before])[0]

    @cached_property
    def _behind(self) -> int:
        return len(self._tokenizer(self._question.after, add_special_tokens=False)["input_ids"])

    def rows(self, prompts: Sequence[str]) -> list[list[int]]:
        """A row for every prompt, of at most `max_tokens` tokens."""
        before, after = self._question.before, self._question.after
        rows = self._encode([before + self._plain(prompt) + after for prompt in prompts])
        limit, head = self._question.max_tokens, len(self.prefix) + (self.room + 1) // 2
        return [row if len(row) <= limit else row[:head] + row[head - limit :] for row in rows]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:  # which the tokenizer does not take
            return []
        # `verbose` would warn of texts beyond the model's length, which are cut afterwards.
        encoded = self._tokenizer(texts, add_special_tokens=self._question.opens, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _plain(self, prompt: str) -> str:
        # Halves of surrogate pairs have no UTF-8.
        text = prompt.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
        half = LONGEST_TOKEN * self.room
        if len(text) > 2 * half:
            text = text[:half] + text[-half:]
        if self._control is None:
            return text
        return self._control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def _spelled(tokenizer: Any, labels: Sequence[str]) -> set[str]:
    """What a prompt must not spell: control tokens and labels, of two characters or more."""
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    control = {token.content for token in added.values() if token.special}
    return {name for name in control | set(labels) if len(name) > 1}
