"""RouteLLM's published causal LLM (`routellm/causal_llm_gpt4_augmented`) as an artifact of ours.

The checkpoint is a directory of transformers with the tokens [[1]] to [[5]] at the end of its vocabulary, and two
texts: system_ft_v5.txt, and classifier_ft_v5.txt with {question} for the prompt, which are asked in Llama 3's format.
RouteLLM has the model write the assistant's header, then the label, and takes the softmax over the labels there. Here
the header is part of what is asked, so that the label is the next token: the same numbers wherever the model writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from routing_service.errors import ArtifactError, ScoringError
from routing_service.routers.transformers.causal_llm import CausalLLMRouter
from routing_service.routers.transformers.causal_prompts import SCORES, Question
from routing_service.routers.transformers.model_files import quiet
from routing_service.settings import Settings
from training.data.labels import DataError
from training.fit.causal_base import taken_apart

SYSTEM, CLASSIFIER = "system_ft_v5.txt", "classifier_ft_v5.txt"
MAX_TEXT_BYTES = 1 << 20
TURN = "<|start_header_id|>{role}<|end_header_id|>\n\n"
END = "<|eot_id|>"

__all__ = ["import_causal_llm"]


def import_causal_llm(path: Path, settings: Settings) -> CausalLLMRouter:
    """The router of a checkpoint's directory, its weights where they lie: it is made to be saved, and loaded to score.

    Nothing is fetched, no pickle is read. ArtifactError for whatever is wrong with the files.
    """
    before, after = _texts(path)
    model, tokenizer = _load(path)
    labels = _label_tokens(tokenizer, model, path)
    question = Question(SCORES.name, SCORES.labels, SCORES.wins, before, after, opens=True)
    stored = torch.bfloat16 if model.dtype == torch.bfloat16 else torch.float32
    metadata = {"seed": None, "data": {"checkpoint": path.name, "sources": {"routellm": 1}}, "metrics": {}}
    try:
        judge = replace(taken_apart(model, tokenizer, labels), stored=stored)
        return CausalLLMRouter(judge, question, precision="float", metadata=metadata)
    except (DataError, ScoringError) as error:
        raise ArtifactError(f"{path}: {error}") from error


def _texts(path: Path) -> tuple[str, str]:
    """What stands before and behind a prompt."""
    mark = "\u2402prompt\u2403"
    system, classifier = (_text(path / name).strip() for name in (SYSTEM, CLASSIFIER))
    try:
        asked = classifier.format(question=mark)
    except (KeyError, IndexError, ValueError) as error:
        raise ArtifactError(f"{path / CLASSIFIER}: it can name {{question}} only: {error!r}") from None
    if asked.count(mark) != 1:
        raise ArtifactError(f"{path / CLASSIFIER} must name {{question}} once")
    user, assistant = TURN.format(role="user"), TURN.format(role="assistant")
    whole = TURN.format(role="system") + system + END + user + asked + END + assistant
    before, _, after = whole.partition(mark)
    return before, after


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_TEXT_BYTES).decode()
    except OSError as error:
        raise ArtifactError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ArtifactError(f"{file} is no UTF-8 text") from None


def _load(path: Path) -> tuple[Any, Any]:
    if list(path.glob("*.bin")) and not list(path.glob("*.safetensors")):
        raise ArtifactError(f"{path} holds pickled weights, which are never read: get its safetensors")
    place: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, **place)
            model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", use_safetensors=True, **place)
    except Exception as error:  # transformers raises whatever it meets
        reason = str(error).strip().partition("\n")[0][:300]
        raise ArtifactError(f"{path} is no checkpoint of a causal language model: {reason}") from error
    model.train(False)
    return model, tokenizer


def _label_tokens(tokenizer: Any, model: Any, path: Path) -> Sequence[int]:
    """The tokens of the labels; RouteLLM adds them where the tokenizer's files lack them."""
    tokenizer.add_tokens(list(SCORES.labels), special_tokens=True)
    tokens: list[int] = tokenizer.convert_tokens_to_ids(list(SCORES.labels))
    if max(tokens) >= model.get_output_embeddings().weight.shape[0]:
        raise ArtifactError(f"{path}: the model's vocabulary ends before the tokens {', '.join(SCORES.labels)}")
    return tokens
