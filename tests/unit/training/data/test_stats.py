"""Languages of prompts are told apart where there is enough to tell by."""

from __future__ import annotations

import pytest

from training.data.stats import UNKNOWN, language


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("Which of the two rivers is longer, and by how much?", "en"),
        ("Wie hoch ist der Eiffelturm, und wann wurde er gebaut?", "de"),
        ("¿Cuál es la capital de Perú y cuántos habitantes tiene?", "es"),
        ("你好,请介绍一下自己", "zh"),
        ("Привет, как дела? Расскажи мне сказку о лисе.", "ru"),
        ("Write a poem", UNKNOWN),  # too short
        ("12 + 7 =", UNKNOWN),
        ("", UNKNOWN),
        ("\ud800", UNKNOWN),
    ],
)
def test_prompts_have_their_language(prompt: str, code: str) -> None:
    assert language(prompt) == code
